"""Processes that are stopped (SIGSTOP) and go on later: nothing hangs past its deadline, nothing is run twice."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import sparkray
from process.helpers import alive, wait_until
from sparkray import exceptions
from sparkray._private.node import LocalNode
from sparkray.cluster_utils import Cluster


@sparkray.remote
def until(started, finish):
    """Says who runs it; ends when the file `finish` is there."""
    with open(started, "a") as file:
        file.write(f"{os.getpid()}\n")
    while not os.path.exists(finish):
        time.sleep(0.01)
    return os.getpid()


@sparkray.remote
def double(value):
    return value * 2


@sparkray.remote
class Journal:
    def __init__(self):
        self.entries = []

    def add(self, entry):
        self.entries.append(entry)
        return list(self.entries)

    def pid(self):
        return os.getpid()


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process stands still; it goes on at the end, however that is reached."""
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: state_of(pid) == "T", 60, "the process stands still")
        yield
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGCONT)


def times_out(reference: sparkray.ObjectRef, seconds: float) -> None:
    """A get with a timeout ends in time, though nobody answers."""
    started = time.monotonic()
    with pytest.raises(exceptions.GetTimeoutError):
        sparkray.get(reference, timeout=seconds)
    assert seconds <= time.monotonic() - started < seconds + 60


def test_a_stopped_worker_holds_up_only_its_own_task(cluster, tmp_path):
    started, finish = tmp_path / "started", tmp_path / "finish"
    reference = until.remote(str(started), str(finish))
    dependent = double.remote(reference)
    wait_until(lambda: started.exists() and started.read_text().endswith("\n"), 60)
    pid = int(started.read_text())
    with stopped(pid):
        finish.touch()
        times_out(reference, 1)
        times_out(dependent, 0.2)
        assert sparkray.get([double.remote(n) for n in range(60)], timeout=60) == [2 * n for n in range(60)]
        assert sparkray.wait([reference], timeout=0) == ([], [reference])
    assert sparkray.get(reference, timeout=60) == pid
    assert sparkray.get(dependent, timeout=60) == 2 * pid
    assert started.read_text() == f"{pid}\n", "the task ran once"


def test_calls_of_a_stopped_actor_wait_and_keep_their_order(cluster):
    journal = Journal.remote()
    pid = sparkray.get(journal.pid.remote(), timeout=60)
    with stopped(pid):
        calls = [journal.add.remote(n) for n in range(50)]
        times_out(calls[0], 0.5)
        other = Journal.remote()
        assert sparkray.get(other.add.remote("x"), timeout=60) == ["x"]
    assert sparkray.get(calls, timeout=60) == [list(range(n + 1)) for n in range(50)]


@pytest.mark.trouble
def test_a_worker_that_was_stopped_can_be_killed(cluster, tmp_path):
    """The actor's process cannot answer: it ends all the same."""
    journal = Journal.remote()
    pid = sparkray.get(journal.pid.remote(), timeout=60)
    with stopped(pid):
        call = journal.add.remote(1)
        sparkray.kill(journal)
        with pytest.raises(exceptions.ActorDiedError):
            sparkray.get(call, timeout=60)
        wait_until(lambda: not alive(pid), 60, "the stopped process is gone")


ON_IT = {"resources": {"it": 1}}


def is_alive(node: LocalNode) -> bool:
    """Whether the head believes in a node."""
    return any(seen["Alive"] for seen in sparkray.nodes() if seen["NodeID"] == node.node_id)


@pytest.fixture
def two() -> Iterator[tuple[Cluster, LocalNode]]:
    """Two nodes, of which the second, with the resource `it`, is the one to stop."""
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 2}) as cluster:
        node = cluster.add_node(num_cpus=2, resources={"it": 4})
        sparkray.init(address=cluster.address)
        cluster.wait_for_nodes()
        yield cluster, node


@pytest.mark.trouble
def test_a_raylet_that_stands_still_for_a_moment_goes_on(two):
    _, node = two
    journal = Journal.options(**ON_IT).remote()
    assert sparkray.get(journal.add.remote(0), timeout=60) == [0]
    array = sparkray.remote(np.ones).options(**ON_IT).remote(200_000)
    sparkray.wait([array], timeout=60, fetch_local=False)
    with stopped(node.pid):
        task = double.options(**ON_IT).remote(21)
        call = journal.add.remote(1)
        times_out(task, 3)
        times_out(array, 0.5)
        # The rest of the cluster goes on.
        small = [double.options(num_cpus=0.5).remote(n) for n in range(20)]
        assert sparkray.get(small, timeout=60) == [2 * n for n in range(20)]
    assert sparkray.get(task, timeout=60) == 42
    assert sparkray.get(call, timeout=60) == [0, 1]
    assert float(sparkray.get(array, timeout=60).sum()) == 200_000.0
    assert is_alive(node)


