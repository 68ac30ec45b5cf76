//! What `to_spark` tells of its blocks, and what tasks found to be their columns.

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use sparkray_proto::ObjectLocation;
use sparkray_proto::bridge::block_schema::Content;
use sparkray_proto::bridge::{Table, TableBlock, TableSchemas};

use super::{decode, encode};

/// Object id, size, node id and address of each copy, where Spark should read it.
type Block = (Vec<u8>, u64, Vec<(Vec<u8>, String)>, Vec<String>);

/// Index of the block, its schema unless an earlier block has the same, code and message of what is wrong with it.
type BlockSchema = (u32, Option<String>, Option<(u32, String)>);

/// A `Table` of blocks of one cluster.
#[pyfunction]
pub(crate) fn encode_table(
    py: Python<'_>,
    cluster_id: Vec<u8>,
    blocks: Vec<Block>,
    hold_bytes: u64,
) -> Bound<'_, PyBytes> {
    let cluster_id = bytes::Bytes::from(cluster_id);
    let block = |(index, (object_id, size, locations, preferred)): (usize, Block)| TableBlock {
        cluster_id: cluster_id.clone(),
        object_id: object_id.into(),
        locations: locations
            .into_iter()
            .map(|(node_id, node_address)| ObjectLocation {
                node_id: node_id.into(),
                node_address,
            })
            .collect(),
        index: index as u32,
        size,
        hold_bytes,
        preferred,
    };
    let blocks = blocks.into_iter().enumerate().map(block).collect();
    encode(py, &Table { blocks })
}

/// The blocks of `TableSchemas`.
#[pyfunction]
pub(crate) fn decode_table_schemas(data: &[u8]) -> PyResult<Vec<BlockSchema>> {
    let schemas: TableSchemas = decode(data)?;
    let block = |block: sparkray_proto::bridge::BlockSchema| match block.content {
        Some(Content::Schema(schema)) => (block.index, Some(schema), None),
        Some(Content::Failure(failure)) => (block.index, None, Some((failure.code, failure.message))),
        Some(Content::SameAs(_)) | None => (block.index, None, None),
    };
    Ok(schemas.blocks.into_iter().map(block).collect())
}
