//! Memory of inline values.
//!
//! Buffers of a value lie at multiples of [`VALUE_ALIGNMENT`] from its start, so they are aligned in memory when its start
//! is. A value in a segment is. One that is inline lies anywhere in the frame that brought it.

use bytes::{Bytes, BytesMut};
use sparkray_common::{VALUE_ALIGNMENT, ValueHeader};

/// A value of `len` bytes that `fill` writes into zeroed, aligned memory.
pub(crate) fn write_aligned(len: usize, fill: impl FnOnce(&mut [u8])) -> Bytes {
    let mut memory = vec![0; len + VALUE_ALIGNMENT - 1];
    let start = memory.as_ptr().align_offset(VALUE_ALIGNMENT);
    fill(&mut memory[start..start + len]);
    Bytes::from(memory).slice(start..start + len)
}

/// The same bytes, in aligned memory of their own.
pub(crate) fn copy_aligned(value: &[u8]) -> Bytes {
    let mut memory = BytesMut::with_capacity(value.len() + VALUE_ALIGNMENT - 1);
    let start = memory.as_ptr().align_offset(VALUE_ALIGNMENT);
    memory.resize(start, 0);
    memory.extend_from_slice(value);
    memory.freeze().slice(start..)
}

/// Whether the value has buffers, which programs use where they lie, and its start is not aligned.
pub(crate) fn must_move(value: &[u8]) -> bool {
    ValueHeader::has_buffers(value) && value.as_ptr().align_offset(VALUE_ALIGNMENT) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_aligned_wherever_the_allocator_puts_them() {
        let mut kept = Vec::new();
        for len in (0..3000).chain([100_000, 200_001]) {
            let bytes: Vec<u8> = (0..len).map(|index| index as u8).collect();
            let copied = copy_aligned(&bytes);
            let written = write_aligned(len, |target| target.copy_from_slice(&bytes));
            for value in [copied, written] {
                assert_eq!(value, bytes);
                assert_eq!(value.as_ptr() as usize % VALUE_ALIGNMENT, 0);
                kept.push(value);
            }
        }
    }
}
