//! Between Spark's rows and Arrow's columns, without JNI, sockets or threads.
//!
//! - Into the store: [`StagedRows`] reads the bytes of `UnsafeRow`s, [`StagedColumns`] those of columns of fixed
//!   width, [`BlockBuilder`] makes Arrow columns of them and cuts blocks, [`EncodedBlock`] is a value (header and IPC stream) of known size.
//! - Out of the store: [`StreamBatches`] reads an IPC stream in place, [`SparkColumns`] decides what Spark can
//!   take as it is and casts the rest, [`ExportedBatch`] lists the buffers' addresses for Java.
//!
//! Strings are handled as bytes throughout: Spark's strings need not be valid UTF-8, and they must come back
//! exactly as they were.

mod block_builder;
mod column_builder;
mod error;
mod export;
mod extension_types;
mod field_metadata;
mod ipc_read;
mod readable_message;
mod reserve;
mod spark_columns;
mod spark_schema;
mod staged_columns;
mod unsafe_row;
mod widening;

pub(crate) use block_builder::BlockBuilder;
pub(crate) use error::ColumnError;
pub(crate) use export::ExportedBatch;
pub(crate) use ipc_read::StreamBatches;
pub(crate) use spark_columns::SparkColumns;
pub(crate) use spark_schema::{SparkField, SparkSchema, SparkType};
pub(crate) use staged_columns::StagedColumns;
pub(crate) use unsafe_row::StagedRows;

#[cfg(test)]
mod cast_tests;
#[cfg(test)]
mod tests;
