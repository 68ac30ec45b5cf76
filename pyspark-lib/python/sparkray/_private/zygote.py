"""The zygote. A raylet (runtime/raylet/src/workers/zygote.rs) starts it and has called `module_path.prepare` before.

One Python process with a single thread that has imported what every worker needs, and forks workers on request. The
protocol is described there. It must never start a thread: a forked child has only the thread that forked, and locks
that others held stay locked in it for ever.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib.util
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

from sparkray._private import module_path, process, thread_limits

_MAX_MESSAGE = 64 * 1024
_PARENT_WAIT_SECONDS = 10.0


def _import_ahead() -> None:
    """What workers need, imported once. Not pyarrow or pandas: they start threads."""
    import asyncio  # noqa: F401
    import concurrent.futures.thread  # noqa: F401

    import cloudpickle  # noqa: F401

    from sparkray import _native  # noqa: F401
    from sparkray._private import actor, concurrent_actor, remote_function, worker_main  # noqa: F401

    found = importlib.util.find_spec("numpy")
    # One beside the script is the program's business.
    if found is not None and found.origin is not None and module_path.is_installed(found.origin):
        with contextlib.suppress(ImportError):
            import numpy  # noqa: F401


def _thread_count() -> int:
    return len(os.listdir("/proc/self/task"))


def _reply(control: socket.socket, message: dict[str, Any]) -> None:
    control.send(json.dumps(message).encode())


def _receive(control: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """One message and its descriptors; None at the end of the raylet."""
    descriptors = array.array("i")
    data, ancillary, _flags, _address = control.recvmsg(
        _MAX_MESSAGE, socket.CMSG_SPACE(3 * descriptors.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
    if not data:
        return None
    return json.loads(data), list(descriptors)


def _fork_twice(control: socket.socket, config: dict[str, Any], descriptors: list[int]) -> int:
    """Starts a worker that is a child of the raylet; returns its pid. Raises OSError."""
    read_end, write_end = os.pipe()
    try:
        middle = os.fork()
        if middle == 0:
            _in_middle(control, config, descriptors, read_end, write_end)
        os.close(write_end)
        write_end = -1
        answer = b""
        while chunk := os.read(read_end, 64):
            answer += chunk
        os.waitpid(middle, 0)
    finally:
        os.close(read_end)
        if write_end >= 0:
            os.close(write_end)
    if not answer.isdigit():
        raise OSError(answer.decode(errors="replace") or "the forked process ended before it reported")
    return int(answer)


def _in_middle(
    control: socket.socket, config: dict[str, Any], descriptors: list[int], read_end: int, write_end: int
) -> NoReturn:
    """The process between zygote and worker: it forks, reports the worker's pid and goes."""
    code = 1
    try:
        os.close(read_end)
        end_of_middle = process.pidfd_of_self()
        pid = os.fork()
        if pid == 0:
            os.close(write_end)
            _in_worker(control, config, descriptors, end_of_middle)
        os.write(write_end, str(pid).encode())
        code = 0
    except OSError as error:
        os.write(write_end, f"fork: {error.strerror}".encode())
    finally:
        os._exit(code)


def _in_worker(
    control: socket.socket, config: dict[str, Any], descriptors: list[int], end_of_middle: int | None
) -> NoReturn:
    raylet_pid = int(config["raylet_pid"])
    code = 1
    try:
        _become_child_of(raylet_pid, end_of_middle)
        connection, out, err = descriptors
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.close(out)
        os.close(err)
        control.close()
        sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        process.pass_over_interrupts()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        from sparkray._private import worker_main

        code = worker_main.main(connection, config)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _become_child_of(raylet_pid: int, end_of_middle: int | None) -> None:
    """Waits until the middle process is gone and asks for SIGKILL at the raylet's end; exits when that came first."""
    deadline = time.monotonic() + _PARENT_WAIT_SECONDS
    if end_of_middle is not None:
        poller = select.poll()
        poller.register(end_of_middle, select.POLLIN)
        poller.poll(_PARENT_WAIT_SECONDS * 1000)
        os.close(end_of_middle)
    while os.getppid() != raylet_pid:  # kernels without pidfd; the middle process is about to end
        if time.monotonic() > deadline or os.getppid() == 1:
            os._exit(1)
        time.sleep(0.0002)
    process.set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != raylet_pid:
        os._exit(1)


def main(prepared: Any) -> int:
    """Runs until the raylet closes the control socket.

    Args:
        prepared: what `module_path.prepare` gave.

    Returns:
        The exit code.
    """
    process.set_parent_death_signal(signal.SIGKILL)
    expected = os.environ.get("SPARKRAY_RAYLET_PID", "")
    if not expected.isdigit() or os.getppid() != int(expected):
        print(f"the zygote's parent is not the raylet with pid {expected or '(SPARKRAY_RAYLET_PID is not set)'}")
        return 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Ctrl-C at the driver's terminal, and Jupyter's interrupt, go to the driver's process group: they are not for the
    # programs that tasks have started.
    os.setpgid(0, 0)
    control = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)
    # Argument values must not point into the command line of the raylet's spawn.
    sys.argv = [""]
    thread_limits.begin()
    _import_ahead()
    if _thread_count() != 1:
        print(
            f"the zygote has {_thread_count()} threads after its imports, and workers cannot be forked from it: "
            "find the module that starts one (sitecustomize, usercustomize, a .pth file) and import it in tasks only"
        )
        return 1

    from sparkray._private.worker import python_version
    from sparkray._version import __version__

    module_path.take(prepared)
    gc.collect()
    gc.freeze()
    _reply(
        control,
        {
            "kind": "ready",
            "pid": os.getpid(),
            "python_version": python_version(),
            "sparkray_version": __version__,
        },
    )
    while (received := _receive(control)) is not None:
        message, descriptors = received
        worker_id = str(message.get("worker_id", ""))
        try:
            if message.get("kind") != "fork" or len(descriptors) != 3:
                raise OSError(f"the request {message.get('kind')!r} with {len(descriptors)} descriptors is not known")
            pid = _fork_twice(control, message["config"], descriptors)
            answer: dict[str, Any] = {"kind": "forked", "worker_id": worker_id, "pid": pid}
        except OSError as error:
            answer = {"kind": "failed", "worker_id": worker_id, "error": str(error)}
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        _reply(control, answer)
    return 0


if __name__ == "__main__":
    sys.exit(main(globals()["PREPARED"]))
