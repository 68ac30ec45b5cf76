"""cancel(): wherever a task is, it ends once, and no other one is touched."""

# mypy: disable-error-code="attr-defined,union-attr,arg-type,misc"
from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import time
from pathlib import Path

import pytest

import sparkray
from process.helpers import PATIENCE, wait_until
from sparkray import exceptions

pytestmark = pytest.mark.usefixtures("shared")


@sparkray.remote(num_cpus=0)
class Signal:
    """Tasks wait for it without an end of their own."""

    def __init__(self):
        self.event = asyncio.Event()

    async def wait(self):
        await self.event.wait()

    async def send(self):
        self.event.set()


@sparkray.remote
def add(a, b):
    return a + b


@sparkray.remote
def hold(started: Path, signal):
    """Keeps a CPU until the signal comes."""
    started.touch()
    sparkray.get(signal.wait.remote())
    return "held"


def assert_interrupted(ref):
    """The code of the task ran and was interrupted."""
    with pytest.raises(exceptions.TaskCancelledError) as caught:
        sparkray.get(ref, timeout=PATIENCE)
    error = caught.value
    assert isinstance(error, exceptions.RayTaskError)
    assert type(error.cause) is exceptions.TaskCancelledError
    assert error.cause.task_id == ref.task_id().hex()
    assert str(error).rstrip().endswith(f"TaskCancelledError: Task: {ref.task_id().hex()} was cancelled.")


def assert_never_ran(ref):
    """The task did not begin."""
    with pytest.raises(exceptions.TaskCancelledError) as caught:
        sparkray.get(ref, timeout=PATIENCE)
    assert type(caught.value) is exceptions.TaskCancelledError
    assert caught.value.task_id == ref.task_id().hex()
    assert str(caught.value) == f"Task: {ref.task_id().hex()} was cancelled."


# ---- functions that run --------------------------------------------------------------------------------------------


def sleep(_signal):
    time.sleep(10 * PATIENCE)


def compute(_signal):
    number = 0
    while True:
        number += 1


def read_socket(_signal):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.recv(1)


def run_program(_signal):
    subprocess.run(["sleep", str(10 * PATIENCE)], check=True)


def get_value(signal):
    sparkray.get(signal.wait.remote())


def wait_for_value(signal):
    sparkray.wait([signal.wait.remote()])


@sparkray.remote(max_retries=3, retry_exceptions=True)
def run(started: Path, code, signal):
    with started.open("a") as file:
        file.write(f"{os.getpid()}\n")
    return code(signal)


def has_begun(started: Path):
    """Whether `run` has written its whole line."""
    return started.exists() and started.read_text().endswith("\n")


@pytest.mark.parametrize("code", [sleep, compute, read_socket, run_program, get_value, wait_for_value])
def test_what_runs_is_interrupted_where_it_waits_and_is_not_tried_again(tmp_path, code):
    started = tmp_path / "started"
    ref = run.remote(started, code, Signal.remote())
    wait_until(lambda: has_begun(started))
    sparkray.cancel(ref)
    assert_interrupted(ref)
    assert len(started.read_text().splitlines()) == 1
    assert sparkray.get(add.remote(1, 2), timeout=PATIENCE) == 3


def test_a_task_may_catch_the_interrupt_and_return_a_value(tmp_path):
    @sparkray.remote
    def careful(started: Path):
        before = sparkray.get_runtime_context().is_canceled()
        try:
            started.touch()
            time.sleep(10 * PATIENCE)
        except KeyboardInterrupt:
            return before, sparkray.get_runtime_context().is_canceled()

    ref = careful.remote(tmp_path / "started")
    wait_until((tmp_path / "started").exists)
    sparkray.cancel(ref)
    assert sparkray.get(ref, timeout=PATIENCE) == (False, True)
    with pytest.raises(AssertionError):
        sparkray.get_runtime_context().is_canceled()


def test_a_task_that_goes_on_is_interrupted_again_when_it_is_cancelled_again(tmp_path):
    @sparkray.remote
    def stubborn(started: Path, first: Path):
        try:
            started.touch()
            time.sleep(10 * PATIENCE)
        except KeyboardInterrupt:
            first.touch()
            time.sleep(10 * PATIENCE)

    ref = stubborn.remote(tmp_path / "started", tmp_path / "first")
    for name in ("started", "first"):
        wait_until((tmp_path / name).exists)
        sparkray.cancel(ref)
    assert_interrupted(ref)


