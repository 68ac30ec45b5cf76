"""What Python lacks about Linux processes."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from typing import NoReturn

_PR_SET_PDEATHSIG = 1


def set_parent_death_signal(signal_number: int) -> None:
    """The kernel sends this signal when the thread that started this process ends. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal_number), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_PDEATHSIG): {os.strerror(number)}")


def pass_over_interrupts() -> None:
    """SIGINT ends a task that is cancelled, and does nothing else here; what this process starts takes it as usual.

    Not SIG_IGN, which programs inherit: whoever starts a program in a task could not stop it by SIGINT.
    """
    signal.signal(signal.SIGINT, _end_cancelled_task)
    os.register_at_fork(after_in_child=_take_interrupts_in_child)


def _end_cancelled_task(_signal_number: int, _frame: object) -> None:
    """A handler, which goes with exec."""
    from sparkray import _native

    if _native.take_interrupt():
        raise KeyboardInterrupt


def _take_interrupts_in_child() -> None:
    if signal.getsignal(signal.SIGINT) is _end_cancelled_task:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def never_free(thing: object) -> None:
    """Keeps an object beyond the end of the interpreter: for a forked child, to which it does not belong."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def end_forked_child(error: BaseException | None) -> NoReturn:
    """Ends a child that user code forked from a worker, as its program's end would, once it comes back from that code.

    Args:
        error: what the code raised. `SystemExit` says the exit code; others are printed, and the code is 1.
    """
    code = 0
    try:
        if isinstance(error, SystemExit):
            given = error.code
            if given is not None and not isinstance(given, int):
                print(given, file=sys.stderr)
                given = 1
            code = given or 0
        elif error is not None:
            code = 1
            traceback.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code & 0xFF)


def pidfd_of_self() -> int | None:
    """A descriptor that becomes readable when this process ends; None where the kernel has no such thing."""
    opener = getattr(os, "pidfd_open", None)
    if opener is None:
        return None
    try:
        return int(opener(os.getpid()))
    except OSError:
        return None
