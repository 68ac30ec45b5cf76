//! A moment that one process writes into shared memory and others read, without locks.

use std::time::Duration;

/// Bytes of an encoded moment.
pub const MOMENT_LEN: usize = 24;

/// Whose zero a moment counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MomentClock {
    /// CLOCK_MONOTONIC: stands still while the machine is suspended.
    Monotonic,
    /// CLOCK_BOOTTIME: goes on.
    Boottime,
}

/// A point of time on one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedMoment {
    /// The clock that it is a time of.
    pub clock: MomentClock,
    /// Distance from the clock's zero.
    pub at: Duration,
}

impl SharedMoment {
    /// To be written in one piece. A reader that sees half of an old and half of a new one knows it.
    pub fn encode(self) -> [u8; MOMENT_LEN] {
        let clock: u64 = match self.clock {
            MomentClock::Monotonic => 1,
            MomentClock::Boottime => 2,
        };
        let nanos = u64::try_from(self.at.as_nanos()).unwrap_or(u64::MAX);
        let mut bytes = [0; MOMENT_LEN];
        for (place, word) in [clock, nanos, !(clock ^ nanos)].into_iter().enumerate() {
            bytes[place * 8..(place + 1) * 8].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// `None` when it was being written, or never was.
    pub fn decode(bytes: &[u8; MOMENT_LEN]) -> Option<Self> {
        let mut words = [0; 3];
        for (place, word) in words.iter_mut().enumerate() {
            let mut part = [0; 8];
            part.copy_from_slice(&bytes[place * 8..(place + 1) * 8]);
            *word = u64::from_le_bytes(part);
        }
        let [clock, nanos, check] = words;
        let clock = match clock {
            1 if check == !(1 ^ nanos) => MomentClock::Monotonic,
            2 if check == !(2 ^ nanos) => MomentClock::Boottime,
            _ => return None,
        };
        Some(Self {
            clock,
            at: Duration::from_nanos(nanos),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_as_written_and_half_of_one_is_not_read() {
        let first = SharedMoment {
            clock: MomentClock::Boottime,
            at: Duration::from_millis(12_345),
        };
        let second = SharedMoment {
            clock: MomentClock::Boottime,
            at: Duration::MAX,
        };
        assert_eq!(SharedMoment::decode(&first.encode()), Some(first));
        assert!(SharedMoment::decode(&second.encode()).is_some());
        let mut torn = second.encode();
        torn[..16].copy_from_slice(&first.encode()[..16]);
        assert_eq!(SharedMoment::decode(&torn), None);
        assert_eq!(SharedMoment::decode(&[0; MOMENT_LEN]), None);
    }
}
