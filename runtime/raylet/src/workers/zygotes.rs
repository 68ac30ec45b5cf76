//! The zygotes of this node, one for each key of workers: which there are, and how their starts went. Pure.
//!
//! Invariants:
//! 1. The zygote of the node's own environment stays, whatever becomes of it.
//! 2. There are at most [`MAX_OTHERS`] others. One goes when nobody has needed it for a while, when its place is needed,
//!    and when those were told who waited for it in vain.
//! 3. A number is never used again: news of a zygote that has gone is none of its successor with the same key.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sparkray_common::WorkerKey;

/// The number of the zygote of the node's own environment.
pub(crate) const OWN: u64 = 0;
/// Zygotes besides that of the node's own environment.
pub(super) const MAX_OTHERS: usize = 16;
/// A zygote of another environment ends when nobody has needed it for this time.
pub(super) const UNUSED_AFTER: Duration = Duration::from_mins(1);
/// After a worker could not be started, the next one is not tried sooner.
pub(super) const START_PAUSE: Duration = Duration::from_millis(200);
/// Workers that fail to start, one after the other, before those who wait are told.
const MAX_START_FAILURES: u32 = 10;

/// A zygote that can be asked for workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) number: u64,
    /// Its imports are done.
    pub(super) is_ready: bool,
}

#[derive(Debug)]
struct Zygote {
    number: u64,
    /// `None` until it was started.
    pid: Option<u32>,
    is_ready: bool,
    /// Why no worker will ever come.
    gave_up: Option<String>,
    start_failures: u32,
    last_start_failure: String,
    paused_until: Option<Instant>,
    /// When it was needed last.
    used_at: Option<Instant>,
}

impl Zygote {
    fn new(number: u64) -> Self {
        Self {
            number,
            pid: None,
            is_ready: false,
            gave_up: None,
            start_failures: 0,
            last_start_failure: String::new(),
            paused_until: None,
            used_at: None,
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
#[derive(Debug)]
pub(super) struct Zygotes {
    known: BTreeMap<WorkerKey, Zygote>,
    last_number: u64,
}

impl Zygotes {
    /// That of the node's own environment.
    pub(super) fn new() -> Self {
        Self {
            known: [(WorkerKey::default(), Zygote::new(OWN))].into(),
            last_number: OWN,
        }
    }

    /// The zygote that can be asked for workers of this key now, which somebody needs; one that is to be started, when
    /// there was none.
    pub(super) fn need(&mut self, key: &WorkerKey, now: Instant) -> Option<Asked> {
        if !self.known.contains_key(key) {
            if self.has_no_place_for(key) {
                return None;
            }
            self.last_number += 1;
            self.known.insert(key.clone(), Zygote::new(self.last_number));
        }
        let zygote = self.known.get_mut(key)?;
        zygote.used_at = Some(now);
        let may_be_asked = zygote.gave_up.is_none() && zygote.paused_until.is_none_or(|until| now >= until);
        may_be_asked.then_some(Asked {
            number: zygote.number,
            is_ready: zygote.is_ready,
        })
    }

    /// Whether one has to go for a zygote with this key.
    pub(super) fn has_no_place_for(&self, key: &WorkerKey) -> bool {
        !self.known.contains_key(key) && self.known.len() > MAX_OTHERS
    }

    /// Of the zygotes whose key `may_go` the one that was needed longest ago: it is to end.
    pub(super) fn end_oldest(&mut self, may_go: impl Fn(&WorkerKey, u64) -> bool) -> Option<u64> {
        let others = self
            .known
            .iter()
            .filter(|(key, zygote)| zygote.number != OWN && may_go(key, zygote.number));
        let oldest = others.min_by_key(|(_, zygote)| zygote.used_at);
        let key = oldest.map(|(key, _)| key.clone())?;
        self.known.remove(&key).map(|zygote| zygote.number)
    }

    /// Those that nobody has needed for a while, and that `may_go`: they are to end.
    pub(super) fn end_unused(&mut self, now: Instant, may_go: impl Fn(u64) -> bool) -> Vec<u64> {
        self.end(|zygote| {
            let is_unused = zygote
                .used_at
                .is_none_or(|used| now.saturating_duration_since(used) >= UNUSED_AFTER);
            is_unused && may_go(zygote.number)
        })
    }

    /// Those of other environments that start no workers: they are to end, and the next who needs one begins anew.
    pub(super) fn end_hopeless(&mut self) -> Vec<u64> {
        self.end(|zygote| zygote.hopeless().is_some())
    }

    fn end(&mut self, is_to_end: impl Fn(&Zygote) -> bool) -> Vec<u64> {
        let ended = self
            .known
            .extract_if(.., |_, zygote| zygote.number != OWN && is_to_end(zygote));
        ended.map(|(_, zygote)| zygote.number).collect()
    }

    /// Why those wait in vain who wait for a worker of this key.
    pub(super) fn hopeless(&self, key: &WorkerKey) -> Option<String> {
        self.known.get(key).and_then(Zygote::hopeless)
    }

    /// Whether any of them starts no workers.
    pub(super) fn is_any_hopeless(&self) -> bool {
        self.known.values().any(|zygote| zygote.hopeless().is_some())
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Zygote> {
        self.known.values_mut().find(|zygote| zygote.number == number)
    }

    /// A zygote was started.
    pub(super) fn started(&mut self, number: u64, pid: u32) {
        if let Some(zygote) = self.get_mut(number) {
            zygote.pid = Some(pid);
            zygote.is_ready = false;
        }
    }

    /// A zygote can fork.
    pub(super) fn ready(&mut self, number: u64) {
        if let Some(zygote) = self.get_mut(number) {
            zygote.is_ready = true;
        }
    }

    /// Their pids.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.known.values().filter_map(|zygote| zygote.pid)
    }

    /// No worker will come from it.
    pub(super) fn gave_up(&mut self, number: u64, cause: String) {
        if let Some(zygote) = self.get_mut(number) {
            zygote.gave_up = Some(cause);
        }
    }

    /// A worker did not start.
    pub(super) fn start_failed(&mut self, number: u64, cause: String, now: Instant) {
        if let Some(zygote) = self.get_mut(number) {
            zygote.start_failures += 1;
            zygote.last_start_failure = cause;
            zygote.paused_until = Some(now + START_PAUSE);
        }
    }

    /// A worker registered.
    pub(super) fn worker_started(&mut self, number: u64) {
        if let Some(zygote) = self.get_mut(number) {
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
#[path = "zygotes_tests.rs"]
mod tests;
