//! Values to Python objects and back.

use bytes::Bytes;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyMemoryView, PyString, PyTuple};
use sparkray_common::{ErrorCode, ObjectId, ValueFormat, ValueHeader};
use sparkray_core_worker::{CoreError, Fetched, NewValue};

use crate::convert::Attribute;
use crate::object_ref::{ObjectRef, collecting};

/// Parts that the fast path looks through before it leaves a value to Python.
const PLAIN_BUDGET: usize = 64;
const PICKLE_PROTOCOL: i32 = 5;

/// A serialized value, still in Python's memory.
pub(crate) struct Serialized {
    format: ValueFormat,
    body: Body,
    buffers: Vec<PyBuffer<u8>>,
    /// References inside, kept with the value.
    pub(crate) contained: Vec<Py<ObjectRef>>,
}

enum Body {
    Empty,
    Bytes(Py<PyBytes>),
    Buffer(PyBuffer<u8>),
}

impl Serialized {
    /// The ids of the references inside.
    pub(crate) fn contained_ids(&self) -> Vec<ObjectId> {
        self.contained
            .iter()
            .map(|reference| reference.get().id)
            .collect()
    }

    /// Lends the parts to `use_value`.
    pub(crate) fn with_value<T>(
        &self,
        py: Python<'_>,
        use_value: impl FnOnce(&NewValue<'_>) -> T,
    ) -> PyResult<T> {
        let mut buffers = Vec::with_capacity(self.buffers.len());
        for buffer in &self.buffers {
            buffers.push(bytes_of(buffer)?);
        }
        let body: &[u8] = match &self.body {
            Body::Empty => &[],
            Body::Bytes(bytes) => bytes.as_bytes(py),
            Body::Buffer(buffer) => bytes_of(buffer)?,
        };
        Ok(use_value(&NewValue {
            format: self.format,
            body,
            buffers: &buffers,
            contained: self.contained_ids(),
        }))
    }

    /// The whole value.
    #[allow(
        clippy::redundant_closure_for_method_calls,
        reason = "the method is not general in the lifetime"
    )]
    pub(crate) fn to_bytes(&self, py: Python<'_>) -> PyResult<Bytes> {
        self.with_value(py, |value| value.to_bytes())
    }

    /// Bytes of body and buffers.
    pub(crate) fn len(&self, py: Python<'_>) -> usize {
        let body = match &self.body {
            Body::Empty => 0,
            Body::Bytes(bytes) => bytes.as_bytes(py).len(),
            Body::Buffer(buffer) => buffer.len_bytes(),
        };
        body + self
            .buffers
            .iter()
            .map(|buffer| buffer.len_bytes())
            .sum::<usize>()
    }

    /// An error value with this body.
    pub(crate) fn error(body: Py<PyBytes>) -> Self {
        Self {
            format: ValueFormat::Error,
            body: Body::Bytes(body),
            buffers: Vec::new(),
            contained: Vec::new(),
        }
    }
}

/// The bytes of a contiguous buffer, which its exporter keeps in place while the `PyBuffer` lives.
fn bytes_of(buffer: &PyBuffer<u8>) -> PyResult<&[u8]> {
    if !buffer.is_c_contiguous() && !buffer.is_fortran_contiguous() {
        return Err(PyBufferError::new_err("a buffer of a pickle is not contiguous"));
    }
    // SAFETY: the buffer is contiguous and has `len_bytes` bytes at `buf_ptr`, which stay there while the `PyBuffer`
    // holds its export. Python code that changes them meanwhile makes a torn value, as it would with `pickle.dumps`.
    #[allow(unsafe_code)]
    Ok(unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), buffer.len_bytes()) })
}

/// Whether `value` is made of exact built-in types only, which the C pickler writes without help.
fn is_plain(value: &Bound<'_, PyAny>, budget: &mut usize) -> bool {
    if *budget == 0 {
        return false;
    }
    *budget -= 1;
    if value.is_none()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyFloat>()
        || value.is_exact_instance_of::<PyBool>()
    {
        return true;
    }
    if let Ok(bytes) = value.cast_exact::<PyBytes>() {
        return bytes.as_bytes().len() <= 4096;
    }
    if let Ok(items) = value.cast_exact::<PyTuple>() {
        return items.iter().all(|item| is_plain(&item, budget));
    }
    if let Ok(items) = value.cast_exact::<PyList>() {
        return items.iter().all(|item| is_plain(&item, budget));
    }
    if let Ok(items) = value.cast_exact::<PyDict>() {
        return items
            .iter()
            .all(|(key, item)| is_plain(&key, budget) && is_plain(&item, budget));
    }
    false
}

fn pickle_dumps<'py>(py: Python<'py>, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    static DUMPS: Attribute = Attribute::new("_pickle", "dumps");
    let dumps = DUMPS.get(py)?;
    Ok(dumps.call1((value, PICKLE_PROTOCOL))?.cast_into::<PyBytes>()?)
}

