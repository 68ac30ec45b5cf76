//! Errors that nobody asked for: a driver tells its user about them when the last reference goes, or when a task fails
//! whose references have gone. No more than [`PER_SECOND`]: the rest is counted.

use bytes::Bytes;
use sparkray_common::ObjectId;

use super::objects::{Object, Value};
use super::{Notice, State};

const PER_SECOND: u32 = 10;
const SECOND: u64 = 1_000_000;

/// What was told lately.
#[derive(Debug, Default)]
pub(crate) struct Unhandled {
    /// This process tells.
    pub(crate) is_told: bool,
    second: u64,
    told: u32,
    /// Not told since the last that was.
    left_out: u64,
}

impl Unhandled {
    /// How many were left out before this one; `None`: it is to be left out too.
    fn admit(&mut self, now: u64) -> Option<u64> {
        let second = now / SECOND;
        if second != self.second {
            (self.second, self.told) = (second, 0);
        }
        if self.told >= PER_SECOND {
            self.left_out += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl State {
    /// An object of this process is forgotten.
    pub(super) fn note_forgotten(&mut self, object: &Object) {
        if object.is_error && !object.was_looked_at && object.owner.is_none() && !object.is_argument {
            self.tell_unhandled(&object.value);
        }
    }

    /// The result of a task is an error. Perhaps nobody has a reference to it any more.
    pub(super) fn note_error(&mut self, id: ObjectId, value: &Value) {
        if !self.objects.contains_key(&id) {
            self.tell_unhandled(value);
        }
    }

    fn tell_unhandled(&mut self, value: &Value) {
        // What is in a store would have to be read first.
        let (true, Value::Inline(bytes)) = (self.unhandled.is_told, value) else {
            return;
        };
        if let Some(left_out) = self.unhandled.admit(self.now) {
            let error: Bytes = bytes.clone();
            self.notify(Notice::UnhandledError { error, left_out });
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
