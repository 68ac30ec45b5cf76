//! Bytes that this process holds for calls that are not finished, and for values that were put and are not in the store.
//! Whoever submits calls waits while the arguments of those that are not finished are too many bytes (ADR 0018).

use sparkray_common::ObjectId;

use super::{Objects, Value};
use crate::hash::IdMap;
use crate::state::limits::{MAX_INLINE_ARGUMENTS, MAX_STORED_ARGUMENTS};

/// What is held, in bytes.
#[derive(Debug, Default)]
pub(super) struct HeldBytes {
    /// Inline values that were put.
    pub(super) put: usize,
    /// Arguments that travel with calls that are not finished.
    arguments: usize,
    /// Long arguments of such calls, which lie in the store.
    stored: IdMap<ObjectId, u64>,
    stored_sum: u64,
}

impl HeldBytes {
    /// An object is forgotten.
    pub(super) fn forget(&mut self, id: &ObjectId, put: usize) {
        self.put -= put;
        if !self.stored.is_empty() {
            if let Some(size) = self.stored.remove(id) {
                self.stored_sum -= size;
            }
        }
    }

    pub(super) fn is_zero(&self) -> bool {
        self.put == 0 && self.arguments == 0 && self.stored.is_empty() && self.stored_sum == 0
    }
}

impl Objects {
    /// Bytes that this process holds inline for calls and put values.
    pub(crate) fn inline_bytes(&self) -> usize {
        self.bytes.arguments + self.bytes.put
    }

    /// Whether the arguments of another call may be held.
    pub(in crate::state) fn has_room(&self) -> bool {
        self.bytes.arguments < MAX_INLINE_ARGUMENTS && self.bytes.stored_sum < MAX_STORED_ARGUMENTS
    }

    /// The arguments of a call are held.
    pub(in crate::state) fn hold_arguments(&mut self, bytes: usize) {
        self.bytes.arguments += bytes;
    }

    pub(in crate::state) fn release_arguments(&mut self, bytes: usize) {
        self.bytes.arguments -= bytes;
    }

    /// A value that was put is a long argument of one call, and goes with it.
    pub(in crate::state) fn note_argument(&mut self, id: ObjectId) {
        if let Some(Value::Stored { size, .. }) = self.value(&id) {
            let size = *size;
            self.bytes.stored.insert(id, size);
            self.bytes.stored_sum += size;
        }
    }
}