/// Serializes a value. Raises what `sparkray._private.serialization.dumps` raises.
pub(crate) fn serialize(value: &Bound<'_, PyAny>) -> PyResult<Serialized> {
    static DUMPS: Attribute = Attribute::new("sparkray._private.serialization", "dumps");
    let py = value.py();
    let nothing_inside = |format, body| Serialized {
        format,
        body,
        buffers: Vec::new(),
        contained: Vec::new(),
    };
    if value.is_none() {
        return Ok(nothing_inside(ValueFormat::None, Body::Empty));
    }
    if let Ok(bytes) = value.cast_exact::<PyBytes>() {
        return Ok(nothing_inside(
            ValueFormat::Raw,
            Body::Bytes(bytes.clone().unbind()),
        ));
    }
    if is_plain(value, &mut PLAIN_BUDGET.clone()) {
        let body = pickle_dumps(py, value)?;
        return Ok(nothing_inside(ValueFormat::Pickle5, Body::Bytes(body.unbind())));
    }
    let dumps = DUMPS.get(py)?;
    let (made, contained) = collecting(|| dumps.call1((value,)))?;
    let (format, body, buffers): (u8, Bound<'_, PyAny>, Vec<Bound<'_, PyAny>>) = made.extract()?;
    let format = match format {
        1 => ValueFormat::Pickle5,
        2 => ValueFormat::Arrow,
        3 => ValueFormat::Raw,
        4 => ValueFormat::Error,
        6 => ValueFormat::None,
        other => {
            return Err(PyValueError::new_err(format!(
                "serialization.dumps gave the unknown format {other}"
            )));
        }
    };
    let body = match body.cast_exact::<PyBytes>() {
        Ok(bytes) => Body::Bytes(bytes.clone().unbind()),
        Err(_) => Body::Buffer(raw_buffer(&body)?),
    };
    let buffers = buffers.iter().map(raw_buffer).collect::<PyResult<Vec<_>>>()?;
    Ok(Serialized {
        format,
        body,
        buffers,
        contained,
    })
}

/// The bytes of an exporter of buffers, whatever the type of its items.
fn raw_buffer(object: &Bound<'_, PyAny>) -> PyResult<PyBuffer<u8>> {
    if object.hasattr("raw")? {
        return PyBuffer::get(&object.call_method0("raw")?);
    }
    let view = PyMemoryView::from(object)?;
    PyBuffer::get(&view.call_method1("cast", ("B",))?)
}

/// Part of a value as a read-only buffer. It keeps the value's memory.
#[pyclass(frozen, module = "sparkray._native")]
pub(crate) struct ValueBuffer {
    value: Fetched,
    offset: usize,
    len: usize,
}

#[pymethods]
impl ValueBuffer {
    fn __len__(&self) -> usize {
        self.len
    }

    #[allow(unsafe_code)]
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: std::ffi::c_int,
    ) -> PyResult<()> {
        let this = slf.get();
        let part = &this.value.as_slice()[this.offset..this.offset + this.len];
        // SAFETY: `view` comes from the interpreter. The memory is kept by `slf`, which the view refers to, and is
        // never written: the view is read-only.
        let outcome = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                part.as_ptr().cast_mut().cast(),
                part.len() as ffi::Py_ssize_t,
                1,
                flags,
            )
        };
        if outcome == 0 {
            Ok(())
        } else {
            Err(PyErr::fetch(slf.py()))
        }
    }
}

fn buffer_over<'py>(
    py: Python<'py>,
    value: &Fetched,
    offset: usize,
    len: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let buffer = Bound::new(
        py,
        ValueBuffer {
            value: value.clone(),
            offset,
            len,
        },
    )?;
    Ok(PyMemoryView::from(buffer.as_any())?.into_any())
}

/// A value that was read.
pub(crate) enum Loaded<'py> {
    /// The object.
    Value(Bound<'py, PyAny>),
    /// The exception of the task that should have made it.
    Raised(PyErr),
}

/// Makes the Python object. Large parts stay where they are.
pub(crate) fn load<'py>(py: Python<'py>, value: &Fetched) -> PyResult<Loaded<'py>> {
    static PICKLE_LOADS: Attribute = Attribute::new("_pickle", "loads");
    static LOADS: Attribute = Attribute::new("sparkray._private.serialization", "loads");
    let bytes = value.as_slice();
    let header = ValueHeader::read(bytes).map_err(|error| PyValueError::new_err(error.to_string()))?;
    let body = header.body(bytes);
    match header.format {
        ValueFormat::None => return Ok(Loaded::Value(py.None().into_bound(py))),
        ValueFormat::Raw => return Ok(Loaded::Value(PyBytes::new(py, body).into_any())),
        ValueFormat::Pickle5 if header.buffer_count == 0 && matches!(value, Fetched::Inline(_)) => {
            let loads = PICKLE_LOADS.get(py)?;
            return Ok(Loaded::Value(loads.call1((PyBytes::new(py, body),))?));
        }
        _ => {}
    }
    // The arguments of a call lie where their frame was read.
    let moved = value.moved_to_align();
    let value = moved.as_ref().unwrap_or(value);
    let bytes = value.as_slice();
    let loads = LOADS.get(py)?;
    let views = PyList::empty(py);
    for (offset, len) in header
        .buffers(bytes)
        .map_err(|error| PyValueError::new_err(error.to_string()))?
    {
        views.append(buffer_over(py, value, offset, len)?)?;
    }
    let body = buffer_over(py, value, sparkray_common::VALUE_HEADER_LEN, header.body_len)?;
    let object = loads.call1((header.format as u8, body, views))?;
    if header.format == ValueFormat::Error {
        return Ok(Loaded::Raised(PyErr::from_value(object)));
    }
    Ok(Loaded::Value(object))
}

/// A failure that is neither the user's nor another process's: something here is not as it must be.
pub(crate) fn internal(message: impl Into<String>) -> CoreError {
    CoreError::new(ErrorCode::Internal, message)
}