@pytest.mark.trouble
def test_a_raylet_that_stands_still_for_long_is_dead_and_stays_so(two):
    cluster, node = two
    journal = Journal.options(max_restarts=-1, **ON_IT).remote()
    assert sparkray.get(journal.add.remote(0), timeout=60) == [0]
    array = sparkray.remote(np.ones).options(**ON_IT).remote(200_000)
    sparkray.wait([array], timeout=60, fetch_local=False)
    with stopped(node.pid):
        task = double.options(max_retries=-1, **ON_IT).remote(21)
        call = journal.add.remote(1)
        wait_until(lambda: not is_alive(node), 60, "the head gives the silent node up")
        with pytest.raises(exceptions.ObjectLostError):
            sparkray.get(array, timeout=60)
        replacement = cluster.add_node(num_cpus=2, resources={"it": 4})
        assert sparkray.get(task, timeout=60) == 42
        # The actor's own process was not stopped: it may have answered before the actor began anew elsewhere.
        try:
            assert sparkray.get(call, timeout=60) in ([0, 1], [1])
        except exceptions.ActorUnavailableError:
            pass
        restarted = sparkray.get(journal.pid.remote(), timeout=60)
    # What was given up does not come back beside its replacement.
    wait_until(lambda: not alive(node.pid), 60, "the raylet ends when it hears of its death")
    assert not is_alive(node) and is_alive(replacement)
    assert sparkray.get(journal.pid.remote(), timeout=60) == restarted
    cluster.remove_node(node)


@sparkray.remote(num_cpus=0)
class Owner:
    """Makes objects, and keeps references of others."""

    def __init__(self):
        self.kept = []

    def pid(self):
        return os.getpid()

    def make(self, value):
        return [sparkray.put(value)]

    def keep(self, references):
        self.kept = references

    def give(self):
        return self.kept

    def let_go(self):
        self.kept = []


def test_an_owner_that_stands_still_holds_up_only_who_needs_it(cluster):
    """It does not hear who has got references to its objects: what they came from is kept until it does."""
    owner, keeper, other = Owner.remote(), Owner.remote(), Owner.remote()
    pid = sparkray.get(owner.pid.remote(), timeout=60)
    sparkray.get(keeper.keep.remote(sparkray.get(owner.make.remote("kept"), timeout=60)), timeout=60)
    with stopped(pid):
        began = time.monotonic()
        given = sparkray.get(keeper.give.remote(), timeout=60)
        # Nobody's references but those have anything to do with it.
        for number in range(3):
            assert sparkray.get(sparkray.get(other.make.remote(number), timeout=60), timeout=60) == [number]
        assert time.monotonic() - began < 30, "nothing waits for the owner, which would be ten seconds each time"
        times_out(given[0], 0.2)
        # The only other reference goes while the owner does not know of this one.
        sparkray.get(keeper.let_go.remote(), timeout=60)
    assert sparkray.get(given, timeout=60) == ["kept"]


@sparkray.remote(num_cpus=0)
class Loop:
    """An async actor."""

    async def size(self, array):
        return len(array)

    async def first(self, references):
        return len(references)

    async def hello(self):
        return "hello"


def test_the_loop_of_an_async_actor_goes_on_while_a_call_waits_for_its_arguments(two):
    """One argument lies on a node that stands still; in another there is a reference whose owner does."""
    _, node = two
    here = Loop.remote()
    there = Owner.options(**ON_IT).remote()
    pid = sparkray.get(there.pid.remote(), timeout=60)
    array = sparkray.remote(np.ones).options(**ON_IT).remote(200_000)
    sparkray.wait([array], timeout=60, fetch_local=False)
    made = sparkray.get(there.make.remote(1), timeout=60)
    assert sparkray.get(here.hello.remote(), timeout=60) == "hello"
    with stopped(pid):
        waits = here.first.remote(made)
        assert sparkray.get(here.hello.remote(), timeout=60) == "hello"
        assert sparkray.wait([waits], timeout=0.2) == ([], [waits])
    assert sparkray.get(waits, timeout=60) == 1
    with stopped(node.pid):
        fetches = here.size.remote(array)
        assert sparkray.get(here.hello.remote(), timeout=6) == "hello"
        assert sparkray.wait([fetches], timeout=0.2) == ([], [fetches])
    assert sparkray.get(fetches, timeout=60) == 200_000


@pytest.mark.trouble
def test_creating_an_actor_without_a_name_waits_for_no_head(two):
    """Its calls do, and so does whoever is to get a handle."""
    cluster, _ = two
    with stopped(cluster._local.head_pid):
        began = time.monotonic()
        journals = [Journal.options(num_cpus=0).remote() for _ in range(3)]
        calls = [journal.add.remote(1) for journal in journals]
        assert time.monotonic() - began < 20, (
            "nothing waits for the head, whose silence is an error after thirty seconds"
        )
        times_out(calls[0], 0.5)
    assert sparkray.get(calls, timeout=60) == [[1]] * 3
    # Who asks it something is told who does not answer, and that is no timeout of a get.
    with stopped(cluster._local.head_pid):
        late = Journal.options(num_cpus=0).remote()
        with pytest.raises(exceptions.RaySystemError, match="the head of the cluster did not answer"):
            sparkray.nodes()
    # The head may have heard of this one: it ends there too.
    with pytest.raises(exceptions.RaySystemError, match="the head of the cluster did not answer"):
        sparkray.get(late.add.remote(1), timeout=60)
