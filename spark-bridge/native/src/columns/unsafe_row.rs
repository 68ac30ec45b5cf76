//! `UnsafeRow`s as Java stages them: for each row eight bytes with its size, then its bytes (a multiple of
//! eight): one null bit for each field in words of eight bytes, eight bytes for each field, then the variable
//! parts, to which a field points with offset (upper half) and size (lower half).

use std::ops::Range;

use super::ColumnError;

/// Bytes before each staged row.
const ROW_PREFIX: usize = 8;

/// Where a row lies in its batch. Narrow, because every column walks over all of them.
#[derive(Debug, Clone, Copy)]
struct RowPlace {
    start: u32,
    size: u32,
}

/// A batch of rows with a known number of fields; reads are checked against the row's end.
pub(crate) struct StagedRows<'a> {
    bytes: &'a [u8],
    rows: Vec<RowPlace>,
    null_words: usize,
    /// The null words of all rows, united: a field without its bit here is null in no row.
    any_null: Vec<u64>,
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

impl<'a> StagedRows<'a> {
    /// Finds the rows; `field_count` is the schema's.
    pub(crate) fn parse(bytes: &'a [u8], row_count: usize, field_count: usize) -> Result<Self, ColumnError> {
        let null_words = field_count.div_ceil(64);
        let smallest = (null_words + field_count) * 8;
        let mut rows = Vec::with_capacity(row_count);
        let mut any_null = vec![0; null_words];
        let mut at = 0;
        for row in 0..row_count {
            let bad = |problem: &str| ColumnError::BadRow {
                row,
                problem: problem.to_owned(),
            };
            if bytes.len() - at < ROW_PREFIX {
                return Err(bad("the batch ends before it"));
            }
            let size = usize::try_from(read_u64(bytes, at)).map_err(|_| bad("its size is out of range"))?;
            at += ROW_PREFIX;
            if size > bytes.len() - at {
                return Err(bad("the batch ends inside it"));
            }
            if size < smallest {
                return Err(bad("it is shorter than its schema needs"));
            }
            let (Ok(start), Ok(narrow_size)) = (u32::try_from(at), u32::try_from(size)) else {
                return Err(bad("its batch is larger than 4 GiB"));
            };
            rows.push(RowPlace {
                start,
                size: narrow_size,
            });
            for (word, any) in any_null.iter_mut().enumerate() {
                *any |= read_u64(bytes, at + word * 8);
            }
            at += size;
        }
        if at != bytes.len() {
            return Err(ColumnError::BadRow {
                row: row_count,
                problem: "bytes are left after the last row".to_owned(),
            });
        }
        Ok(Self {
            bytes,
            rows,
            null_words,
            any_null,
        })
    }

    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Bytes of the rows from `first` on, without their prefixes.
    pub(crate) fn bytes_from(&self, first: usize) -> usize {
        match self.rows.get(first) {
            Some(place) => {
                self.bytes.len() - place.start as usize - (self.rows.len() - 1 - first) * ROW_PREFIX
            }
            None => 0,
        }
    }

    /// Whether a field is null in any row.
    pub(crate) fn has_nulls(&self, field: usize) -> bool {
        (self.any_null[field / 64] >> (field % 64)) & 1 == 1
    }

    #[inline]
    pub(crate) fn is_null(&self, row: usize, field: usize) -> bool {
        self.is_null_at(self.rows[row], field)
    }

    #[inline]
    fn is_null_at(&self, place: RowPlace, field: usize) -> bool {
        (self.bytes[place.start as usize + field / 8] >> (field % 8)) & 1 == 1
    }

    #[inline]
    fn word_at(&self, place: RowPlace, field: usize) -> u64 {
        read_u64(self.bytes, place.start as usize + (self.null_words + field) * 8)
    }

    /// The eight bytes of a field, in each row; 0 where it is null.
    #[inline]
    pub(crate) fn words(&self, range: Range<usize>, field: usize) -> impl Iterator<Item = u64> {
        self.rows[range].iter().map(move |place| {
            // Null fields are zeroed by Spark's writer, but need not be.
            let word = self.word_at(*place, field);
            if self.is_null_at(*place, field) { 0 } else { word }
        })
    }