def test_the_pid_of_the_worker_stays_and_what_it_runs_next_is_not_interrupted(tmp_path):
    started = tmp_path / "started"
    ref = run.remote(started, sleep, None)
    wait_until(lambda: has_begun(started))
    sparkray.cancel(ref)
    assert_interrupted(ref)
    pid = int(started.read_text())
    pids = sparkray.get([getpid.remote() for _ in range(50)], timeout=PATIENCE)
    wait_until(lambda: pid in sparkray.get([getpid.remote() for _ in range(20)]) or pid in pids)


@sparkray.remote
def getpid():
    return os.getpid()


def test_only_what_is_cancelled_ends_however_close_it_comes_to_the_end():
    @sparkray.remote
    def short(n):
        return sum(range(200)) + n

    chance = random.Random(7)
    for _ in range(20):
        refs = [short.remote(n) for n in range(100)]
        chosen = chance.sample(range(100), 30)
        for n in chosen:
            sparkray.cancel(refs[n])
        for n, ref in enumerate(refs):
            try:
                assert sparkray.get(ref, timeout=PATIENCE) == 19900 + n
            except exceptions.TaskCancelledError:
                assert n in chosen


# ---- functions that have not begun, or are over --------------------------------------------------------------------


def test_what_waits_for_a_cpu_never_runs(tmp_path):
    @sparkray.remote
    def occupy(started: Path):
        started.touch()
        wait_until((tmp_path / "go").exists)
        return "held"

    @sparkray.remote
    def leave_trace(n):
        (tmp_path / f"ran{n}").touch()
        return n

    holding = [occupy.remote(tmp_path / f"started{n}") for n in range(4)]
    wait_until(lambda: len(list(tmp_path.glob("started*"))) == 4)
    queued = [leave_trace.remote(n) for n in range(6)]
    for ref in queued[1:]:
        sparkray.cancel(ref)
    for ref in queued[1:]:
        assert_never_ran(ref)
    sparkray.cancel(queued[0], force=True)
    assert_never_ran(queued[0])
    (tmp_path / "go").touch()
    assert sparkray.get(holding, timeout=PATIENCE) == ["held"] * 4
    assert not list(tmp_path.glob("ran*"))


def test_what_no_node_can_run_can_be_cancelled():
    ref = add.options(resources={"nowhere": 1}).remote(1, 2)
    sparkray.cancel(ref)
    assert_never_ran(ref)
    assert sparkray.get(add.remote(1, 2), timeout=PATIENCE) == 3


def test_what_waits_behind_a_task_at_its_worker_never_runs(tmp_path):
    @sparkray.remote(num_cpus=4)
    def step(n, started=None):
        if started is not None:
            started.touch()
            time.sleep(10 * PATIENCE)
        return n

    # Short ones first, so that others are pushed ahead.
    sparkray.get([step.remote(n) for n in range(200)], timeout=PATIENCE)
    running = step.remote(0, tmp_path / "started")
    behind = [step.remote(n) for n in range(10)]
    wait_until((tmp_path / "started").exists)
    for ref in behind[:5]:
        sparkray.cancel(ref)
    for ref in behind[:5]:
        assert_never_ran(ref)
    sparkray.cancel(running)
    assert_interrupted(running)
    assert sparkray.get(behind[5:], timeout=PATIENCE) == list(range(5, 10))


def test_what_waits_for_an_argument_never_runs_and_nor_does_what_waits_for_it(tmp_path):
    signal = Signal.remote()
    argument = hold.remote(tmp_path / "started", signal)
    first = add.remote(argument, "x")
    second = add.remote(first, "y")
    sparkray.cancel(first)
    assert_never_ran(first)
    with pytest.raises(exceptions.TaskCancelledError, match=first.task_id().hex()):
        sparkray.get(second, timeout=PATIENCE)
    sparkray.get(signal.send.remote())
    assert sparkray.get(argument, timeout=PATIENCE) == "held"


def test_what_is_over_stays_as_it_is():
    ref = add.remote(1, 2)
    assert sparkray.get(ref) == 3
    sparkray.cancel(ref)
    sparkray.cancel(ref, force=True)
    assert sparkray.get(ref) == 3
    stored = sparkray.put("value")
    sparkray.cancel(stored)
    assert sparkray.get(stored) == "value"


