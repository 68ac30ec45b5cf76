"""Leases in the whole system: many waiting tasks, large requests, what dead workers leave behind."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import os
import subprocess
import time

import pytest

import sparkray
from process.helpers import alive, wait_until

pytestmark = pytest.mark.usefixtures("shared")


@sparkray.remote
def nap(seconds):
    time.sleep(seconds)


@sparkray.remote(num_cpus=4)
def whole_node():
    return "ran"


@sparkray.remote
class Starter:
    def start(self):
        forked = os.fork()
        if forked == 0:
            time.sleep(1000)
        return os.getpid(), subprocess.Popen(["sleep", "1000"]).pid, forked


def test_many_waiting_tasks_do_not_hold_up_an_actor():
    tasks = [nap.remote(0.02) for _ in range(400)]
    starter = Starter.remote()
    sparkray.get(starter.__ray_ready__.remote(), timeout=60)
    _, waiting = sparkray.wait(tasks, num_returns=len(tasks), timeout=0)
    assert waiting
    sparkray.get(tasks, timeout=60)


def test_small_tasks_do_not_starve_a_large_one():
    tasks = [nap.remote(0.02) for _ in range(600)]
    assert sparkray.get(whole_node.remote(), timeout=60) == "ran"
    _, waiting = sparkray.wait(tasks, num_returns=len(tasks), timeout=0)
    assert waiting
    sparkray.get(tasks, timeout=60)


def test_what_a_killed_worker_started_goes_with_it():
    starter = Starter.remote()
    pids = sparkray.get(starter.start.remote(), timeout=60)
    assert all(alive(pid) for pid in pids)
    sparkray.kill(starter)
    wait_until(lambda: not any(alive(pid) for pid in pids), 60, f"the end of {pids}")
