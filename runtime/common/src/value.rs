//! The layout of a value, the same inline in a message, in a segment, in a spill file and on the wire:
//! a header of 64 bytes, the body, and for `pickle5` a table of out-of-band buffers.
//!
//! ```text
//! 0..4    magic "SRV1"
//! 4       format
//! 5..8    zero
//! 8..16   body length in bytes, little-endian (the body begins at 64)
//! 16..20  number of out-of-band buffers, little-endian
//! 20..64  zero
//! 64..    body; then, aligned to 8, one (offset, length) pair of u64 for each buffer, offsets from the
//!         value's start and aligned to 64; then the buffers
//! ```

/// Values and their buffers are aligned to this many bytes.
pub const VALUE_ALIGNMENT: usize = 64;
/// Length of the header that every value begins with.
pub const VALUE_HEADER_LEN: usize = 64;
const MAGIC: [u8; 4] = *b"SRV1";

/// How a value's body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ValueFormat {
    /// Python pickle, protocol 5, with out-of-band buffers.
    Pickle5 = 1,
    /// One Arrow IPC stream.
    Arrow = 2,
    /// Bytes as they are.
    Raw = 3,
    /// A failed task's exception, pickled by the worker or made by the runtime.
    Error = 4,
    /// MessagePack of plain built-in types.
    Msgpack = 5,
    /// Python's `None`: no body.
    None = 6,
}

/// Bytes that are not a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Shorter than its header says.
    #[error("value has {actual} bytes, its header asks for {needed}")]
    Truncated {
        /// Bytes that the header asks for.
        needed: usize,
        /// Bytes that are there.
        actual: usize,
    },
    /// Another magic number.
    #[error("bytes do not begin with a value header")]
    BadMagic,
    /// A format that this version does not know.
    #[error("value format {0} is not known to this version")]
    UnknownFormat(u8),
}

/// The first 64 bytes of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValueHeader {
    /// How the body is encoded.
    pub format: ValueFormat,
    /// Bytes in the body.
    pub body_len: usize,
    /// Out-of-band buffers after the body.
    pub buffer_count: usize,
}

fn align_up(offset: usize, alignment: usize) -> usize {
    offset.div_ceil(alignment) * alignment
}

impl ValueHeader {
    /// Total length of a value whose buffers have these lengths, and the offset of each buffer.
    pub fn layout(body_len: usize, buffer_lens: &[usize]) -> (usize, Vec<usize>) {
        let mut end = VALUE_HEADER_LEN + body_len;
        if buffer_lens.is_empty() {
            return (end, Vec::new());
        }
        end = align_up(end, 8) + 16 * buffer_lens.len();
        let mut offsets = Vec::with_capacity(buffer_lens.len());
        for len in buffer_lens {
            end = align_up(end, VALUE_ALIGNMENT);
            offsets.push(end);
            end += len;
        }
        (end, offsets)
    }

    /// Writes the header into the first 64 bytes of `value`.
    pub fn write(&self, value: &mut [u8]) {
        let header = &mut value[..VALUE_HEADER_LEN];
        header.fill(0);
        header[..4].copy_from_slice(&MAGIC);
        header[4] = self.format as u8;
        header[8..16].copy_from_slice(&(self.body_len as u64).to_le_bytes());
        header[16..20].copy_from_slice(&(self.buffer_count as u32).to_le_bytes());
    }

    /// Writes the whole value but its buffers' bytes; returns the offset of each buffer.
    /// `value` must have the length that [`ValueHeader::layout`] gave.
    pub fn write_body(
        format: ValueFormat,
        value: &mut [u8],
        body: &[u8],
        buffer_lens: &[usize],
    ) -> Vec<usize> {
        let (total, offsets) = Self::layout(body.len(), buffer_lens);
        assert_eq!(total, value.len(), "the value's buffer was sized by `layout`");
        Self {
            format,
            body_len: body.len(),
            buffer_count: buffer_lens.len(),
        }
        .write(value);
        value[VALUE_HEADER_LEN..VALUE_HEADER_LEN + body.len()].copy_from_slice(body);
        let mut table = align_up(VALUE_HEADER_LEN + body.len(), 8);
        for (offset, len) in offsets.iter().zip(buffer_lens) {
            value[table..table + 8].copy_from_slice(&(*offset as u64).to_le_bytes());
            value[table + 8..table + 16].copy_from_slice(&(*len as u64).to_le_bytes());
            table += 16;
        }
        offsets
    }

