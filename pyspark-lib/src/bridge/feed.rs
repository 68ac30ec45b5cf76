//! What `from_spark` tells the tasks of a feed, and what they report.

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use sparkray_proto::bridge::{FedBlock, FeedPartitions, FeedReport, FeedRequest};
use sparkray_proto::{MessageError, WorkerAddress};

use super::{decode, encode, refused};

/// Node id, worker id and address of the node, as `CoreWorker.worker_address` gives them.
type Owner = (Vec<u8>, Vec<u8>, String);

/// Object id, node id, address of the node, rows, size.
type Block<'py> = (Bound<'py, PyBytes>, Bound<'py, PyBytes>, String, u64, u64);

/// A `FeedRequest`.
#[pyfunction]
pub(crate) fn encode_feed_request(
    py: Python<'_>,
    cluster_id: Vec<u8>,
    feed_id: Vec<u8>,
    owner: Owner,
    max_block_bytes: u64,
) -> Bound<'_, PyBytes> {
    let (node_id, worker_id, node_address) = owner;
    let request = FeedRequest {
        cluster_id: cluster_id.into(),
        feed_id: feed_id.into(),
        owner: Some(WorkerAddress {
            node_id: node_id.into(),
            worker_id: worker_id.into(),
            node_address,
        }),
        max_block_bytes,
    };
    encode(py, &request)
}

/// `FeedPartitions`.
#[pyfunction]
pub(crate) fn encode_feed_partitions(py: Python<'_>, partitions: Vec<i32>) -> Bound<'_, PyBytes> {
    encode(py, &FeedPartitions { partitions })
}

/// The partitions of a `FeedReport`, each with its blocks.
#[pyfunction]
pub(crate) fn decode_feed_report<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Vec<(i32, Vec<Block<'py>>)>> {
    let report: FeedReport = decode(data)?;
    let partitions = report.partitions.into_iter().map(|partition| {
        let blocks: PyResult<Vec<_>> = partition
            .blocks
            .into_iter()
            .map(|block| read_block(py, block))
            .collect();
        Ok((partition.partition, blocks?))
    });
    partitions.collect()
}

fn read_block(py: Python<'_>, block: FedBlock) -> PyResult<Block<'_>> {
    let location = block
        .location
        .ok_or_else(|| refused(MessageError::Missing("location")))?;
    Ok((
        PyBytes::new(py, &block.object_id),
        PyBytes::new(py, &location.node_id),
        location.node_address,
        block.rows,
        block.size,
    ))
}
