//! Where a task or actor may run: strategies as `sparkray._private.scheduling` gives them, and environments of workers.

use std::collections::BTreeMap;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use sparkray_common::{
    BundleChoice, LabelConstraint, LabelOperator, LabelSelector, Language, NodeId, PlacementGroupId,
    RuntimeEnvironment, SchedulingStrategy, WorkerKey,
};

use crate::convert::bad_id;

/// Key, operator and values of one constraint.
type Constraint = (String, String, Vec<String>);

/// From `("SPREAD",)`, `("NODE_AFFINITY", node id, soft)`, `("NODE_LABELS", hard, soft)` or
/// `("BUNDLE", group id, index or None, captures child tasks)`.
#[derive(Default)]
pub(crate) struct PyStrategy(pub(crate) SchedulingStrategy);

impl<'py> FromPyObject<'_, 'py> for PyStrategy {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        read(&object).map(Self)
    }
}

fn read(strategy: &Bound<'_, PyAny>) -> PyResult<SchedulingStrategy> {
    let kind: String = strategy.get_item(0)?.extract()?;
    Ok(match kind.as_str() {
        "SPREAD" => SchedulingStrategy::Spread,
        "NODE_AFFINITY" => {
            let (_, node, soft): (String, Vec<u8>, bool) = strategy.extract()?;
            SchedulingStrategy::NodeAffinity {
                node: NodeId::from_slice(&node).map_err(bad_id)?,
                soft,
            }
        }
        "NODE_LABELS" => {
            let (_, hard, soft): (String, Vec<Constraint>, Vec<Constraint>) = strategy.extract()?;
            SchedulingStrategy::NodeLabels {
                hard: selector(hard)?,
                soft: selector(soft)?,
            }
        }
        "BUNDLE" => {
            let (_, group, index, captures): (String, Vec<u8>, Option<u32>, bool) = strategy.extract()?;
            SchedulingStrategy::Bundle(BundleChoice {
                group: PlacementGroupId::from_slice(&group).map_err(bad_id)?,
                index,
                captures_child_tasks: captures,
            })
        }
        other => return Err(PyValueError::new_err(format!("unknown strategy {other}"))),
    })
}

fn selector(constraints: Vec<Constraint>) -> PyResult<LabelSelector> {
    let constraint = |(key, operator, values): Constraint| {
        let values = values.into_iter().collect();
        let operator = match operator.as_str() {
            "in" => LabelOperator::In(values),
            "!in" => LabelOperator::NotIn(values),
            "exists" => LabelOperator::Exists,
            "!exists" => LabelOperator::DoesNotExist,
            other => return Err(PyValueError::new_err(format!("unknown operator {other}"))),
        };
        Ok(LabelConstraint { key, operator })
    };
    let constraints: PyResult<Vec<_>> = constraints.into_iter().map(constraint).collect();
    Ok(LabelSelector::new(constraints?))
}

/// Python workers with these variables besides those of their node.
pub(crate) fn worker_key(env_vars: Option<BTreeMap<String, String>>) -> PyResult<WorkerKey> {
    let environment = RuntimeEnvironment::new(env_vars.unwrap_or_default());
    Ok(WorkerKey {
        language: Language::Python,
        environment: environment.map_err(|error| PyValueError::new_err(error.to_string()))?,
    })
}