    /// A whole value without buffers.
    pub fn encode(format: ValueFormat, body: &[u8]) -> Vec<u8> {
        let mut value = vec![0; VALUE_HEADER_LEN + body.len()];
        Self::write_body(format, &mut value, body, &[]);
        value
    }

    /// Checks and reads the header of a whole value.
    pub fn read(value: &[u8]) -> Result<Self, ValueError> {
        if value.len() < VALUE_HEADER_LEN {
            return Err(ValueError::Truncated {
                needed: VALUE_HEADER_LEN,
                actual: value.len(),
            });
        }
        if value[..4] != MAGIC {
            return Err(ValueError::BadMagic);
        }
        let format = match value[4] {
            1 => ValueFormat::Pickle5,
            2 => ValueFormat::Arrow,
            3 => ValueFormat::Raw,
            4 => ValueFormat::Error,
            5 => ValueFormat::Msgpack,
            6 => ValueFormat::None,
            other => return Err(ValueError::UnknownFormat(other)),
        };
        let body_len = read_u64(value, 8);
        let buffer_count = u32::from_le_bytes([value[16], value[17], value[18], value[19]]) as usize;
        let end = VALUE_HEADER_LEN.saturating_add(body_len);
        if end > value.len() {
            return Err(ValueError::Truncated {
                needed: end,
                actual: value.len(),
            });
        }
        Ok(Self {
            format,
            body_len,
            buffer_count,
        })
    }

    /// Whether a value has out-of-band buffers. False for bytes that are no value.
    pub fn has_buffers(value: &[u8]) -> bool {
        value.len() >= VALUE_HEADER_LEN && value[16..20] != [0; 4]
    }

    /// The body of a value whose header this is.
    pub fn body<'a>(&self, value: &'a [u8]) -> &'a [u8] {
        &value[VALUE_HEADER_LEN..VALUE_HEADER_LEN + self.body_len]
    }

    /// `(offset, length)` of each out-of-band buffer, checked against the value's length.
    pub fn buffers(&self, value: &[u8]) -> Result<Vec<(usize, usize)>, ValueError> {
        let table = align_up(VALUE_HEADER_LEN + self.body_len, 8);
        let table_end = table.saturating_add(self.buffer_count.saturating_mul(16));
        if self.buffer_count > 0 && table_end > value.len() {
            return Err(ValueError::Truncated {
                needed: table_end,
                actual: value.len(),
            });
        }
        let mut buffers = Vec::with_capacity(self.buffer_count);
        for index in 0..self.buffer_count {
            let offset = read_u64(value, table + 16 * index);
            let len = read_u64(value, table + 16 * index + 8);
            let end = offset.saturating_add(len);
            if end > value.len() {
                return Err(ValueError::Truncated {
                    needed: end,
                    actual: value.len(),
                });
            }
            buffers.push((offset, len));
        }
        Ok(buffers)
    }
}

fn read_u64(value: &[u8], at: usize) -> usize {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&value[at..at + 8]);
    usize::try_from(u64::from_le_bytes(bytes)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_written_value_is_read_back(body in prop::collection::vec(any::<u8>(), 0..200),
                                        lens in prop::collection::vec(0_usize..300, 0..5)) {
            let (total, expected) = ValueHeader::layout(body.len(), &lens);
            let mut value = vec![0; total];
            let offsets = ValueHeader::write_body(ValueFormat::Pickle5, &mut value, &body, &lens);
            prop_assert_eq!(&offsets, &expected);
            let header = ValueHeader::read(&value).unwrap();
            prop_assert_eq!(header.format, ValueFormat::Pickle5);
            prop_assert_eq!(header.body(&value), &body[..]);
            let buffers = header.buffers(&value).unwrap();
            prop_assert_eq!(buffers.len(), lens.len());
            for ((offset, len), wanted) in buffers.iter().zip(&lens) {
                prop_assert_eq!(offset % VALUE_ALIGNMENT, 0);
                prop_assert_eq!(len, wanted);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(header) = ValueHeader::read(&bytes) {
                let _ = header.buffers(&bytes);
            }
        }
    }
}
