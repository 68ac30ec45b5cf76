//! Values in the node's shared memory, as this process sees them.

use std::sync::Arc;

use sparkray_common::ObjectId;
use sparkray_object_store::MappedRange;

use crate::dropped::DropQueue;

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