    /// Length of a field's variable part; 0 when it is null.
    #[inline]
    pub(crate) fn variable_len(&self, row: usize, field: usize) -> usize {
        let place = self.rows[row];
        if self.is_null_at(place, field) {
            0
        } else {
            (self.word_at(place, field) & 0xffff_ffff) as usize
        }
    }

    /// The variable part of a field.
    #[inline]
    pub(crate) fn variable(&self, row: usize, field: usize) -> Result<&'a [u8], ColumnError> {
        let place = self.rows[row];
        let word = self.word_at(place, field);
        let (offset, size) = ((word >> 32) as usize, (word & 0xffff_ffff) as usize);
        if offset + size > place.size as usize {
            let problem = format!(
                "field {field} points to {offset}+{size} in a row of {} bytes",
                place.size
            );
            return Err(ColumnError::BadRow { row, problem });
        }
        let start = place.start as usize + offset;
        Ok(&self.bytes[start..start + size])
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! Writes staged rows as Spark's `UnsafeRowWriter` does.

    /// One field.
    #[derive(Debug, Clone)]
    pub(crate) enum Cell {
        Null,
        Word(u64),
        Bytes(Vec<u8>),
    }

    pub(crate) fn stage(rows: &[Vec<Cell>]) -> Vec<u8> {
        let mut staged = Vec::new();
        for row in rows {
            let null_words = row.len().div_ceil(64);
            let fixed = (null_words + row.len()) * 8;
            let mut bytes = vec![0; fixed];
            for (field, cell) in row.iter().enumerate() {
                let at = (null_words + field) * 8;
                match cell {
                    Cell::Null => bytes[field / 8] |= 1 << (field % 8),
                    Cell::Word(word) => bytes[at..at + 8].copy_from_slice(&word.to_le_bytes()),
                    Cell::Bytes(value) => {
                        let pointer = ((bytes.len() as u64) << 32) | value.len() as u64;
                        bytes[at..at + 8].copy_from_slice(&pointer.to_le_bytes());
                        bytes.extend_from_slice(value);
                        bytes.resize(bytes.len().div_ceil(8) * 8, 0);
                    }
                }
            }
            staged.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            staged.extend_from_slice(&bytes);
        }
        staged
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{Cell, stage};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_are_read_where_the_writer_put_them() {
        let wide: Vec<Cell> = (0..70)
            .map(|index| {
                if index == 66 {
                    Cell::Null
                } else {
                    Cell::Word(index)
                }
            })
            .collect();
        let staged = stage(&[wide.clone(), wide]);
        let rows = StagedRows::parse(&staged, 2, 70).unwrap();
        assert_eq!(rows.len(), 2);
        assert!(rows.is_null(1, 66) && !rows.is_null(1, 65));
        assert_eq!(rows.words(1..2, 69).collect::<Vec<_>>(), [69]);
        assert!(rows.has_nulls(66) && !rows.has_nulls(65));
        assert_eq!(rows.bytes_from(0), 2 * 72 * 8);
        assert_eq!(rows.bytes_from(1), 72 * 8);
        assert_eq!(rows.bytes_from(2), 0);
    }

    #[test]
    fn a_pointer_out_of_its_row_is_refused() {
        let staged = stage(&[vec![Cell::Word((16 << 32) | 1)]]);
        let rows = StagedRows::parse(&staged, 1, 1).unwrap();
        assert!(matches!(rows.variable(0, 0), Err(ColumnError::BadRow { .. })));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), rows in 0_usize..4,
                                       fields in 0_usize..4) {
            if let Ok(staged) = StagedRows::parse(&bytes, rows, fields) {
                for row in 0..staged.len() {
                    for field in 0..fields {
                        let _ = (staged.is_null(row, field), staged.variable(row, field));
                    }
                }
            }
        }
    }
}
