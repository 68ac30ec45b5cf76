"""Failures of Spark and of sparkray's Java as Python exceptions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from sparkray import exceptions
from sparkray._private import failures

_NATIVE_FAILURE = "org.sparkray.SparkRayException"
_INVALID_ARGUMENT = "java.lang.IllegalArgumentException"
_PYTHON_EXCEPTION = "org.apache.spark.api.python.PythonException"
_STACK_LINES = ("\tat ", "Driver stacktrace:", "Caused by: ")
# Causes are at most so deep.
_DEEPEST = 20


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Inside a with statement: a Java exception becomes the exception of its kind, with one sentence.

    A failure of sparkray's native code keeps its kind wherever in Spark's chain of causes it is; a refused argument is
    a TypeError; anything else is a RaySystemError with the reason that Spark gives: the traceback of a Python function
    that raised in a task, or Spark's message without Java's stack. Spark's exception is the cause.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except Exception as error:
        java_exception = getattr(error, "java_exception", None) or getattr(error, "_origin", None)
        if java_exception is None:
            if isinstance(error, Py4JError):
                raise exceptions.RaySystemError(f"{what}: Spark's driver does not answer any more ({error})") from error
            if isinstance(error, PySparkException):
                # Spark 3.5 keeps only the text of a Python function's error.
                text = getattr(error, "desc", None) or str(error)
                raise exceptions.RaySystemError(f"{what}: {_reason(text)}") from error
            raise
        raise _python_exception(what, java_exception) from error


def one_line(error: Exception) -> str:
    """What an exception, such as that of a call of Java, says: in one line, without Java's stack."""
    java_exception: Any = getattr(error, "java_exception", None)
    try:
        text = str(error) if java_exception is None else str(java_exception.getMessage() or java_exception.toString())
    except Exception:  # Java is gone: its own last words are in its log.
        text = "its Java process ended, see its log"
    return " ".join(_reason(text).split())


def _python_exception(what: str, java_exception: Any) -> Exception:
    cause = java_exception
    for _ in range(_DEEPEST):
        if cause is None:
            break
        name = cause.getClass().getName()
        if name == _NATIVE_FAILURE:
            return failures.from_failure(cause.getCode(), f"{what}: {cause.getMessage()}")
        if name == _INVALID_ARGUMENT and cause.equals(java_exception):
            return TypeError(cause.getMessage())
        if name == _PYTHON_EXCEPTION:
            return exceptions.RaySystemError(f"{what}: {_reason(cause.getMessage() or '')}")
        cause = cause.getCause()
    message = java_exception.getMessage() or java_exception.toString()
    return exceptions.RaySystemError(f"{what}: {_reason(message)}")


def _reason(message: str) -> str:
    """The message without the lines of Java's stack."""
    lines = message.strip().splitlines()
    end = next((index for index, line in enumerate(lines) if line.startswith(_STACK_LINES)), len(lines))
    return "\n".join(lines[:end]).strip()
