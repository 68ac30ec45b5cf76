//! Errors that nobody asked for: the user hears of them when the last reference goes, or when a task fails whose references
//! have gone. An interactive driver, which may keep references for ever, also tells of those that were kept for a while. No
//! more than [`PER_SECOND`]: the rest is counted.

use bytes::Bytes;
use sparkray_common::ObjectId;

use super::{Object, Objects, Value};
use crate::state::links::{Links, Timer};
use crate::state::outbox::Notice;

const PER_SECOND: u32 = 10;
const SECOND: u64 = 1_000_000;
/// How long an error may be kept before an interactive driver tells of it.
const KEPT: u64 = 5 * SECOND;
/// Kept errors that are watched at once; others are told when their references go.
const MAX_KEPT: usize = 1000;

/// Of which errors that nobody asked for this process tells.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnhandledErrors {
    /// Of none.
    #[default]
    None,
    /// Of those without references.
    Forgotten,
    /// Also of those whose references were kept for a while.
    Kept,
}

/// What was told lately.
#[derive(Debug, Default)]
pub(super) struct Unhandled {
    pub(super) told: UnhandledErrors,
    /// Kept errors that are watched.
    kept: usize,
    second: u64,
    told_in_second: u32,
    /// Not told since the last that was.
    left_out: u64,
}

impl Unhandled {
    /// How many were left out before this one; `None`: it is to be left out too.
    fn admit(&mut self, now: u64) -> Option<u64> {
        let second = now / SECOND;
        if second != self.second {
            (self.second, self.told_in_second) = (second, 0);
        }
        if self.told_in_second >= PER_SECOND {
            self.left_out += 1;
            return None;
        }
        self.told_in_second += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Objects {
    /// An object is forgotten that is no mere argument of a task that runs.
    pub(super) fn note_forgotten(&mut self, links: &mut Links, object: &Object) {
        if !object.was_looked_at && object.owner.is_none() {
            self.tell_unhandled(links, &object.value);
        }
    }

    /// Somebody had a hand in whatever becomes of an object: no error of it is unhandled.
    pub(in crate::state) fn expect_error(&mut self, id: ObjectId) {
        if let Some(object) = self.table.get_mut(&id) {
            object.was_looked_at = true;
        }
    }

    /// The result of a task may be an error, and perhaps nobody has a reference to it any more.
    pub(super) fn note_error(&mut self, links: &mut Links, id: ObjectId, value: &Value) {
        if !matches!(value, Value::Raised(_)) {
            return;
        }
        if !self.contains(&id) {
            self.tell_unhandled(links, value);
        } else if self.unhandled.told == UnhandledErrors::Kept && self.unhandled.kept < MAX_KEPT {
            self.unhandled.kept += 1;
            links.timers.set(links.process.now + KEPT, Timer::KeptError(id));
        }
    }

    /// An error has been known for a while.
    pub(in crate::state) fn error_was_kept(&mut self, links: &mut Links, id: ObjectId) {
        self.unhandled.kept = self.unhandled.kept.saturating_sub(1);
        let Some(object) = self.table.get_mut(&id) else {
            return;
        };
        if !object.was_looked_at {
            // Once is enough.
            object.was_looked_at = true;
            let value = object.value.clone();
            self.tell_unhandled(links, &value);
        }
    }

    fn tell_unhandled(&mut self, links: &mut Links, value: &Value) {
        let (true, Value::Raised(bytes)) = (self.unhandled.told >= UnhandledErrors::Forgotten, value) else {
            return;
        };
        if let Some(left_out) = self.unhandled.admit(links.process.now) {
            let error: Bytes = bytes.clone();
            links.out.notify(Notice::UnhandledError { error, left_out });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_its_size_told_with_the_next() {
        let mut unhandled = Unhandled::default();
        for _ in 0..PER_SECOND {
            assert_eq!(unhandled.admit(SECOND), Some(0));
        }
        for _ in 0..3 {
            assert_eq!(unhandled.admit(SECOND + 5), None);
        }
        assert_eq!(unhandled.admit(2 * SECOND), Some(3));
        assert_eq!(unhandled.admit(2 * SECOND), Some(0));
    }
}
