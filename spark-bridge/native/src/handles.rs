//! What Java holds instead of an address: the key of a table entry, with a generation that makes a stale key useless.
//!
//! Invariants:
//! 1. A key is never 0, so that Java can use 0 for "none".
//! 2. A key that was removed is refused for ever, although its slot is used again.
//! 3. The table's lock is held only to look up: callers get a shared owner.

use std::sync::Arc;

use sparkray_common::ErrorCode;
use sparkray_common::sync::Mutex;

use crate::error::NativeError;

/// Slots are numbered in the lower half of a key, generations in the upper.
const SLOT_BITS: u32 = 32;

/// A table of native things that Java owns.
#[derive(Debug)]
pub struct Handles<T> {
    what: &'static str,
    slots: Mutex<Vec<Slot<T>>>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    entry: Option<Arc<T>>,
}

impl<T> Handles<T> {
    /// An empty table; `what` names its entries in messages.
    pub const fn new(what: &'static str) -> Self {
        Self {
            what,
            slots: Mutex::new(Vec::new()),
        }
    }

    /// Adds an entry and returns its key.
    pub fn insert(&self, entry: T) -> i64 {
        let entry = Some(Arc::new(entry));
        let mut slots = self.slots.lock();
        let free = slots
            .iter()
            .position(|slot| slot.entry.is_none() && slot.generation < i32::MAX as u32);
        let index = free.unwrap_or_else(|| {
            slots.push(Slot {
                generation: 0,
                entry: None,
            });
            slots.len() - 1
        });
        let slot = &mut slots[index];
        slot.generation += 1;
        slot.entry = entry;
        (i64::from(slot.generation) << SLOT_BITS) | index as i64
    }

    /// The entry of a key.
    pub fn get(&self, key: i64) -> Result<Arc<T>, NativeError> {
        let slots = self.slots.lock();
        let (index, generation) = parts(key);
        let entry = slots
            .get(index)
            .filter(|slot| slot.generation == generation)
            .and_then(|slot| slot.entry.clone());
        entry.ok_or_else(|| {
            NativeError::refused(
                ErrorCode::NotRunning,
                format!("this {} was closed already", self.what),
            )
        })
    }

    /// Removes an entry; nothing when it was removed before.
    pub fn remove(&self, key: i64) -> Option<Arc<T>> {
        let mut slots = self.slots.lock();
        let (index, generation) = parts(key);
        slots
            .get_mut(index)
            .filter(|slot| slot.generation == generation)
            .and_then(|slot| slot.entry.take())
    }
}

fn parts(key: i64) -> (usize, u32) {
    ((key & i64::from(u32::MAX)) as usize, (key >> SLOT_BITS) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_key_is_refused_even_when_its_slot_is_used_again() {
        let handles = Handles::new("thing");
        let first = handles.insert("first");
        assert_ne!(first, 0);
        assert_eq!(*handles.get(first).unwrap(), "first");
        assert!(handles.remove(first).is_some());
        assert!(handles.remove(first).is_none());
        let second = handles.insert("second");
        assert_ne!(first, second);
        assert!(handles.get(first).is_err());
        assert_eq!(*handles.get(second).unwrap(), "second");
        assert!(handles.get(0).is_err());
        assert!(handles.get(-1).is_err());
    }
}
