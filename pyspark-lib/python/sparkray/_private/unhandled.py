"""Errors of tasks that nobody asked for, told to the user of a driver."""

from __future__ import annotations

import os
import sys

_IGNORED = "RAY_IGNORE_UNHANDLED_ERRORS"


def is_told() -> bool:
    """Whether they are to be told: unless the environment has RAY_IGNORE_UNHANDLED_ERRORS=1."""
    return os.environ.get(_IGNORED) != "1"


def report(body: bytes, left_out: int) -> None:
    """Prints one to standard error.

    Args:
        body: of the error value.
        left_out: how many came before it, too fast to be printed.
    """
    from sparkray._private.serialization import load_error

    lines = [f"Unhandled error (suppress with '{_IGNORED}=1'): {load_error(body)}"]
    if left_out:
        lines.insert(0, f"{left_out} more unhandled errors came faster than they were printed: not shown")
    print("\n".join(lines), file=sys.stderr, flush=True)
