"""cancel(force=True): the worker of the task ends, and with it nothing else."""

# mypy: disable-error-code="attr-defined,union-attr,arg-type,misc"
from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

import sparkray
from process.helpers import PATIENCE, alive, wait_until
from process.test_cancel import add, assert_never_ran, compute, run, sleep

pytestmark = pytest.mark.usefixtures("shared")


def pass_over_everything(_signal):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            time.sleep(10 * PATIENCE)
        except BaseException as error:  # an interrupt does not end it
            print(error, file=sys.stderr)


@pytest.mark.parametrize("code", [sleep, compute, pass_over_everything])
def test_the_worker_ends_and_the_task_is_not_tried_again(tmp_path, code):
    started = tmp_path / "started"
    ref = run.remote(started, code, None)
    wait_until(lambda: started.exists() and started.read_text())
    pid = int(started.read_text())
    sparkray.cancel(ref, force=True)
    assert_never_ran(ref)
    wait_until(lambda: not alive(pid))
    assert sparkray.get([add.remote(n, n) for n in range(20)], timeout=PATIENCE) == [2 * n for n in range(20)]
    assert len(started.read_text().splitlines()) == 1


def test_tasks_behind_it_run_elsewhere(tmp_path):
    @sparkray.remote(num_cpus=4, max_retries=0)
    def step(n, started: Path | None = None):
        if started is not None:
            started.touch()
            time.sleep(10 * PATIENCE)
        return n

    # Short ones first, so that others are pushed ahead.
    sparkray.get([step.remote(n) for n in range(200)], timeout=PATIENCE)
    running = step.remote(0, tmp_path / "started")
    behind = [step.remote(n) for n in range(10)]
    wait_until((tmp_path / "started").exists)
    sparkray.cancel(running, force=True)
    assert_never_ran(running)
    assert sparkray.get(behind, timeout=PATIENCE) == list(range(10))


def test_what_it_has_called_ends_too(tmp_path):
    @sparkray.remote(max_retries=0)
    def parent():
        return sparkray.get(run.remote(tmp_path / "child", sleep, None))

    ref = parent.remote()
    wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())
    pid = int((tmp_path / "child").read_text())
    sparkray.cancel(ref, force=True)
    assert_never_ran(ref)
    wait_until(lambda: not alive(pid))
    assert sparkray.get(add.remote(1, 2), timeout=PATIENCE) == 3


def test_an_interrupt_that_is_caught_may_be_followed_by_force(tmp_path):
    @sparkray.remote
    def stubborn():
        try:
            (tmp_path / "started").touch()
            time.sleep(10 * PATIENCE)
        except KeyboardInterrupt:
            (tmp_path / "caught").touch()
            time.sleep(10 * PATIENCE)

    ref = stubborn.remote()
    for name, force in (("started", False), ("caught", True)):
        wait_until((tmp_path / name).exists)
        sparkray.cancel(ref, force=force)
    assert_never_ran(ref)
