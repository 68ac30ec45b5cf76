//! Values in the node's shared memory, as this process sees them, and what finalizers leave behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sparkray_common::sync::Mutex;
use sparkray_common::{ActorId, ObjectId};
use sparkray_object_store::MappedRange;

use crate::fork;
use crate::kick::Kick;
use crate::state::HandleKind;

/// What was dropped.
#[derive(Debug, Default)]
pub(crate) struct Dropped {
    pub(crate) mappings: Vec<ObjectId>,
    pub(crate) references: Vec<ObjectId>,
    pub(crate) actor_handles: Vec<(ActorId, HandleKind)>,
}

/// Takes what is dropped by code that must not wait: finalizers run anywhere, under any lock. The state takes it over
/// at the next occasion.
#[derive(Debug)]
pub(crate) struct DropQueue {
    dropped: Mutex<Dropped>,
    filled: AtomicBool,
    kick: Arc<Kick>,
    generation: u64,
}

impl DropQueue {
    pub(crate) fn new(kick: Arc<Kick>) -> Self {
        Self {
            dropped: Mutex::new(Dropped::default()),
            filled: AtomicBool::new(false),
            kick,
            generation: fork::generation(),
        }
    }

    /// Adds to what was dropped.
    pub(crate) fn add(&self, add: impl FnOnce(&mut Dropped)) {
        if fork::generation() != self.generation {
            // A child that user code forked: nothing here is its own, and the lock may be held by nobody.
            return;
        }
        add(&mut self.dropped.lock());
        // Whoever took the queue before the lock was ours has cleared the flag before that, so looking first misses nothing.
        if !self.filled.load(Ordering::Acquire) && !self.filled.swap(true, Ordering::AcqRel) {
            self.kick.later();
        }
    }

    /// Moves what was dropped to `taken`, which is empty. False: there is nothing.
    pub(crate) fn take(&self, taken: &mut Dropped) -> bool {
        if !self.filled.swap(false, Ordering::AcqRel) {
            return false;
        }
        std::mem::swap(&mut *self.dropped.lock(), taken);
        true
    }
}

/// A sealed object, mapped read-only. The store keeps its range while this lives.
#[derive(Debug)]
pub struct StoredValue {
    object_id: ObjectId,
    memory: Memory,
    dropped: Arc<DropQueue>,
}

#[derive(Debug)]
enum Memory {
    Mapped(MappedRange),
    #[cfg(test)]
    Own(Vec<u8>),
}

impl StoredValue {
    pub(crate) fn new(object_id: ObjectId, range: MappedRange, dropped: Arc<DropQueue>) -> Self {
        Self {
            object_id,
            memory: Memory::Mapped(range),
            dropped,
        }
    }

    #[cfg(test)]
    pub(crate) fn for_test(object_id: ObjectId, bytes: Vec<u8>, dropped: Arc<DropQueue>) -> Self {
        Self {
            object_id,
            memory: Memory::Own(bytes),
            dropped,
        }
    }

    /// The whole value, header first.
    pub fn as_slice(&self) -> &[u8] {
        match &self.memory {
            Memory::Mapped(range) => range.as_slice(),
            #[cfg(test)]
            Memory::Own(bytes) => bytes,
        }
    }
}

impl Drop for StoredValue {
    fn drop(&mut self) {
        self.dropped.add(|dropped| dropped.mappings.push(self.object_id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_taken_once() {
        let queue = DropQueue::new(Arc::new(Kick::new().unwrap()));
        let mut taken = Dropped::default();
        assert!(!queue.take(&mut taken));
        let actor = ActorId::random();
        queue.add(|dropped| dropped.actor_handles.push((actor, HandleKind::Counted)));
        queue.add(|dropped| dropped.actor_handles.push((actor, HandleKind::Weak)));
        assert!(queue.take(&mut taken));
        assert_eq!(
            taken.actor_handles,
            [(actor, HandleKind::Counted), (actor, HandleKind::Weak)]
        );
        assert!(!queue.take(&mut Dropped::default()));
    }
}
