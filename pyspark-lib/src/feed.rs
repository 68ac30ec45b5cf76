//! Blocks of DataFrames: becoming their owner, and finding out where they are.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};
use sparkray_common::{FeedId, NodeId, ObjectId};
use sparkray_core_worker::FedBlock;
use sparkray_proto::StoreStats;

use crate::convert::{bad_id, check_signals, deadline_after, exception, wait_exception};
use crate::objects::ids_of;
use crate::runtime::Runtime;

/// Adopts the winners of a feed and drops its other blocks, on `nodes` too; gives the winners with one reference each.
pub(crate) fn adopt(
    py: Python<'_>,
    runtime: &Runtime,
    feed_id: &[u8],
    blocks: Vec<(Vec<u8>, u64, Vec<u8>, String)>,
    nodes: Vec<(Vec<u8>, String)>,
) -> PyResult<Vec<ObjectId>> {
    let feed = FeedId::from_slice(feed_id).map_err(bad_id)?;
    let mut fed = Vec::with_capacity(blocks.len());
    for (object_id, size, node_id, node_address) in blocks {
        fed.push(FedBlock {
            object_id: ObjectId::from_slice(&object_id).map_err(bad_id)?,
            size,
            node_id: NodeId::from_slice(&node_id).map_err(bad_id)?,
            node_address,
        });
    }
    let mut others = Vec::with_capacity(nodes.len());
    for (node_id, node_address) in nodes {
        others.push((NodeId::from_slice(&node_id).map_err(bad_id)?, node_address));
    }
    let core = &runtime.core;
    py.detach(|| core.adopt_blocks(feed, &fed, &others, &check_signals))
        .map_err(|error| wait_exception(py, error, "the blocks were not adopted"))?;
    Ok(fed.iter().map(|block| block.object_id).collect())
}

/// Size, nodes and kind of each object.
pub(crate) fn object_locations<'py>(
    runtime: &Runtime,
    refs: &Bound<'py, PyAny>,
    timeout: Option<f64>,
) -> PyResult<Bound<'py, PyList>> {
    let py = refs.py();
    let ids = ids_of(runtime, refs)?;
    let deadline = deadline_after(timeout)?;
    let core = &runtime.core;
    let found = py
        .detach(|| core.locations(&ids, deadline, &check_signals))
        .map_err(|error| wait_exception(py, error, "not all objects existed"))?;
    let list = PyList::empty(py);
    for (id, location) in ids.iter().zip(found) {
        let location = location.map_err(|error| exception(py, &error))?;
        let nodes: Vec<_> = location
            .nodes
            .iter()
            .map(|(node, address)| (PyBytes::new(py, node.as_bytes()), address.clone()))
            .collect();
        list.append((
            PyBytes::new(py, id.as_bytes()),
            location.size,
            nodes,
            location.is_error,
        ))?;
    }
    Ok(list)
}

/// A node's store as a dict.
pub(crate) fn describe_store<'py>(py: Python<'py>, store: &StoreStats) -> PyResult<Bound<'py, PyDict>> {
    let entry = PyDict::new(py);
    entry.set_item("capacity_bytes", store.capacity_bytes)?;
    entry.set_item("used_bytes", store.used_bytes)?;
    entry.set_item("object_count", store.object_count)?;
    entry.set_item("spilled_bytes", store.spilled_bytes)?;
    entry.set_item("restored_bytes", store.restored_bytes)?;
    entry.set_item("pulled_bytes", store.pulled_bytes)?;
    entry.set_item("pushed_bytes", store.pushed_bytes)?;
    entry.set_item("created_bytes", store.created_bytes)?;
    Ok(entry)
}
