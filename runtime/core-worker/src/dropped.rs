//! What finalizers leave behind: references, handles and mappings that are not used any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sparkray_common::sync::Mutex;
use sparkray_common::{ActorId, ObjectId};

use crate::fork;
use crate::kick::Kick;

/// Whether a handle keeps its actor alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandleKind {
    /// It does.
    Counted,
    /// It was looked up by the actor's name, and does not.
    Weak,
}

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
