//! Cuts staged rows into blocks, and makes of each block a value for the store: its header and one Arrow IPC stream.
//!
//! Invariants:
//! 1. The columns of a block have at most `max_bytes`, by an estimate from above that counts padding; only a single row
//!    that is larger by itself makes a larger block.
//! 2. The length of an encoded block is known before its range in the store is created, and is exactly what is written.
//! 3. The same rows give the same bytes: a partition that is computed again makes equal blocks.

use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_buffer::Buffer;
use arrow_ipc::MetadataVersion;
use arrow_ipc::writer::{IpcWriteOptions, StreamEncoder};
use arrow_schema::Schema;
use sparkray_common::{VALUE_ALIGNMENT, VALUE_HEADER_LEN, ValueFormat, ValueHeader};

use super::column_builder::ColumnBuilder;
use super::{ColumnError, SparkSchema, StagedColumns, StagedRows};

/// Makes blocks of staged rows: Arrow columns of at most so many bytes.
pub(crate) struct BlockBuilder {
    /// What the block's stream says.
    wire_schema: Schema,
    /// The types of the arrays that are built.
    storage_schema: Arc<Schema>,
    columns: Vec<ColumnBuilder>,
    bits_per_row: usize,
    /// Bytes that a row may need in Arrow beyond its bytes as an `UnsafeRow`.
    surplus_per_row: usize,
    max_bytes: usize,
    rows: usize,
    is_reserved: bool,
}

impl BlockBuilder {
    /// A builder of blocks with at most `max_bytes` of columns; a single row that is larger is a block by itself.
    pub(crate) fn new(schema: &SparkSchema, time_zone: &str, max_bytes: usize) -> Result<Self, ColumnError> {
        let mut columns = Vec::with_capacity(schema.fields.len());
        for (index, field) in schema.fields.iter().enumerate() {
            columns.push(ColumnBuilder::new(index, field.clone())?);
        }
        Ok(Self {
            wire_schema: schema.arrow_schema(time_zone),
            storage_schema: schema.storage_schema(),
            bits_per_row: columns.iter().map(ColumnBuilder::bits_per_row).sum(),
            surplus_per_row: 8 * columns.iter().filter(|column| column.is_decimal()).count(),
            columns,
            max_bytes,
            rows: 0,
            is_reserved: false,
        })
    }

    /// Number of columns.
    pub(crate) fn field_count(&self) -> usize {
        self.columns.len()
    }

    /// Bytes of a value of each column, when all columns can be staged as such.
    pub(crate) fn staged_widths(&self) -> Result<Vec<usize>, ColumnError> {
        let widths = self.columns.iter().map(ColumnBuilder::staged_width);
        widths.collect::<Option<_>>().ok_or_else(|| {
            ColumnError::Encode("values without a fixed width cannot be staged in columns".to_owned())
        })
    }

