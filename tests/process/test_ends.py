"""Whoever ends first and however: nothing of a node outlives it, what tasks started included."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sparkray
from process.helpers import (
    alive,
    assert_nothing_left,
    children_of,
    driver_environment,
    processes_of,
    running_cluster,
    start_driver,
    wait_until,
    zygote_of,
)
from sparkray import exceptions

# Processes of all kinds that code in a task starts; their pids.
START_ALL_KINDS = """
def start_all_kinds():
    import os, signal, subprocess, sys

    def shell(text, **arguments):
        done = subprocess.run(["/bin/sh", "-c", text], stdout=subprocess.PIPE, text=True, check=True, **arguments)
        return [int(pid) for pid in done.stdout.split()]

    pids = [subprocess.Popen(["sleep", "300"]).pid]
    # A daemon in a session of its own; one that knows nothing of us; one that takes no signal but SIGKILL.
    pids += shell("setsid sleep 301 >/dev/null 2>&1 & echo $!")
    pids += shell("setsid sleep 302 >/dev/null 2>&1 & echo $!", env={"PATH": os.environ["PATH"]})
    pids += shell("trap '' TERM HUP INT; setsid sleep 303 >/dev/null 2>&1 & echo $!")
    # A process and what it started.
    parent = subprocess.Popen(["/bin/sh", "-c", "sleep 304 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    pids += [parent.pid, int(parent.stdout.readline())]
    stopped = subprocess.Popen(["sleep", "305"], start_new_session=True)
    os.kill(stopped.pid, signal.SIGSTOP)
    pids.append(stopped.pid)
    forked = os.fork()
    if forked == 0:
        os.setsid()
        while True:
            signal.pause()
    pids.append(forked)
    return pids
"""
namespace: dict[str, Any] = {}
exec(START_ALL_KINDS, namespace)
start_all_kinds = namespace["start_all_kinds"]

DRIVER = (
    START_ALL_KINDS
    + """
import json, os, signal, sys, time
import sparkray
from process.helpers import processes_of, running_cluster

@sparkray.remote
def work():
    started = start_all_kinds()
    return started

@sparkray.remote
class Actor:
    def work(self):
        return start_all_kinds()

sparkray.init(num_cpus=2, object_store_memory=32 << 20)
actor = Actor.remote()
started = sum(sparkray.get([work.remote(), actor.work.remote()]), [])
cluster = running_cluster()
pids = [cluster.head_pid, cluster.nodes[0].pid, *started] + [pid for pid, _ in processes_of(cluster.cluster_id)]
facts = {"cluster_id": cluster.cluster_id, "raylet": cluster.nodes[0].pid, "pids": pids}
print(json.dumps(facts), flush=True, file=open(os.environ["FACTS"], "w") if "FACTS" in os.environ else sys.stdout)
"""
)
SECONDS = 60.0


def facts_of(driver: subprocess.Popen[str]) -> dict[str, Any]:
    line = driver.stdout.readline()
    assert line, driver.stderr.read() if driver.stderr else ""
    facts: dict[str, Any] = json.loads(line)
    return facts


@pytest.mark.parametrize("end", ["SIGTERM", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGSEGV", "os._exit", "return"])
def test_however_a_driver_ends_what_its_tasks_started_ends_too(end):
    ways = {"os._exit": "os._exit(3)", "return": ""}
    with start_driver(DRIVER + ways.get(end, "time.sleep(600)")) as driver:
        facts = facts_of(driver)
        if end not in ways:
            assert all(map(alive, facts["pids"]))
            driver.send_signal(getattr(signal, end))
        driver.wait(timeout=60)
        assert_nothing_left(facts["cluster_id"], facts["pids"], SECONDS)


def test_a_driver_whose_raylet_hangs_leaves_nothing():
    with start_driver(DRIVER + "time.sleep(600)") as driver:
        facts = facts_of(driver)
        os.kill(facts["raylet"], signal.SIGSTOP)
        driver.kill()
        driver.wait(timeout=60)
        assert_nothing_left(facts["cluster_id"], facts["pids"], SECONDS)


def test_a_driver_whose_process_group_is_killed_leaves_nothing(tmp_path):
    """As YARN ends a container: SIGKILL for the whole group, head and raylet among it."""
    script = tmp_path / "driver.py"
    script.write_text(DRIVER + "time.sleep(600)")
    with subprocess.Popen(
        ["python", "-u", str(script)],
        executable=sys.executable,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=driver_environment(),
        start_new_session=True,
    ) as driver:
        facts = facts_of(driver)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait(timeout=60)
        assert_nothing_left(facts["cluster_id"], facts["pids"], SECONDS)


def test_a_terminal_that_is_closed_leaves_nothing(tmp_path):
    script, out = tmp_path / "driver.py", tmp_path / "facts"
    script.write_text(DRIVER + "time.sleep(600)")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, ["python", str(script)], driver_environment(FACTS=str(out)))
    wait_until(lambda: out.exists() and out.read_text().endswith("\n"), 60, "the driver is ready")
    facts = json.loads(out.read_text())
    os.close(terminal)
    os.waitpid(pid, 0)
    assert_nothing_left(facts["cluster_id"], facts["pids"], SECONDS)


@sparkray.remote
def work():
    return os.getpid(), start_all_kinds()


@sparkray.remote
class Actor:
    def work(self):
        return os.getpid(), start_all_kinds()


@pytest.mark.trouble
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=str)
@pytest.mark.parametrize("who", ["raylet", "guardian"])
def test_a_raylet_or_guardian_that_is_killed_leaves_nothing(cluster, who, number):
    actor = Actor.remote()
    started = [pid for worker, pids in sparkray.get([work.remote(), actor.work.remote()]) for pid in (worker, *pids)]
    raylet = running_cluster().nodes[0].pid
    guardian = int(Path(f"/proc/{raylet}/stat").read_text().rpartition(")")[2].split()[1])
    assert guardian in children_of(os.getpid())
    os.kill(raylet if who == "raylet" else guardian, number)
    wait_until(lambda: not any(map(alive, [raylet, guardian, *started])), SECONDS, "all of the node ended")
    assert not processes_of(cluster["cluster_id"])
    with pytest.raises(exceptions.RayError):
        sparkray.get(work.remote(), timeout=60)


@pytest.mark.trouble
def test_a_worker_that_is_killed_leaves_nothing_that_carries_its_mark(cluster):
    actor, other = Actor.remote(), Actor.remote()
    (worker, started), (survivor, kept) = sparkray.get([actor.work.remote(), other.work.remote()])
    # The third has an environment of its own: it is found when the node ends.
    unmarked = started.pop(2)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, [worker, *started])), SECONDS, "what the worker started ended")
    assert all(map(alive, [survivor, *kept])), "what a living worker started lives on"
    sparkray.shutdown()
    assert_nothing_left(cluster["cluster_id"], [unmarked, survivor, *kept], SECONDS)


@pytest.mark.trouble
def test_a_zygote_that_is_killed_takes_nothing_along_and_leaves_nothing(cluster):
    actor = Actor.remote()
    worker, started = sparkray.get(actor.work.remote())
    os.kill(zygote_of(running_cluster().nodes[0].pid), signal.SIGKILL)
    sparkray.get(work.remote(), timeout=60)
    assert sparkray.get(actor.work.remote(), timeout=60)[0] == worker
    assert all(map(alive, started))
    sparkray.shutdown()
    assert_nothing_left(cluster["cluster_id"], started, SECONDS)


@pytest.mark.trouble
def test_a_head_that_is_killed_leaves_nothing_after_shutdown(cluster):
    worker, started = sparkray.get(work.remote())
    os.kill(running_cluster().head_pid, signal.SIGKILL)
    sparkray.shutdown()
    assert_nothing_left(cluster["cluster_id"], [worker, *started], SECONDS)


def test_ctrl_c_twice_in_a_row_ends_a_driver_and_all_it_has():
    with start_driver(DRIVER + "sparkray.get(work.options(resources={'none': 1}).remote())") as driver:
        facts = facts_of(driver)
        driver.send_signal(signal.SIGINT)
        driver.send_signal(signal.SIGINT)
        driver.wait(timeout=60)
        assert_nothing_left(facts["cluster_id"], facts["pids"], SECONDS)
