//! Values in the node's shared memory, as this process sees them.

use std::sync::Arc;

use parking_lot::Mutex;
use sparkray_common::{ActorId, ObjectId};
use sparkray_object_store::MappedRange;

/// What was dropped by code that must not wait: finalizers run anywhere, under any lock.
#[derive(Debug, Default)]
pub(crate) struct Dropped {
    pub(crate) mappings: Vec<ObjectId>,
    pub(crate) references: Vec<ObjectId>,
    pub(crate) actor_handles: Vec<ActorId>,
}

pub(crate) type DropQueue = Arc<Mutex<Dropped>>;

/// A sealed object, mapped read-only. The store keeps its range while this lives.
#[derive(Debug)]
pub struct StoredValue {
    object_id: ObjectId,
    range: MappedRange,
    dropped: DropQueue,
}

impl StoredValue {
    pub(crate) fn new(object_id: ObjectId, range: MappedRange, dropped: DropQueue) -> Self {
        Self {
            object_id,
            range,
            dropped,
        }
    }

    /// The whole value, header first.
    pub fn as_slice(&self) -> &[u8] {
        self.range.as_slice()
    }
}

impl Drop for StoredValue {
    fn drop(&mut self) {
        self.dropped.lock().mappings.push(self.object_id);
    }
}
