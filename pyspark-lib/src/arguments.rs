//! Arguments of calls, and templates of remote functions.

use std::collections::BTreeMap;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyFrozenSet, PyList, PySet, PyString, PyTuple};
use sparkray_common::{FunctionId, ResourceSet};
use sparkray_core_worker::{ALWAYS_INLINE, CallArguments, TaskTemplate};

use crate::convert::bad_id;
use crate::doors::{self, Visitor};
use crate::object_ref::ObjectRef;
use crate::runtime::Runtime;
use crate::strategy::{PyStrategy, worker_key};
use crate::values::{Serialized, serialize};

/// What all calls of one remote function with the same options share.
#[pyclass(frozen, name = "TaskTemplate", module = "sparkray._native")]
pub(crate) struct PyTaskTemplate {
    pub(crate) inner: Arc<TaskTemplate>,
}

#[pymethods]
impl PyTaskTemplate {
    #[new]
    #[pyo3(signature = (function_id, function_blob, name, num_returns, resources, max_retries, retry_exceptions, strategy=None, env_vars=None))]
    fn new(
        function_id: &[u8],
        function_blob: &[u8],
        name: String,
        num_returns: u32,
        resources: BTreeMap<String, f64>,
        max_retries: i32,
        retry_exceptions: bool,
        strategy: Option<PyStrategy>,
        env_vars: Option<BTreeMap<String, String>>,
    ) -> PyResult<Self> {
        let inner = TaskTemplate {
            function_id: FunctionId::from_slice(function_id).map_err(bad_id)?,
            function_blob: function_blob.to_vec().into(),
            name,
            num_returns,
            resources: resource_set(resources)?,
            max_retries,
            retry_exceptions,
            strategy: strategy.unwrap_or_default().0,
            worker: worker_key(env_vars)?,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }
}

pub(crate) fn resource_set(units: BTreeMap<String, f64>) -> PyResult<ResourceSet> {
    ResourceSet::from_units(units).map_err(|error| pyo3::exceptions::PyValueError::new_err(error.to_string()))
}

/// Encoded arguments, and what has to be kept until the call is submitted.
pub(crate) struct Encoded {
    pub(crate) arguments: CallArguments,
    /// References inside the value.
    _contained: Vec<Py<ObjectRef>>,
    /// Large arguments that were put into the store for this call.
    _put: Vec<ObjectRef>,
}

/// What arguments are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A call, which they go with.
    Call,
    /// An actor, which keeps them for its restarts.
    Creation,
}

/// Encodes the arguments of a call. Without keywords and references they are one tuple; else all of them are one list,
/// in which references at the top level leave their places empty.
pub(crate) fn encode(
    runtime: &Runtime,
    args: &Bound<'_, PyTuple>,
    kwargs: &Bound<'_, PyDict>,
    purpose: Purpose,
) -> PyResult<Encoded> {
    let py = args.py();
    let mut call = CallArguments::default();
    let mut put = Vec::new();
    if args.is_empty() && kwargs.is_empty() {
        return Ok(Encoded {
            arguments: call,
            _contained: Vec::new(),
            _put: put,
        });
    }
    let is_simple = kwargs.is_empty() && !args.iter().any(|item| item.is_exact_instance_of::<ObjectRef>());
    // Large arguments are pickled where they end up, and before that only when nothing else tells that they are large.
    let mut is_large = args
        .iter()
        .chain(kwargs.iter().map(|(_, item)| item))
        .map(|item| least_len(&item))
        .any(|len| len > inline_limit(runtime, len));
    let mut value = None;
    if is_simple && !is_large {
        let whole = serialize(args.as_any())?;
        let len = whole.len(py);
        is_large = len > inline_limit(runtime, len);
        if !is_large {
            value = Some(whole);
        }
    }
    let value = match value {
        Some(value) => value,
        None => encode_parts(runtime, args, kwargs, purpose, is_large, &mut call, &mut put)?,
    };
    call.value = value.to_bytes(py)?;
    call.contained = value.contained_ids();
    Ok(Encoded {
        arguments: call,
        _contained: value.contained,
        _put: put,
    })
}

/// How long arguments may be to travel with their call. Short ones always may, which costs no look at the core worker.
fn inline_limit(runtime: &Runtime, len: usize) -> usize {
    if len <= ALWAYS_INLINE {
        return ALWAYS_INLINE;
    }
    runtime.core.inline_limit()
}

/// A lower bound of an argument's length as a value: each element of a collection takes a byte at least.
fn least_len(item: &Bound<'_, PyAny>) -> usize {
    let is_counted = item.is_exact_instance_of::<PyBytes>()
        || item.is_exact_instance_of::<PyString>()
        || item.is_exact_instance_of::<PyList>()
        || item.is_exact_instance_of::<PyDict>()
        || item.is_exact_instance_of::<PyTuple>()
        || item.is_exact_instance_of::<PyByteArray>()
        || item.is_exact_instance_of::<PySet>()
        || item.is_exact_instance_of::<PyFrozenSet>();
    if is_counted { item.len().unwrap_or(0) } else { 0 }
}

/// `is_large`: all arguments together are known to be longer than what may travel with the call.
fn encode_parts(
    runtime: &Runtime,
    args: &Bound<'_, PyTuple>,
    kwargs: &Bound<'_, PyDict>,
    purpose: Purpose,
    is_large: bool,
    call: &mut CallArguments,
    put: &mut Vec<ObjectRef>,
) -> PyResult<Serialized> {
    let py = args.py();
    let flat = PyList::empty(py);
    for (index, item) in args.iter().enumerate() {
        flat.append(take_reference(runtime, index, item, call)?)?;
    }
    for (index, (name, item)) in kwargs.iter().enumerate() {
        call.keyword_names.push(name.cast::<PyString>()?.to_string());
        flat.append(take_reference(runtime, args.len() + index, item, call)?)?;
    }
    if !is_large {
        let value = serialize(flat.as_any())?;
        let len = value.len(py);
        if len <= inline_limit(runtime, len) {
            return Ok(value);
        }
    }
    let limit = runtime.core.inline_limit();
    // Large arguments go to the store, so that they do not pass through the control connections.
    for (index, item) in flat.iter().enumerate() {
        if item.is_none() {
            continue;
        }
        let part = serialize(&item)?;
        if part.len(py) > limit {
            let reference = match purpose {
                Purpose::Call => runtime.put_argument(py, &part)?,
                Purpose::Creation => runtime.put_serialized(py, &part)?,
            };
            call.references.push((index as u32, reference.id));
            put.push(reference);
            flat.set_item(index, py.None())?;
        }
    }
    serialize(flat.as_any())
}

/// An argument that is a reference itself leaves `None` in its place.
fn take_reference<'py>(
    runtime: &Runtime,
    index: usize,
    item: Bound<'py, PyAny>,
    call: &mut CallArguments,
) -> PyResult<Bound<'py, PyAny>> {
    let Ok(reference) = item.cast_exact::<ObjectRef>() else {
        return Ok(item);
    };
    let reference = reference.get();
    doors::check(Visitor::Object(reference.id), &reference.worker, &runtime.core)?;
    call.references.push((index as u32, reference.id));
    Ok(item.py().None().into_bound(item.py()))
}
