"""How a process of a task of Spark finds the manager above it, without Spark: this process plays the JVM."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator

PATIENCE = 60.0
REASON = b"this one only says so"
# A RayletAccess with nothing but a failure.
ANSWER = b"\x0a" + bytes([len(REASON)]) + REASON

ASK = """
    from sparkray._private import spark_task
    print(spark_task._ask_manager())
"""
# Listens at a name with somebody else's pid in it, until its standard input ends.
PRETEND = """
    import os, socket, sys
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\\0sparkray-tasks-{os.getppid()}-00")
        listener.listen()
        print("listens", flush=True)
        sys.stdin.read()
"""


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    return done.stdout.strip()


@contextlib.contextmanager
def manager() -> Iterator[None]:
    """Answers everybody at a socket with the pid of this process in its name."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0sparkray-tasks-{os.getpid()}-ff")
        listener.listen()
        is_over = threading.Event()

        def answer() -> None:
            while not is_over.is_set():
                with listener.accept()[0] as caller, contextlib.suppress(OSError):
                    caller.sendall(ANSWER)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield
        is_over.set()
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(listener.getsockname())
        thread.join(PATIENCE)


@contextlib.contextmanager
def pretender() -> Iterator[None]:
    """Another process listens at a name with the pid of this one in it."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PRETEND)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"listens\n"
        yield
        process.stdin.close()


def test_the_process_above_is_asked() -> None:
    with manager():
        assert REASON.decode() in run(ASK)


def test_one_that_is_further_above_is_asked() -> None:
    between = (
        f"import subprocess, sys; print(subprocess.check_output([sys.executable, '-c', {ASK.strip()!r}]).decode())"
    )
    with manager():
        assert REASON.decode() in run(between.replace("\\n    ", "\\n"))


def test_who_only_has_the_name_is_passed_by() -> None:
    with pretender():
        assert run(ASK) == "None"
        with manager():
            assert REASON.decode() in run(ASK)


def test_outside_of_tasks_of_spark_nobody_is_asked() -> None:
    code = """
        import os
        os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
        import pyspark.taskcontext
        import sparkray
        # Not what a task has.
        kept = pyspark.taskcontext.TaskContext()
        assert not sparkray.is_initialized()
        try:
            sparkray.put(1)
        except sparkray.exceptions.RaySystemError as error:
            print(error)
    """
    with manager():
        assert "call sparkray.init()" in run(code)
