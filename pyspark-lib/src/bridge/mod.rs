//! The messages of `bridge.proto`, between Python's values and the bytes that Java carries to and from the native library
//! in Spark's JVMs. Python itself has no protobuf library.

mod cluster;
mod feed;
mod table;

pub(crate) use cluster::{
    decode_init_result, decode_raylet_access, decode_status, decode_stop_result, encode_init_request,
};
pub(crate) use feed::{decode_feed_report, encode_feed_partitions, encode_feed_request};
pub(crate) use table::{decode_table_schemas, encode_table};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use sparkray_proto::{MessageError, bridge};

fn decode<M: bridge::Message + Default>(data: &[u8]) -> PyResult<M> {
    bridge::decode(data).map_err(refused)
}

fn encode<'py>(py: Python<'py>, message: &impl bridge::Message) -> Bound<'py, PyBytes> {
    PyBytes::new(py, &bridge::encode(message))
}

fn refused(error: MessageError) -> PyErr {
    PyValueError::new_err(error.to_string())
}
