//! The way of columns to Java: the addresses of their buffers, as one array of words.
//!
//! Nothing is copied but slices that do not begin at their array's first element. Java wraps the addresses and owns
//! nothing; they are valid while the [`ExportedBatch`] lives.

use arrow_array::{Array, ArrayRef};
use arrow_buffer::Buffer;
use arrow_data::ArrayData;
use arrow_data::transform::MutableArrayData;

use super::ColumnError;

/// Columns of one batch with the addresses that Java wraps. The addresses are valid while this lives.
pub(crate) struct ExportedBatch {
    /// The number of rows, then for each column: nulls, number of buffers, and address and length of each.
    /// A column has no buffers (only nulls), two (validity, values) or three (validity, offsets, bytes); a
    /// validity of length 0 stands for no nulls.
    words: Vec<i64>,
    /// Keeps the buffers alive.
    _columns: Vec<ArrayData>,
}

impl ExportedBatch {
    /// Lists the buffers of `arrays`, which all have `rows` rows.
    pub(crate) fn new(rows: usize, arrays: &[ArrayRef]) -> Result<Self, ColumnError> {
        let columns: Vec<ArrayData> = arrays
            .iter()
            .map(|array| from_its_start(array.to_data()))
            .collect::<Result<_, _>>()?;
        let mut words = vec![rows as i64];
        for column in &columns {
            if column.data_type() == &arrow_schema::DataType::Null {
                words.extend([column.len() as i64, 0]);
                continue;
            }
            words.extend([column.null_count() as i64, 1 + column.buffers().len() as i64]);
            match column.nulls() {
                Some(nulls) if nulls.null_count() > 0 => push(&mut words, nulls.buffer()),
                _ => words.extend([0, 0]),
            }
            for buffer in column.buffers() {
                push(&mut words, buffer);
            }
        }
        Ok(Self {
            words,
            _columns: columns,
        })
    }

    /// What Java reads.
    pub(crate) fn words(&self) -> &[i64] {
        &self.words
    }
}

fn push(words: &mut Vec<i64>, buffer: &Buffer) {
    words.extend([buffer.as_ptr() as i64, buffer.len() as i64]);
}

/// Java's vectors begin at their first element: a slice of an array is copied.
fn from_its_start(data: ArrayData) -> Result<ArrayData, ColumnError> {
    let nulls_offset = data.nulls().map_or(0, arrow_buffer::NullBuffer::offset);
    if data.offset() == 0 && nulls_offset == 0 {
        return Ok(data);
    }
    let mut copy = MutableArrayData::new(vec![&data], false, data.len());
    copy.try_extend(0, 0, data.len())
        .map_err(|error| ColumnError::Encode(error.to_string()))?;
    Ok(copy.freeze())
}
