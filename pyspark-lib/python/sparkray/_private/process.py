"""What Python lacks about Linux processes."""

from __future__ import annotations

import ctypes
import os

_PR_SET_PDEATHSIG = 1


def set_parent_death_signal(signal_number: int) -> None:
    """The kernel sends this signal when the thread that started this process ends. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal_number), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_PDEATHSIG): {os.strerror(number)}")


def never_free(thing: object) -> None:
    """Keeps an object beyond the end of the interpreter: for a forked child, to which it does not belong."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def pidfd_of_self() -> int | None:
    """A descriptor that becomes readable when this process ends; None where the kernel has no such thing."""
    opener = getattr(os, "pidfd_open", None)
    if opener is None:
        return None
    try:
        return int(opener(os.getpid()))
    except OSError:
        return None
