"""Errors of tasks that nobody asked for, told to the user: on standard error, which of a worker goes to the driver."""

from __future__ import annotations

import os
import sys

_IGNORED = "RAY_IGNORE_UNHANDLED_ERRORS"


def may_be_kept() -> bool:
    """Whether this is an interactive program: by Ray's rule one that runs no file. It keeps references that it does not
    use any more (IPython's `Out`), so that its errors are told after a while, too."""
    return not hasattr(sys.modules["__main__"], "__file__")


def report(body: bytes, left_out: int) -> None:
    """Prints one, unless RAY_IGNORE_UNHANDLED_ERRORS is in the environment now.

    Args:
        body: of the error value.
        left_out: how many came before it, too fast to be printed.
    """
    from sparkray._private import log_output
    from sparkray._private.serialization import load_error

    if _IGNORED in os.environ:
        return
    lines = [f"Unhandled error (suppress with '{_IGNORED}=1'): {load_error(body)}"]
    if left_out:
        lines.insert(0, f"{left_out} more unhandled errors came faster than they were printed: not shown")
    log_output.write("".join(f"{line}\n" for line in lines), is_stderr=True)
