//! When a child that died is started again. Pure: the caller brings the clock.

use std::collections::VecDeque;
use std::time::Duration;

/// Pauses before the first, second, … restart within the window; the last one repeats.
const PAUSES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// What to do about a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Start again after this pause.
    Restart {
        /// How long to wait first.
        after: Duration,
    },
    /// It died too often: leave it.
    GiveUp,
}

/// Counts deaths within a sliding window.
#[derive(Debug, Clone)]
pub struct RestartPolicy {
    window: Duration,
    cap: usize,
    /// Times of the deaths in the window, oldest first.
    deaths: VecDeque<Duration>,
}

impl Default for RestartPolicy {
    /// Five restarts a minute.
    fn default() -> Self {
        Self::new(5, Duration::from_mins(1))
    }
}

impl RestartPolicy {
    /// At most `cap` restarts within `window`.
    pub fn new(cap: usize, window: Duration) -> Self {
        Self {
            window,
            cap,
            deaths: VecDeque::new(),
        }
    }

    /// Decides about a death at `now`, which counts from any fixed moment.
    pub fn on_death(&mut self, now: Duration) -> Decision {
        while self
            .deaths
            .front()
            .is_some_and(|death| now.saturating_sub(*death) >= self.window)
        {
            self.deaths.pop_front();
        }
        if self.deaths.len() >= self.cap {
            return Decision::GiveUp;
        }
        let after = PAUSES[self.deaths.len().min(PAUSES.len() - 1)];
        self.deaths.push_back(now);
        Decision::Restart { after }
    }
}

/// Pauses between the attempts of a raylet that cannot reach the head; the last one repeats, for as long as it takes.
const CUT_OFF_PAUSES: [Duration; 4] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// Counts the attempts of one raylet that was cut off, since it last reached the head.
#[derive(Debug, Clone, Default)]
pub(crate) struct CutOffs(usize);

impl CutOffs {
    /// It was cut off again.
    pub(crate) fn next(&mut self) -> Decision {
        let after = CUT_OFF_PAUSES[self.0.min(CUT_OFF_PAUSES.len() - 1)];
        self.0 += 1;
        Decision::Restart { after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(amount: u64) -> Duration {
        Duration::from_secs(amount)
    }

    #[test]
    fn the_first_restart_is_at_once_and_the_pauses_grow() {
        let mut policy = RestartPolicy::default();
        let pauses: Vec<Decision> = (0..6).map(|second| policy.on_death(seconds(second))).collect();
        let restart = |millis| Decision::Restart {
            after: Duration::from_millis(millis),
        };
        assert_eq!(
            pauses,
            [
                restart(0),
                restart(200),
                restart(500),
                restart(1000),
                restart(2000),
                Decision::GiveUp
            ]
        );
    }

    #[test]
    fn old_deaths_are_forgotten() {
        let mut policy = RestartPolicy::default();
        for second in 0..5 {
            policy.on_death(seconds(second));
        }
        assert_eq!(policy.on_death(seconds(5)), Decision::GiveUp);
        assert_eq!(
            policy.on_death(seconds(120)),
            Decision::Restart {
                after: Duration::ZERO
            }
        );
    }

    #[test]
    fn a_raylet_that_is_cut_off_is_started_again_without_end() {
        let mut cut_offs = CutOffs::default();
        let pauses: Vec<Decision> = (0..100).map(|_| cut_offs.next()).collect();
        let restart = |after| Decision::Restart { after };
        assert_eq!(pauses[0], restart(Duration::from_millis(200)));
        assert_eq!(pauses[3..], vec![restart(seconds(5)); 97]);
    }

    proptest! {
        #[test]
        fn never_more_than_the_cap_within_the_window(gaps in prop::collection::vec(0_u64..40, 1..100)) {
            let mut policy = RestartPolicy::default();
            let mut now = 0;
            let mut restarts: Vec<u64> = Vec::new();
            for gap in gaps {
                now += gap;
                if policy.on_death(seconds(now)) != Decision::GiveUp {
                    restarts.push(now);
                }
            }
            for (index, start) in restarts.iter().enumerate() {
                let within = restarts[index..].iter().filter(|time| **time < start + 60).count();
                prop_assert!(within <= 5);
            }
        }
    }
}
