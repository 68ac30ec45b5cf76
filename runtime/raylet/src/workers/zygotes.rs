//! The zygotes of this node, one for each key of workers: which there are, and how their starts went. Pure.
//!
//! Invariants:
//! 1. The zygote of the node's own environment stays, whatever becomes of it.
//! 2. There are at most [`MAX_OTHERS`] others. One goes when nobody has needed it for a while, when its place is needed,
//!    and when those were told who waited for it in vain.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sparkray_common::WorkerKey;

/// Zygotes besides that of the node's own environment.
pub(super) const MAX_OTHERS: usize = 16;
/// A zygote of another environment ends when nobody has needed it for this time.
pub(super) const UNUSED_AFTER: Duration = Duration::from_mins(1);
/// After a worker could not be started, the next one is not tried sooner.
pub(super) const START_PAUSE: Duration = Duration::from_millis(200);
/// Workers that fail to start, one after the other, before those who wait are told.
const MAX_START_FAILURES: u32 = 10;

#[derive(Debug)]
struct Zygote {
    /// `None` until it was started.
    pid: Option<u32>,
    /// Why no worker will ever come.
    gave_up: Option<String>,
    start_failures: u32,
    last_start_failure: String,
    paused_until: Option<Instant>,
    used_at: Instant,
}

impl Zygote {
    fn new(now: Instant) -> Self {
        Self {
            pid: None,
            gave_up: None,
            start_failures: 0,
            last_start_failure: String::new(),
            paused_until: None,
            used_at: now,
        }
    }

    fn hopeless(&self) -> Option<String> {
        if let Some(cause) = &self.gave_up {
            return Some(cause.clone());
        }
        (self.start_failures >= MAX_START_FAILURES).then(|| {
            format!(
                "{} workers in a row did not start ({})",
                self.start_failures, self.last_start_failure
            )
        })
    }
}

/// All zygotes of this node.
#[derive(Debug, Default)]
pub(super) struct Zygotes {
    known: BTreeMap<WorkerKey, Zygote>,
}

impl Zygotes {
    /// Whether workers of this key can be asked for now; somebody needs them.
    pub(super) fn need(&mut self, key: &WorkerKey, now: Instant) -> bool {
        if !self.known.contains_key(key) {
            if self.has_no_place_for(key) {
                return false;
            }
            self.known.insert(key.clone(), Zygote::new(now));
        }
        let Some(zygote) = self.known.get_mut(key) else {
            return false;
        };
        zygote.used_at = now;
        zygote.gave_up.is_none() && zygote.paused_until.is_none_or(|until| now >= until)
    }

    fn others(&self) -> usize {
        self.known.len() - usize::from(self.known.contains_key(&WorkerKey::default()))
    }

    /// Whether one has to go for a zygote with this key.
    pub(super) fn has_no_place_for(&self, key: &WorkerKey) -> bool {
        *key != WorkerKey::default() && !self.known.contains_key(key) && self.others() >= MAX_OTHERS
    }

    /// Of the zygotes that `may_go` the one that was needed longest ago: it is to end.
    pub(super) fn end_oldest(&mut self, may_go: impl Fn(&WorkerKey) -> bool) -> Option<WorkerKey> {
        let others = self
            .known
            .iter()
            .filter(|(key, _)| **key != WorkerKey::default() && may_go(key));
        let oldest = others.min_by_key(|(_, zygote)| zygote.used_at);
        let key = oldest.map(|(key, _)| key.clone())?;
        self.known.remove(&key);
        Some(key)
    }

    /// Those that nobody has needed for a while, and that `may_go`: they are to end.
    pub(super) fn end_unused(&mut self, now: Instant, may_go: impl Fn(&WorkerKey) -> bool) -> Vec<WorkerKey> {
        let unused = self.known.extract_if(.., |key, zygote| {
            let is_unused = now.saturating_duration_since(zygote.used_at) >= UNUSED_AFTER;
            *key != WorkerKey::default() && is_unused && may_go(key)
        });
        unused.map(|(key, _)| key).collect()
    }

    /// Those of other environments that start no workers: they are to end, and the next who needs one begins anew.
    pub(super) fn end_hopeless(&mut self) -> Vec<WorkerKey> {
        let hopeless = self.known.extract_if(.., |key, zygote| {
            *key != WorkerKey::default() && zygote.hopeless().is_some()
        });
        hopeless.map(|(key, _)| key).collect()
    }

    /// Why those wait in vain who wait for a worker of this key.
    pub(super) fn hopeless(&self, key: &WorkerKey) -> Option<String> {
        self.known.get(key).and_then(Zygote::hopeless)
    }

    /// Whether any of them starts no workers.
    pub(super) fn is_any_hopeless(&self) -> bool {
        self.known.values().any(|zygote| zygote.hopeless().is_some())
    }

