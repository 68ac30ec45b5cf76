"""SIGINT is for the driver: workers pass over it, and what tasks start takes it as any program does."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

import sparkray
from process.helpers import PATIENCE

pytestmark = pytest.mark.usefixtures("shared")


PROGRAM = textwrap.dedent(
    """
    import time
    try:
        print(flush=True)
        time.sleep(300)
    except KeyboardInterrupt:
        raise SystemExit(7)
    """
)


def by_program() -> int:
    """How a program ends that SIGINT is sent to."""
    with subprocess.Popen(["sleep", "300"]) as program:
        program.send_signal(signal.SIGINT)
        return _end_of(program)


def by_shell() -> int:
    """The same for what a shell starts."""
    with subprocess.Popen("exec sleep 300", shell=True, start_new_session=True) as program:
        program.send_signal(signal.SIGINT)
        return _end_of(program)


def by_python() -> int:
    """A Python program sees it as KeyboardInterrupt."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        program.stdout.readline()
        program.send_signal(signal.SIGINT)
        return 0 if _end_of(program) == 7 else 1


def by_fork() -> int:
    """A forked child too."""
    ready, started = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(started, b"1")
            time.sleep(300)
            os._exit(1)
        except KeyboardInterrupt:
            os._exit(0)
    os.read(ready, 1)
    os.kill(child, signal.SIGINT)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def by_multiprocessing() -> int:
    """And a child of multiprocessing."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    child = context.Process(target=_wait_for_interrupt, args=(ready,))
    child.start()
    assert child.pid is not None
    assert ready.wait(PATIENCE)
    os.kill(child.pid, signal.SIGINT)
    child.join(PATIENCE)
    return -1 if child.exitcode is None else child.exitcode


def _wait_for_interrupt(ready):
    try:
        ready.set()
        time.sleep(300)
    except KeyboardInterrupt:
        sys.exit(0)
    sys.exit(1)


def _end_of(program: subprocess.Popen[bytes]) -> int:
    try:
        return program.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        program.kill()
        raise


WAYS = {
    by_program: -signal.SIGINT,
    by_shell: -signal.SIGINT,
    by_python: 0,
    by_fork: 0,
    by_multiprocessing: 0,
}


@sparkray.remote
class Plain:
    """Calls on the main thread."""

    def call(self, function):
        return function()


@sparkray.remote(max_concurrency=2)
class Threaded:
    """Calls on threads that are not the main one."""

    def call(self, function):
        return function()


@sparkray.remote
class Asynchronous:
    """Calls in an event loop."""

    async def call(self, function):
        return function()


@sparkray.remote
def call(function):
    return function()


@pytest.mark.parametrize("where", ["task", Plain, Threaded, Asynchronous])
def test_what_a_task_starts_is_ended_by_sigint(where):
    run = call.remote if where == "task" else where.remote().call.remote
    for way, expected in WAYS.items():
        assert sparkray.get(run(way), timeout=2 * PATIENCE) == expected, way.__name__


def test_a_worker_passes_over_sigint():
    def interrupted():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)  # where Python would run the handler
        return os.getpid()

    actor = Plain.remote()
    assert (
        sparkray.get([actor.call.remote(interrupted), actor.call.remote(os.getpid)], timeout=PATIENCE)
        == [sparkray.get(actor.call.remote(os.getpid))] * 2
    )


GROUP = textwrap.dedent(
    """
    import os, signal, subprocess, tempfile, time
    import sparkray
    sparkray.init(num_cpus=2)
    directory = tempfile.mkdtemp()
    fifo = directory + "/end"
    os.mkfifo(fifo)

    @sparkray.remote(max_retries=0)
    def wait(started):
        # Ends when somebody opens the other end.
        with subprocess.Popen(["sh", "-c", f"touch {started}; read line < {fifo}; echo $line"],
                              stdout=subprocess.PIPE, text=True) as program:
            return program.communicate()[0]

    result = wait.remote(directory + "/started")
    while not os.path.exists(directory + "/started"):
        time.sleep(0.01)
    try:
        os.killpg(0, signal.SIGINT)  # Ctrl-C at a terminal, an interrupt of Jupyter's
        time.sleep(60)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    with open(fifo, "w") as end:
        end.write("went on")
    print(sparkray.get(result, timeout=60))
    """
)


def test_an_interrupt_of_the_drivers_group_leaves_tasks_and_their_programs_alone():
    driver = subprocess.run(
        [sys.executable, "-c", GROUP],
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        start_new_session=True,
    )
    assert driver.stdout.split("\n")[:2] == ["interrupted", "went on"], driver.stderr
    assert driver.returncode == 0
