"""Prints what workers wrote, each line after Ray's prefix: `(f pid=123)` or `(f pid=123, ip=1.2.3.4)`, and what else
is told from a thread of the runtime (`write`).

The driver's streams are anything that a program puts there: closed, None, without `isatty` or `flush`, of another
encoding, or of bytes. What the first choice does not take goes to the next (`_choices`); nothing is raised.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

_CYAN = "\033[36m"
_RESET = "\033[0m"

# Lines that a worker wrote before its last task ended are here after this time without any, twice, with an answer of
# the raylet before each: longer than raylets hold lines back. On a busy machine they get to their work late: it is as
# many times longer as threads want each processor, and longer than so many of the answers took.
_QUIET_SECONDS = 0.05
_ANSWERS_OF_QUIET = 5
_DRAIN_SECONDS = 2.0

_local_ip = ""
_shown = True
_arrival = threading.Condition()
_arrivals = 0


def set_local_ip(ip: str) -> None:
    """Lines from this address are printed without it."""
    global _local_ip
    _local_ip = ip


def set_shown(shown: bool) -> None:
    """Whether lines are printed from now on."""
    global _shown
    _shown = shown


def prefix(name: str, pid: int, ip: str, local_ip: str) -> str:
    """What stands before a line of worker `pid` on node `ip`."""
    who = f"{name} pid={pid}" if name else f"pid={pid}"
    return f"({who}, ip={ip})" if ip and ip != local_ip else f"({who})"


def print_lines(lines: Sequence[tuple[str, int, str, str, bool]]) -> None:
    """Prints lines of (name, pid, ip, text, is_stderr). Called by a native thread of the driver."""
    global _arrivals
    try:
        for is_stderr in (False, True):
            chosen = [line for line in lines if line[4] is is_stderr]
            if chosen and _shown:
                _print(chosen, is_stderr)
    finally:
        with _arrival:
            _arrivals += 1
            _arrival.notify_all()


def drain(ask: Callable[[], object]) -> None:
    """Waits until the workers' output has stopped coming, so that the last lines of a program are not lost.

    Args:
        ask: asks the raylet and the head something; they pass on what they had read before they answer.
    """
    deadline = time.monotonic() + _DRAIN_SECONDS
    for _ in range(2):
        # In a thread of its own: what does not answer must not hold up the end of the program.
        asking = threading.Thread(target=_ask_quietly, args=(ask,), name="sparkray-drain", daemon=True)
        start = time.monotonic()
        asking.start()
        asking.join(max(0.0, deadline - start))
        took = time.monotonic() - start
        _wait_for_quiet(deadline, max(_QUIET_SECONDS * _crowding(), _ANSWERS_OF_QUIET * took))


def _crowding() -> float:
    """How many threads want each processor; at least 1."""
    try:
        return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    except OSError:
        return 1.0


def _ask_quietly(ask: Callable[[], object]) -> None:
    try:
        ask()
    except Exception:  # the cluster is lost: nothing more comes
        pass


def _wait_for_quiet(deadline: float, quiet: float) -> None:
    with _arrival:
        while True:
            seen = _arrivals
            wait = min(quiet, deadline - time.monotonic())
            if wait <= 0 or not _arrival.wait_for(lambda seen=seen: _arrivals != seen, wait):  # type: ignore[misc]
                return


def write(text: str, is_stderr: bool) -> None:
    """Writes what is for the user to the program's stream, or to the next that takes it; raises nothing."""
    for stream in _choices(is_stderr):
        if _takes(stream, text):
            return


def _print(lines: Sequence[tuple[str, int, str, str, bool]], is_stderr: bool) -> None:
    for stream in _choices(is_stderr):
        coloured = _is_terminal(stream)
        parts = []
        for name, pid, ip, text, _ in lines:
            start = prefix(name, pid, ip, _local_ip)
            parts.append(f"{_CYAN}{start}{_RESET} {text}\n" if coloured else f"{start} {text}\n")
        if _takes(stream, "".join(parts)):
            return


def _choices(is_stderr: bool) -> list[Any]:
    """Where lines may go, the best first: the program's stream, the process's own, and the same of the other kind.

    Never the bare descriptors 1 and 2: once their stream is closed they may be another file.
    """
    out, err = [sys.stdout, sys.__stdout__], [sys.stderr, sys.__stderr__]
    return [stream for stream in (err + out if is_stderr else out + err) if stream is not None]


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except BaseException:  # closed, no such method, or whatever the program's own stream raises
        return False


def _takes(stream: Any, text: str) -> bool:
    """Writes and flushes; whether the stream took the text, or nobody reads it any more (`program | head`)."""
    for written in _spellings(stream, text):
        try:
            stream.write(written)
        except BrokenPipeError:
            return True
        except BaseException:  # the program's own stream may raise anything, and this thread must go on
            continue
        try:
            stream.flush()
        except BaseException:  # it has the text
            pass
        return True
    return False


def _spellings(stream: Any, text: str) -> list[str | bytes]:
    """The text; then as the stream's encoding can say it; then as bytes."""
    spellings: list[str | bytes] = [text]
    encoding = getattr(stream, "encoding", None)
    if isinstance(encoding, str):
        try:
            spellings.append(text.encode(encoding, "backslashreplace").decode(encoding))
        except (LookupError, ValueError):
            pass
    spellings.append(text.encode("utf-8", "backslashreplace"))
    return spellings
