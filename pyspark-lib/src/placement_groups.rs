//! Questions to the head about placement groups. What a group means to users is in `sparkray.util.placement_group`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};
use sparkray_common::{ErrorCode, NodeId, PlacementGroupId};
use sparkray_core_worker::{CoreError, WaitError};
use sparkray_proto::{
    CreatePlacementGroup, GetPlacementGroup, ListPlacementGroups, PlacementGroupRecord, PlacementGroupState,
    PlacementStrategy, RemovePlacementGroup, head_reply, head_request,
};

use crate::arguments::resource_set;
use crate::convert::{bad_id, check_signals, deadline_after, exception, wait_exception};
use crate::head::ask;
use crate::runtime::Runtime;
use crate::values::internal;

/// What is asked for.
pub(crate) struct NewGroup<'a> {
    pub(crate) bundles: Vec<BTreeMap<String, f64>>,
    pub(crate) strategy: &'a str,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) detached: bool,
}

/// Registers a group.
pub(crate) fn create<'py>(
    py: Python<'py>,
    runtime: &Runtime,
    group: NewGroup<'_>,
) -> PyResult<Bound<'py, PyBytes>> {
    let id = PlacementGroupId::random();
    let strategy = PlacementStrategy::from_str_name(&format!("PLACEMENT_STRATEGY_{}", group.strategy))
        .ok_or_else(|| PyValueError::new_err(format!("unknown strategy {}", group.strategy)))?;
    let bundles: PyResult<Vec<_>> = group.bundles.into_iter().map(resource_set).collect();
    let request = CreatePlacementGroup {
        placement_group_id: id.to_vec().into(),
        job_id: runtime.core.job_id().to_vec().into(),
        name: group.name,
        namespace: group.namespace,
        strategy: strategy.into(),
        bundles: bundles?.iter().map(Into::into).collect(),
        detached: group.detached,
    };
    ask(py, runtime, head_request::Request::CreatePlacementGroup(request))?;
    Ok(PyBytes::new(py, id.as_bytes()))
}

/// Removes a group.
pub(crate) fn remove(py: Python<'_>, runtime: &Runtime, group_id: &[u8]) -> PyResult<()> {
    let request = RemovePlacementGroup {
        placement_group_id: group_id.to_vec().into(),
    };
    ask(py, runtime, head_request::Request::RemovePlacementGroup(request))?;
    Ok(())
}

/// A group, when it is created or removed or the timeout in seconds is over.
pub(crate) fn await_settled<'py>(
    py: Python<'py>,
    runtime: &Runtime,
    group_id: &[u8],
    timeout: f64,
) -> PyResult<Option<Bound<'py, PyDict>>> {
    let deadline = deadline_after(Some(timeout))?;
    loop {
        let left = deadline.map_or(Duration::ZERO, |deadline| {
            deadline.saturating_duration_since(Instant::now())
        });
        let question = GetPlacementGroup {
            placement_group_id: group_id.to_vec().into(),
            wait_millis: u32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u32::MAX),
            ..GetPlacementGroup::default()
        };
        let Some(record) = find(py, runtime, question)? else {
            return Ok(None);
        };
        let is_under_way = matches!(
            record.state(),
            PlacementGroupState::Pending | PlacementGroupState::Rescheduling
        );
        if !is_under_way || left.is_zero() {
            return describe(py, record).map(Some);
        }
    }
}

/// The group that has a name.
pub(crate) fn named<'py>(
    py: Python<'py>,
    runtime: &Runtime,
    name: &str,
    namespace: &str,
) -> PyResult<Option<Bound<'py, PyDict>>> {
    let question = GetPlacementGroup {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        ..GetPlacementGroup::default()
    };
    let found = find(py, runtime, question)?;
    found.map(|record| describe(py, record)).transpose()
}

/// All groups.
pub(crate) fn list<'py>(py: Python<'py>, runtime: &Runtime) -> PyResult<Bound<'py, PyList>> {
    let request = head_request::Request::ListPlacementGroups(ListPlacementGroups {});
    let head_reply::Reply::PlacementGroups(groups) = ask(py, runtime, request)? else {
        return Err(unfitting(py));
    };
    let list = PyList::empty(py);
    for record in groups.placement_groups {
        list.append(describe(py, record)?)?;
    }
    Ok(list)
}

/// `None`: the head knows no such group.
fn find(
    py: Python<'_>,
    runtime: &Runtime,
    question: GetPlacementGroup,
) -> PyResult<Option<PlacementGroupRecord>> {
    let request = head_request::Request::GetPlacementGroup(question);
    match py.detach(|| runtime.core.ask_head(request, &check_signals)) {
        Ok(head_reply::Reply::PlacementGroup(record)) => Ok(Some(record)),
        Ok(_) => Err(unfitting(py)),
        Err(WaitError::Failed(CoreError {
            code: ErrorCode::NotFound,
            ..
        })) => Ok(None),
        Err(error) => Err(wait_exception(py, error, "the head was not heard")),
    }
}

fn unfitting(py: Python<'_>) -> PyErr {
    exception(py, &internal("the head gave another answer than was asked for"))
}

fn describe(py: Python<'_>, record: PlacementGroupRecord) -> PyResult<Bound<'_, PyDict>> {
    let (state, strategy) = (record.state(), record.strategy());
    let entry = PyDict::new(py);
    let id = PlacementGroupId::from_slice(&record.placement_group_id).map_err(bad_id)?;
    entry.set_item("placement_group_id", id.to_string())?;
    entry.set_item("name", record.name)?;
    entry.set_item(
        "strategy",
        strategy.as_str_name().trim_start_matches("PLACEMENT_STRATEGY_"),
    )?;
    entry.set_item(
        "state",
        state.as_str_name().trim_start_matches("PLACEMENT_GROUP_STATE_"),
    )?;
    entry.set_item("attempts", record.attempts)?;
    entry.set_item("infeasible", record.infeasible)?;
    let (mut bundles, mut nodes) = (Vec::new(), Vec::new());
    for bundle in record.bundles {
        bundles.push(bundle.resources.unwrap_or_default().units);
        // Empty while it is on none.
        let node = NodeId::from_slice(&bundle.node_id);
        nodes.push(node.map(|node| node.to_string()).unwrap_or_default());
    }
    entry.set_item("bundles", bundles)?;
    entry.set_item("nodes", nodes)?;
    Ok(entry)
}
