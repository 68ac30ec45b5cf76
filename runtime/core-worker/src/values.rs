//! Values as callers give and get them.

use std::sync::Arc;

use bytes::Bytes;
use sparkray_common::{MAX_INLINE_BYTES, ObjectId, ValueFormat, ValueHeader};

use crate::aligned::{copy_aligned, must_move, write_aligned};
use crate::store::StoredValue;

/// A value to be put, passed or returned: the parts that [`ValueHeader`] lays out.
#[derive(Debug)]
pub struct NewValue<'a> {
    /// How the body is encoded.
    pub format: ValueFormat,
    /// The body.
    pub body: &'a [u8],
    /// Out-of-band buffers.
    pub buffers: &'a [&'a [u8]],
    /// References inside. The caller keeps them until the value is handed over.
    pub contained: Vec<ObjectId>,
}

impl NewValue<'_> {
    fn buffer_lens(&self) -> Vec<usize> {
        self.buffers.iter().map(|buffer| buffer.len()).collect()
    }

    pub(crate) fn total_len(&self) -> usize {
        ValueHeader::layout(self.body.len(), &self.buffer_lens()).0
    }

    pub(crate) fn write(&self, target: &mut [u8]) {
        let lens = self.buffer_lens();
        let offsets = ValueHeader::write_body(self.format, target, self.body, &lens);
        for (offset, buffer) in offsets.into_iter().zip(self.buffers) {
            target[offset..offset + buffer.len()].copy_from_slice(buffer);
        }
    }

    /// The whole value in this process's memory.
    pub fn to_bytes(&self) -> Bytes {
        if !self.buffers.is_empty() {
            return write_aligned(self.total_len(), |target| self.write(target));
        }
        let mut value = vec![0; self.total_len()];
        self.write(&mut value);
        value.into()
    }

    /// Whether it lives in the store: large ones do, and tables always. Errors never do, because a call that is tried
    /// again must not find the error of its first attempt there.
    pub(crate) fn is_stored(&self, total: usize, inline_limit: usize) -> bool {
        match self.format {
            ValueFormat::Arrow => true,
            ValueFormat::Error => false,
            _ => total > inline_limit,
        }
    }
}

/// Bytes of arguments and put values that a process holds inline before it leaves more of them to the store.
const INLINE_WINDOW: usize = 64 << 20;
/// Values up to this length are inline even then: an object in the store costs about as much memory.
pub const ALWAYS_INLINE: usize = 4 * 1024;

/// How long an argument or a put value may be to stay inline, in a process that holds so many bytes inline already. Calls
/// that wait, however many, thus cost a bounded amount of their callers' and callees' memory, and nobody waits for room
/// but as whoever puts a large value does (ADR 0011).
pub(crate) fn inline_limit(held: usize) -> usize {
    if held > INLINE_WINDOW {
        ALWAYS_INLINE
    } else {
        MAX_INLINE_BYTES
    }
}

/// The value of an object.
#[derive(Debug, Clone)]
pub enum Fetched {
    /// In this process's memory.
    Inline(Bytes),
    /// In the node's shared memory.
    Mapped(Arc<StoredValue>),
}

impl Fetched {
    /// The whole value, header first.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Inline(bytes) => bytes,
            Self::Mapped(value) => value.as_slice(),
        }
    }

    /// A copy of an inline value whose buffers would not be aligned where it lies; `None`: they are.
    #[must_use]
    pub fn moved_to_align(&self) -> Option<Self> {
        match self {
            Self::Inline(bytes) if must_move(bytes) => Some(Self::Inline(copy_aligned(bytes))),
            _ => None,
        }
    }

    /// Whether it is the error of a task. Those are never in the store.
    pub(crate) fn is_error(&self) -> bool {
        match self {
            Self::Inline(bytes) => {
                ValueHeader::read(bytes).is_ok_and(|header| header.format == ValueFormat::Error)
            }
            Self::Mapped(_) => false,
        }
    }
}
