//! `get` and `wait`.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};
use sparkray_common::ObjectId;
use sparkray_core_worker::{CoreWorker, Fetched};

use crate::convert::{check_signals, deadline_after, exception, wait_exception};
use crate::doors::{self, Visitor};
use crate::object_ref::{ObjectRef, reading};
use crate::runtime::Runtime;
use crate::values::{Loaded, load};

type Ready<'py> = (Bound<'py, PyList>, Bound<'py, PyList>);

/// Checks that something is a reference of this runtime.
fn check_reference<'a, 'py>(
    runtime: &Runtime,
    item: &'a Bound<'py, PyAny>,
) -> PyResult<&'a Bound<'py, ObjectRef>> {
    let reference = item.cast_exact::<ObjectRef>().map_err(|_| {
        PyTypeError::new_err(format!(
            "expected an ObjectRef, got a {}: pass what remote() or put() returned",
            item.get_type()
                .name()
                .map_or_else(|_| "value".to_owned(), |name| name.to_string())
        ))
    })?;
    let this = reference.get();
    doors::check(Visitor::Object(this.id), &this.worker, &runtime.core)?;
    Ok(reference)
}

/// Calls `each` for the items of a list, a tuple or another iterable.
fn for_each<'py>(
    items: &Bound<'py, PyAny>,
    mut each: impl FnMut(Bound<'py, PyAny>) -> PyResult<()>,
) -> PyResult<()> {
    if let Ok(list) = items.cast_exact::<PyList>() {
        for item in list.iter() {
            each(item)?;
        }
    } else if let Ok(tuple) = items.cast_exact::<PyTuple>() {
        for item in tuple.iter() {
            each(item)?;
        }
    } else {
        for item in items.try_iter()? {
            each(item?)?;
        }
    }
    Ok(())
}

/// The ids of references, all of this runtime.
pub(crate) fn ids_of(runtime: &Runtime, refs: &Bound<'_, PyAny>) -> PyResult<Vec<ObjectId>> {
    let mut ids = Vec::with_capacity(refs.len().unwrap_or(0));
    for_each(refs, |item| {
        ids.push(check_reference(runtime, &item)?.get().id);
        Ok(())
    })?;
    Ok(ids)
}

/// The values of references; raises the exception of the first that has none.
pub(crate) fn get<'py>(
    runtime: &Runtime,
    refs: &Bound<'py, PyAny>,
    timeout: Option<f64>,
) -> PyResult<Bound<'py, PyList>> {
    let py = refs.py();
    let ids = ids_of(runtime, refs)?;
    let deadline = deadline_after(timeout)?;
    let fetched = py
        .detach(|| runtime.core.get(&ids, deadline, &check_signals))
        .map_err(|error| {
            let waited_for = match timeout {
                Some(seconds) if ids.len() == 1 => {
                    format!("get() timed out after {seconds} s: the object did not exist")
                }
                Some(seconds) => format!(
                    "get() timed out after {seconds} s: not all of {} objects existed",
                    ids.len()
                ),
                None => "get() ended".to_owned(),
            };
            wait_exception(py, error, &waited_for)
        })?;
    let mut values = Vec::with_capacity(fetched.len());
    for (id, value) in ids.into_iter().zip(fetched) {
        let value = value.map_err(|error| exception(py, &error))?;
        values.push(read(py, &runtime.core, id, &value)?);
    }
    PyList::new(py, values)
}

/// What an object's value is in Python; its exception when it is an error. The object is kept until the owners of the
/// references inside know this process.
pub(crate) fn read<'py>(
    py: Python<'py>,
    core: &Arc<CoreWorker>,
    id: ObjectId,
    value: &Fetched,
) -> PyResult<Bound<'py, PyAny>> {
    let (loaded, inside) = reading(|| load(py, value));
    if !inside.is_empty() {
        py.detach(|| core.keep_until_borrowed(id, &inside));
    }
    match loaded? {
        Loaded::Value(object) => Ok(object),
        Loaded::Raised(error) => Err(error),
    }
}

/// Waits until the owners of references in the arguments of a call know this process: the caller keeps the arguments
/// until it has the answer.
pub(crate) fn wait_for_borrows(py: Python<'_>, core: &Arc<CoreWorker>, inside: &[ObjectId]) -> PyResult<()> {
    if inside.is_empty() {
        return Ok(());
    }
    py.detach(|| core.wait_for_borrows(inside, &check_signals))
        .map_err(|error| wait_exception(py, error, "the owner of a reference did not answer"))
}

/// Splits references into `num_returns` that are ready, or fewer at the timeout, and the rest, both in order.
pub(crate) fn wait<'py>(
    runtime: &Runtime,
    refs: &Bound<'py, PyAny>,
    num_returns: usize,
    timeout: Option<f64>,
) -> PyResult<Ready<'py>> {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let py = refs.py();
    let deadline = deadline_after(timeout)?;
    let count = refs.len().unwrap_or(0);
    let mut items = Vec::with_capacity(count);
    let mut ids = Vec::with_capacity(count);
    let call = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
    let mut repeated = false;
    let mut copies = false;
    for_each(refs, |item| {
        let reference = check_reference(runtime, &item)?.get();
        // One object per reference, unless it was copied by pickle: then ids have to be compared.
        repeated |= reference.mark(call);
        copies |= reference.is_copy;
        ids.push(reference.id);
        items.push(item);
        Ok(())
    })?;
    if copies && !repeated {
        let mut seen = HashSet::with_capacity(ids.len());
        repeated = !ids.iter().all(|id| seen.insert(*id));
    }
    if repeated {
        return Err(PyValueError::new_err(
            "wait() needs a list of different references; some occur twice",
        ));
    }
    let indices = py
        .detach(|| runtime.core.wait(&ids, num_returns, deadline, &check_signals))
        .map_err(|error| wait_exception(py, error, "wait() ended"))?;
    let mut ready = Vec::with_capacity(indices.len());
    let mut rest = Vec::with_capacity(items.len() - indices.len());
    let mut next = indices.into_iter().peekable();
    for (index, item) in items.into_iter().enumerate() {
        if next.next_if_eq(&index).is_some() {
            ready.push(item);
        } else {
            rest.push(item);
        }
    }
    Ok((PyList::new(py, ready)?, PyList::new(py, rest)?))
}
