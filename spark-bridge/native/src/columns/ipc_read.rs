//! Reads the IPC stream inside a value without copying it.
//!
//! `arrow_ipc`'s own `StreamDecoder` refuses strings that are not valid UTF-8, which Spark may well write. Here
//! strings are decoded as bytes: offsets are still checked, and no pass over the text is needed.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_buffer::Buffer;
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::reader::{RecordBatchDecoder, read_dictionary};
use arrow_ipc::{Message, MessageHeader};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use sparkray_common::{VALUE_HEADER_LEN, ValueFormat, ValueHeader};

use super::ColumnError;
use super::readable_message::readable_message;

const CONTINUATION: u32 = u32::MAX;

/// The record batches of a block.
pub(crate) struct StreamBatches {
    rest: Buffer,
    schema: SchemaRef,
    storage_schema: SchemaRef,
    dictionaries: HashMap<i64, ArrayRef>,
}

fn malformed(error: impl std::fmt::Display) -> ColumnError {
    ColumnError::BadStream(error.to_string())
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let word: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_le_bytes(word))
}

/// A type whose strings are bytes.
pub(super) fn storage_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8 => DataType::Binary,
        DataType::LargeUtf8 => DataType::LargeBinary,
        DataType::Utf8View => DataType::BinaryView,
        DataType::Dictionary(keys, values) => {
            DataType::Dictionary(keys.clone(), Box::new(storage_type(values)))
        }
        other => other.clone(),
    }
}

impl StreamBatches {
    /// Opens a whole value; refuses one that holds no Arrow table.
    pub(crate) fn open(value: Buffer) -> Result<Self, ColumnError> {
        let header = ValueHeader::read(&value)?;
        let what = match header.format {
            ValueFormat::Arrow => None,
            ValueFormat::Pickle5 | ValueFormat::Msgpack => Some("a Python object"),
            ValueFormat::Raw => Some("raw bytes"),
            ValueFormat::Error => Some("the error of a failed task"),
            ValueFormat::None => Some("None"),
        };
        if let Some(what) = what {
            return Err(ColumnError::NotATable(what.to_owned()));
        }
        let mut batches = Self {
            rest: value.slice_with_length(VALUE_HEADER_LEN, header.body_len),
            schema: Arc::new(Schema::empty()),
            storage_schema: Arc::new(Schema::empty()),
            dictionaries: HashMap::new(),
        };
        batches.read_schema()?;
        Ok(batches)
    }

    /// The schema as the writer gave it.
    pub(crate) fn schema(&self) -> &Schema {
        &self.schema
    }

    fn read_schema(&mut self) -> Result<(), ColumnError> {
        let Some((metadata, _)) = self.next_message()? else {
            return Err(malformed("it has no schema"));
        };
        let message = parse(&metadata)?;
        let schema = message
            .header_as_schema()
            .ok_or_else(|| malformed("it does not begin with a schema"))?;
        let schema = try_fb_to_schema(schema).map_err(malformed)?;
        let storage: Vec<Field> = schema
            .fields()
            .iter()
            .map(|field| {
                field
                    .as_ref()
                    .clone()
                    .with_data_type(storage_type(field.data_type()))
            })
            .collect();
        self.schema = Arc::new(schema);
        self.storage_schema = Arc::new(Schema::new(storage));
        Ok(())
    }

    /// Metadata and body of the next message; `None` at the end of the stream.
    fn next_message(&mut self) -> Result<Option<(Buffer, Buffer)>, ColumnError> {
        let mut at = 0;
        let Some(mut metadata_len) = read_u32(&self.rest, at) else {
            // Arrow allows a stream to end without a marker.
            return if self.rest.is_empty() {
                Ok(None)
            } else {
                Err(malformed("it ends inside a message"))
            };
        };
        at += 4;
        if metadata_len == CONTINUATION {
            metadata_len = read_u32(&self.rest, at).ok_or_else(|| malformed("it ends inside a message"))?;
            at += 4;
        }
        if metadata_len == 0 {
            self.rest = Buffer::from(&[] as &[u8]);
            return Ok(None);
        }
        let metadata_len = metadata_len as usize;
        if metadata_len > self.rest.len() - at {
            return Err(malformed("it ends inside a message"));
        }
        let metadata = readable_message(self.rest.slice_with_length(at, metadata_len))?;
        at += metadata_len;
        let body_len = usize::try_from(parse(&metadata)?.bodyLength()).map_err(malformed)?;
        if body_len > self.rest.len() - at {
            return Err(malformed("it ends inside a message's body"));
        }
        let body = self.rest.slice_with_length(at, body_len);
        self.rest.advance(at + body_len);
        Ok(Some((metadata, body)))
    }

    /// The next batch; its arrays share the value's memory wherever it is aligned. Strings are binary arrays.
    pub(crate) fn next_batch(&mut self) -> Result<Option<RecordBatch>, ColumnError> {
        while let Some((metadata, body)) = self.next_message()? {
            let message = parse(&metadata)?;
            let version = message.version();
            match message.header_type() {
                MessageHeader::RecordBatch => {
                    let header = message
                        .header_as_record_batch()
                        .ok_or_else(|| malformed("a batch lacks its header"))?;
                    check_buffers(&header, body.len())?;
                    let storage_schema = Arc::clone(&self.storage_schema);
                    let batch = RecordBatchDecoder::try_new(
                        &body,
                        header,
                        storage_schema,
                        &self.dictionaries,
                        &version,
                    )
                    .and_then(RecordBatchDecoder::read_record_batch)
                    .map_err(malformed)?;
                    return Ok(Some(batch));
                }
                MessageHeader::DictionaryBatch => {
                    let header = message
                        .header_as_dictionary_batch()
                        .ok_or_else(|| malformed("a dictionary lacks its header"))?;
                    if let Some(data) = header.data() {
                        check_buffers(&data, body.len())?;
                    }
                    read_dictionary(
                        &body,
                        header,
                        &self.storage_schema,
                        &mut self.dictionaries,
                        &version,
                    )
                    .map_err(malformed)?;
                }
                other => return Err(malformed(format!("it has a message of type {other:?}"))),
            }
        }
        Ok(None)
    }
}

fn parse(metadata: &Buffer) -> Result<Message<'_>, ColumnError> {
    arrow_ipc::root_as_message(metadata).map_err(|error| malformed(ArrowError::ParseError(error.to_string())))
}

/// The decoder slices the body by these numbers.
fn check_buffers(batch: &arrow_ipc::RecordBatch<'_>, body_len: usize) -> Result<(), ColumnError> {
    for buffer in batch.buffers().into_iter().flatten() {
        let range = usize::try_from(buffer.offset())
            .ok()
            .zip(usize::try_from(buffer.length()).ok());
        if range
            .and_then(|(offset, len)| offset.checked_add(len))
            .is_none_or(|end| end > body_len)
        {
            return Err(malformed("a column points outside its message"));
        }
    }
    Ok(())
}