def test_all_results_of_a_call_and_those_who_wait_for_them_hear_of_it(tmp_path):
    @sparkray.remote(num_returns=2)
    def pair(started: Path):
        started.touch()
        time.sleep(10 * PATIENCE)
        return 1, 2

    one, other = pair.remote(tmp_path / "started")

    async def cancel_and_await():
        waiting = asyncio.ensure_future(asyncio.wait_for(one, PATIENCE))
        while not (tmp_path / "started").exists():
            await asyncio.sleep(0.01)
        sparkray.cancel(other)
        with pytest.raises(exceptions.TaskCancelledError):
            await waiting

    asyncio.run(cancel_and_await())
    assert sparkray.wait([one, other], num_returns=2, timeout=PATIENCE)[1] == []
    with pytest.raises(exceptions.TaskCancelledError):
        sparkray.get(other)


@pytest.mark.parametrize("wrong", [None, 5, "ref", [], Signal])
def test_only_references_can_be_cancelled(wrong):
    with pytest.raises(TypeError, match="ObjectRef"):
        sparkray.cancel(wrong)


def test_a_handle_is_killed_and_not_cancelled():
    with pytest.raises(TypeError, match="kill"):
        sparkray.cancel(Signal.remote())


# ---- children and borrowers ----------------------------------------------------------------------------------------


@sparkray.remote
def parent(tmp_path: Path, signal):
    child = run.remote(tmp_path / "child", get_value, signal)
    grandchild = middle.remote(tmp_path, signal)
    return sparkray.get([child, grandchild])


@sparkray.remote
def middle(tmp_path: Path, signal):
    return sparkray.get(run.remote(tmp_path / "grandchild", sleep, signal))


def ends_of(path: Path):
    """Whether the worker that ran a task which wrote its pid runs others: it is free."""
    pid = int(path.read_text())
    return pid in sparkray.get([getpid.remote() for _ in range(30)], timeout=PATIENCE)


def test_what_a_task_has_called_ends_with_it(tmp_path):
    ref = parent.remote(tmp_path, Signal.remote())
    for name in ("child", "grandchild"):
        wait_until(lambda name=name: has_begun(tmp_path / name))
    sparkray.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        sparkray.get(ref, timeout=PATIENCE)
    for name in ("child", "grandchild"):
        wait_until(lambda name=name: ends_of(tmp_path / name), what=name)


def test_what_a_task_has_called_goes_on_when_that_is_wanted(tmp_path):
    @sparkray.remote
    def leave(started: Path, result: Path):
        ref = write.remote(started, result)
        wait_until(started.exists)
        (started.parent / "parent").touch()
        return sparkray.get(ref)

    @sparkray.remote
    def write(started: Path, result: Path):
        started.touch()
        wait_until((started.parent / "go").exists)
        result.touch()

    ref = leave.remote(tmp_path / "started", tmp_path / "result")
    wait_until((tmp_path / "parent").exists)
    sparkray.cancel(ref, recursive=False)
    assert_interrupted(ref)
    (tmp_path / "go").touch()
    wait_until((tmp_path / "result").exists)


def test_whoever_has_a_reference_may_cancel(tmp_path):
    @sparkray.remote
    def cancel(refs):
        sparkray.cancel(refs[0])

    @sparkray.remote
    def lend(started: Path):
        return [run.remote(started, sleep, None)]

    # The driver's, by a task.
    ref = run.remote(tmp_path / "own", sleep, None)
    wait_until(lambda: has_begun(tmp_path / "own"))
    sparkray.get(cancel.remote([ref]), timeout=PATIENCE)
    assert_interrupted(ref)
    # A worker's, by the driver, and by another task.
    for name, by in (("lent", sparkray.cancel), ("passed", lambda ref: sparkray.get(cancel.remote([ref])))):
        [ref] = sparkray.get(lend.remote(tmp_path / name), timeout=PATIENCE)
        wait_until(lambda name=name: has_begun(tmp_path / name))
        by(ref)
        assert_interrupted(ref)


def test_a_task_cancels_its_own_children(tmp_path):
    @sparkray.remote
    def change_its_mind(started: Path):
        ref = run.remote(started, sleep, None)
        wait_until(lambda: has_begun(started))
        sparkray.cancel(ref)
        try:
            sparkray.get(ref, timeout=PATIENCE)
        except exceptions.TaskCancelledError as error:
            return error.cause.task_id == ref.task_id().hex()

    assert sparkray.get(change_its_mind.remote(tmp_path / "started"), timeout=2 * PATIENCE) is True
