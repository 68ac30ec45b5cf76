"""A head that stands still loses nothing; a node that stands still for too long is replaced, never beside itself."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sparkray
from faults.test_stopped_processes import ON_IT, double, is_alive, stopped, until
from process.helpers import alive, wait_until
from sparkray import exceptions
from sparkray._private.node import LocalNode
from sparkray.cluster_utils import Cluster

# Longer than the silence after which the head gives a node up.
LONG = 20.0


@pytest.fixture
def two() -> Iterator[tuple[Cluster, LocalNode]]:
    """Two nodes, of which the second has the resource `it`."""
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 2}) as cluster:
        node = cluster.add_node(num_cpus=2, resources={"it": 4})
        sparkray.init(address=cluster.address)
        cluster.wait_for_nodes()
        yield cluster, node


@sparkray.remote
class Counter:
    def __init__(self):
        self.count = 0

    def add(self):
        self.count += 1
        return self.count


@sparkray.remote
class Diary:
    """Writes down that it lives, every few milliseconds, in a thread of its own."""

    def __init__(self, path):
        self.path = path
        self.written = 0
        threading.Thread(target=self._write, daemon=True).start()

    def _write(self):
        with open(self.path, "a", buffering=1) as file:
            while True:
                file.write(f"{os.getpid()} {time.monotonic()}\n")
                self.written += 1
                time.sleep(0.005)

    def pid(self):
        while not self.written:
            time.sleep(0.001)
        return os.getpid()


def lives(path: Path) -> dict[int, tuple[float, float]]:
    """First and last entry of each writer of a diary."""
    found: dict[int, tuple[float, float]] = {}
    for line in path.read_text().splitlines():
        pid, moment = line.split()
        first, _ = found.get(int(pid), (float(moment), 0.0))
        found[int(pid)] = (first, float(moment))
    return found


def assert_one_after_the_other(path: Path) -> None:
    """No two writers of a diary lived at one time."""
    spans = sorted(lives(path).values())
    for (_, end), (begin, _) in itertools.pairwise(spans):
        assert end < begin, f"two instances lived at once for {end - begin:.3f} s"


@pytest.mark.trouble
def test_a_head_that_stands_still_for_long_loses_nothing(two, tmp_path):
    cluster, node = two
    head = cluster._local.head_pid
    here, there = Counter.remote(), Counter.options(**ON_IT).remote()
    named = Counter.options(name="named", max_restarts=-1).remote()
    assert sparkray.get([actor.add.remote() for actor in (here, there, named)], timeout=60) == [1, 1, 1]
    array = sparkray.put(np.ones(200_000))
    far = sparkray.remote(np.ones).options(**ON_IT).remote(200_000)
    sparkray.wait([far], timeout=60, fetch_local=False)
    started, finish = tmp_path / "started", tmp_path / "finish"
    runs = until.options(**ON_IT).remote(str(started), str(finish))
    wait_until(lambda: started.exists() and started.read_text().endswith("\n"), 60)
    with stopped(head):
        resumed = time.monotonic() + LONG
        while time.monotonic() < resumed:
            # Nothing of this needs the head.
            answers = sparkray.get([here.add.remote(), there.add.remote()], timeout=60)
            assert answers[0] == answers[1]
            assert sparkray.get(double.options(num_cpus=0.1).remote(21), timeout=60) == 42
            time.sleep(0.5)
        finish.touch()
    assert sparkray.get(runs, timeout=60) == int(started.read_text()), "the task ran once"
    assert float(sparkray.get(array, timeout=60).sum()) == float(sparkray.get(far, timeout=60).sum()) == 200_000.0
    assert sparkray.get(named.add.remote(), timeout=60) == 2
    assert sparkray.get(sparkray.get_actor("named").add.remote(), timeout=60) == 3
    assert sparkray.get([actor.add.remote() for actor in (here, there)], timeout=60) == [answers[0] + 1] * 2
    assert sparkray.get(Counter.options(**ON_IT).remote().add.remote(), timeout=60) == 1
    assert is_alive(node) and all(seen["Alive"] for seen in sparkray.nodes())


@pytest.mark.trouble
def test_head_calls_that_meet_a_head_that_stands_still_are_answered(two):
    cluster, _ = two
    with stopped(cluster._local.head_pid):
        actor = Counter.options(name="late", **ON_IT).remote
        outcome: list[object] = []
        thread = threading.Thread(target=lambda: outcome.append(sparkray.get(actor().add.remote(), timeout=60)))
        thread.start()
        thread.join(12)
        assert thread.is_alive() and not outcome
    thread.join(60)
    assert outcome == [1]


@pytest.mark.trouble
def test_an_actor_never_lives_twice_when_its_raylet_stands_still(two, tmp_path):
    cluster, node = two
    paths = [tmp_path / f"diary{number}" for number in range(2)]
    diaries = [Diary.options(max_restarts=-1, **ON_IT).remote(str(path)) for path in paths]
    before = sparkray.get([diary.pid.remote() for diary in diaries], timeout=60)
    with stopped(node.pid):
        replacement = cluster.add_node(num_cpus=2, resources={"it": 4})
        # Nobody can end them but themselves.
        wait_until(lambda: not any(map(alive, before)), 60, "the workers of the stopped raylet end themselves")
        wait_until(lambda: not is_alive(node), 60, "the head gives the silent node up")

        def pids() -> list[int] | None:
            try:
                return sparkray.get([diary.pid.remote() for diary in diaries], timeout=60)
            except exceptions.ActorUnavailableError:
                return None

        wait_until(lambda: pids() is not None, 60, "the actors are back")
        after = pids()
        assert after is not None and not set(after) & set(before)
    wait_until(lambda: not alive(node.pid), 60, "the raylet ends when it goes on")
    assert pids() == after and is_alive(replacement)
    for path in paths:
        assert len(lives(path)) == 2
        assert_one_after_the_other(path)
    cluster.remove_node(node)


@pytest.mark.trouble
def test_an_actor_never_lives_twice_when_its_raylet_is_killed(two, tmp_path):
    cluster, node = two
    path = tmp_path / "diary"
    diary = Diary.options(max_restarts=-1, **ON_IT).remote(str(path))
    assert sparkray.get(diary.pid.remote(), timeout=60)
    replacement = cluster.add_node(num_cpus=2, resources={"it": 4})
    os.kill(node.pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(node), 60, "the head sees its end")
    wait_until(lambda: len(lives(path)) == 2, 60, "the actor is back")
    assert is_alive(replacement)
    assert_one_after_the_other(path)
    cluster.remove_node(node)