    /// A zygote was started.
    pub(super) fn started(&mut self, key: &WorkerKey, pid: u32) {
        if let Some(zygote) = self.known.get_mut(key) {
            zygote.pid = Some(pid);
        }
    }

    /// Their pids.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.known.values().filter_map(|zygote| zygote.pid)
    }

    /// No worker will come from it.
    pub(super) fn gave_up(&mut self, key: &WorkerKey, cause: String) {
        if let Some(zygote) = self.known.get_mut(key) {
            zygote.gave_up = Some(cause);
        }
    }

    /// A worker of this key did not start.
    pub(super) fn start_failed(&mut self, key: &WorkerKey, cause: String, now: Instant) {
        if let Some(zygote) = self.known.get_mut(key) {
            zygote.start_failures += 1;
            zygote.last_start_failure = cause;
            zygote.paused_until = Some(now + START_PAUSE);
        }
    }

    /// A worker of this key registered.
    pub(super) fn worker_started(&mut self, key: &WorkerKey) {
        if let Some(zygote) = self.known.get_mut(key) {
            zygote.start_failures = 0;
        }
    }

    /// Whether a pause has ended since the last look.
    pub(super) fn end_pauses(&mut self, now: Instant) -> bool {
        let mut any = false;
        for zygote in self.known.values_mut() {
            if zygote.paused_until.is_some_and(|until| now >= until) {
                zygote.paused_until = None;
                any = true;
            }
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use sparkray_common::{Language, RuntimeEnvironment};

    use super::*;

    fn key(value: usize) -> WorkerKey {
        let environment = RuntimeEnvironment::new([("N".to_owned(), value.to_string())].into());
        WorkerKey {
            language: Language::Python,
            environment: environment.unwrap(),
        }
    }

    #[test]
    fn there_are_so_many_and_the_one_needed_longest_ago_gives_way() {
        let now = Instant::now();
        let mut zygotes = Zygotes::default();
        assert!(zygotes.need(&WorkerKey::default(), now));
        for index in 0..MAX_OTHERS {
            assert!(!zygotes.has_no_place_for(&key(index)));
            assert!(zygotes.need(&key(index), now + Duration::from_secs(index as u64)));
        }
        assert!(zygotes.has_no_place_for(&key(MAX_OTHERS)));
        assert!(!zygotes.has_no_place_for(&key(1)));
        let later = now + Duration::from_secs(100);
        assert!(!zygotes.need(&key(MAX_OTHERS), later));
        assert!(zygotes.need(&key(0), later));
        assert_eq!(zygotes.end_oldest(|other| *other != key(1)), Some(key(2)));
        assert!(zygotes.need(&key(MAX_OTHERS), later));
        assert_eq!(zygotes.end_oldest(|_| false), None);
    }

    #[test]
    fn unused_ones_end_but_for_that_of_the_node() {
        let now = Instant::now();
        let mut zygotes = Zygotes::default();
        zygotes.need(&WorkerKey::default(), now);
        zygotes.need(&key(1), now);
        zygotes.need(&key(2), now + Duration::from_secs(1));
        assert!(zygotes.end_unused(now, |_| true).is_empty());
        assert!(zygotes.end_unused(now + UNUSED_AFTER, |_| false).is_empty());
        assert_eq!(zygotes.end_unused(now + UNUSED_AFTER, |_| true), [key(1)]);
    }

    #[test]
    fn one_that_starts_no_workers_is_named_and_begins_anew() {
        let now = Instant::now();
        let mut zygotes = Zygotes::default();
        let own = WorkerKey::default();
        for key in [&own, &key(1)] {
            zygotes.need(key, now);
            zygotes.gave_up(key, "no such file".to_owned());
            assert!(!zygotes.need(key, now));
            assert_eq!(zygotes.hopeless(key), Some("no such file".to_owned()));
        }
        assert_eq!(zygotes.end_hopeless(), [key(1)]);
        assert!(zygotes.is_any_hopeless());
        assert!(zygotes.need(&key(1), now));
        assert_eq!(zygotes.hopeless(&key(1)), None);
    }

    #[test]
    fn a_worker_that_did_not_start_makes_the_next_wait() {
        let now = Instant::now();
        let mut zygotes = Zygotes::default();
        zygotes.need(&key(1), now);
        for _ in 0..MAX_START_FAILURES {
            assert_eq!(zygotes.hopeless(&key(1)), None);
            zygotes.start_failed(&key(1), "it did not register".to_owned(), now);
        }
        assert!(zygotes.hopeless(&key(1)).unwrap().contains("it did not register"));
        zygotes.worker_started(&key(1));
        assert_eq!(zygotes.hopeless(&key(1)), None);
        assert!(!zygotes.need(&key(1), now));
        assert!(!zygotes.end_pauses(now));
        assert!(zygotes.end_pauses(now + START_PAUSE));
        assert!(zygotes.need(&key(1), now));
    }
}