    /// Rows collected since the last block.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    fn column_bytes(&self, rows: usize, variable_bytes: usize) -> usize {
        // Each column has at most three buffers, each padded to the alignment.
        (rows * self.bits_per_row).div_ceil(8) + variable_bytes + self.columns.len() * 3 * VALUE_ALIGNMENT
    }

    /// Adds rows from `first` on, as many as fit into this block; returns the first that did not.
    pub(crate) fn append(&mut self, staged: &StagedRows<'_>, first: usize) -> Result<usize, ColumnError> {
        let end = self.end_of_block(staged, first);
        self.reserve_for_many();
        for column in &mut self.columns {
            column.append(staged, first..end)?;
        }
        self.rows += end - first;
        Ok(end)
    }

    /// As [`Self::append`], for columns that were staged with [`Self::staged_widths`].
    pub(crate) fn append_columns(&mut self, staged: &StagedColumns<'_>, first: usize) -> usize {
        let mut end = staged.len();
        if self.column_bytes(self.rows + end - first, 0) > self.max_bytes {
            let bytes = self.max_bytes.saturating_sub(self.column_bytes(0, 0));
            // A row that is larger than a block is a block by itself.
            let most_rows = (bytes * 8 / self.bits_per_row.max(1)).max(1);
            end = first + most_rows.saturating_sub(self.rows).min(end - first);
        }
        self.reserve_for_many();
        for (index, column) in self.columns.iter_mut().enumerate() {
            column.append_column(staged.column(index), first..end);
        }
        self.rows += end - first;
        end
    }

    /// With the second batch: this is no tiny partition.
    fn reserve_for_many(&mut self) {
        if self.rows > 0 && !self.is_reserved {
            self.reserve();
        }
    }

    /// Takes memory for a full block whose rows are like those collected so far.
    fn reserve(&mut self) {
        let variable_bytes: usize = self.columns.iter().map(ColumnBuilder::variable_bytes).sum();
        let row_bits = self.bits_per_row + variable_bytes * 8 / self.rows;
        let rows = self.max_bytes.saturating_mul(8) / row_bits.max(1);
        for column in &mut self.columns {
            let variable_per_block = column.variable_bytes() as f64 / self.rows as f64 * rows as f64;
            column.reserve(rows.saturating_sub(self.rows), variable_per_block as usize);
        }
        self.is_reserved = true;
    }

    /// The first row from `first` on that does not fit into this block.
    fn end_of_block(&self, staged: &StagedRows<'_>, first: usize) -> usize {
        let mut variable_bytes: usize = self.columns.iter().map(ColumnBuilder::variable_bytes).sum();
        let staged_rows = staged.len() - first;
        let upper_bound = staged.bytes_from(first) + staged_rows * self.surplus_per_row;
        if self.column_bytes(self.rows, variable_bytes) + upper_bound <= self.max_bytes {
            return staged.len();
        }
        let variable: Vec<usize> = (0..self.columns.len())
            .filter(|index| self.columns[*index].is_variable())
            .collect();
        for row in first..staged.len() {
            variable_bytes += variable
                .iter()
                .map(|field| staged.variable_len(row, *field))
                .sum::<usize>();
            let rows = self.rows + row - first;
            if rows > 0 && self.column_bytes(rows + 1, variable_bytes) > self.max_bytes {
                return row;
            }
        }
        staged.len()
    }

    /// The block of the rows collected so far; the builder is empty afterwards.
    pub(crate) fn finish(&mut self) -> Result<EncodedBlock, ColumnError> {
        let mut arrays = Vec::with_capacity(self.columns.len());
        for column in &mut self.columns {
            arrays.push(column.finish()?);
        }
        let rows = std::mem::take(&mut self.rows);
        self.is_reserved = false;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.storage_schema), arrays, &options)
            .map_err(|error| ColumnError::Encode(error.to_string()))?;
        EncodedBlock::encode(&self.wire_schema, &batch)
    }
}

/// One block as a value: its header and an Arrow IPC stream whose buffers are aligned to 64 bytes.
pub(crate) struct EncodedBlock {
    /// The stream in pieces; columns are shared, not copied.
    segments: Vec<Buffer>,
    stream_len: usize,
    rows: usize,
}

impl EncodedBlock {
    /// `wire_schema` may call columns strings that `batch` keeps as bytes: their buffers are the same.
    fn encode(wire_schema: &Schema, batch: &RecordBatch) -> Result<Self, ColumnError> {
        let failed = |error: arrow_schema::ArrowError| ColumnError::Encode(error.to_string());
        let options =
            IpcWriteOptions::try_new(VALUE_ALIGNMENT, false, MetadataVersion::V5).map_err(failed)?;
        let mut encoder = StreamEncoder::try_new_with_options(wire_schema, options).map_err(failed)?;
        let mut segments = encoder.encode(batch).map_err(failed)?;
        segments.extend(encoder.finish().map_err(failed)?);
        let stream_len = segments.iter().map(Buffer::len).sum();
        Ok(Self {
            segments,
            stream_len,
            rows: batch.num_rows(),
        })
    }

    /// Rows of the block.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of the value.
    pub(crate) fn value_len(&self) -> usize {
        VALUE_HEADER_LEN + self.stream_len
    }

    /// Writes the value; `value` must have [`Self::value_len`] bytes.
    pub(crate) fn write_value(&self, value: &mut [u8]) {
        assert_eq!(
            value.len(),
            self.value_len(),
            "the range was created with the value's length"
        );
        ValueHeader {
            format: ValueFormat::Arrow,
            body_len: self.stream_len,
            buffer_count: 0,
        }
        .write(value);
        let mut at = VALUE_HEADER_LEN;
        for segment in &self.segments {
            value[at..at + segment.len()].copy_from_slice(segment);
            at += segment.len();
        }
    }
}
