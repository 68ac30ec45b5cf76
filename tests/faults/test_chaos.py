"""Retriable tasks and a restartable actor while workers, zygotes and a whole node are killed."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import sparkray
from process.helpers import assert_nothing_left, processes_of, wait_until, zygote_of
from sparkray import exceptions
from sparkray.cluster_utils import Cluster

pytestmark = pytest.mark.trouble

TASKS = 480
CPUS_OF_NODE = 2
# One act of the killer each time that so many more tasks have ended.
TASKS_BETWEEN_ACTS = 15
ACTS = 2 * ("worker", "worker", "zygote", "worker", "worker", "node", "worker", "add", "worker", "zygote", "worker")
DEADLINE = 60.0


@sparkray.remote(max_retries=-1)
def weigh(array, offset):
    time.sleep(0.02)  # long enough to be killed in the middle
    return float(array.sum()) + offset


@sparkray.remote(max_retries=-1)
def double(value):
    return value * 2


@sparkray.remote(max_retries=-1)
def enlarge(value):
    return np.full(40_000, value)


@sparkray.remote(max_restarts=-1)
class Squarer:
    def square(self, value):
        return value * value


class Killer:
    """Kills processes of a cluster with SIGKILL; which ones is a matter of the seed."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster = cluster
        self.random = random.Random(seed)
        self.killed: list[int] = []
        self.acts: list[Callable[[], None]] = [getattr(self, f"_{act}") for act in ACTS]

    def act(self) -> None:
        if self.acts:
            self.acts.pop(0)()

    def _kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile
            os.kill(pid, signal.SIGKILL)
            self.killed.append(pid)

    def _zygotes(self) -> list[int]:
        found = []
        for node in self.cluster.list_all_nodes():
            with contextlib.suppress(AssertionError, OSError):  # it has just been killed, or is being started again
                found.append(zygote_of(node.pid))
        return found

    def _worker(self) -> None:
        zygotes = self._zygotes()
        workers = sorted(pid for pid, _ in processes_of(self.cluster.cluster_id) if pid not in zygotes)
        if workers:
            self._kill(self.random.choice(workers))

    def _zygote(self) -> None:
        self._kill(self.random.choice(self._zygotes()))

    def _node(self) -> None:
        node = self.random.choice(self.cluster.worker_nodes)
        self._kill(node.pid)
        self.cluster.remove_node(node, allow_graceful=False)

    def _add(self) -> None:
        self.cluster.add_node(num_cpus=CPUS_OF_NODE)


def called(actor: Any, value: int, deadline: float) -> int:
    """The method's answer, asked for again when the actor died meanwhile."""
    while True:
        try:
            return int(sparkray.get(actor.square.remote(value), timeout=deadline - time.monotonic()))
        except exceptions.ActorUnavailableError:
            assert time.monotonic() < deadline
        except exceptions.ActorDiedError as error:
            raise AssertionError(f"an actor with max_restarts=-1 is dead for good: {error}") from error


def same_as_before(cluster: Cluster) -> bool:
    """Whether nothing is taken of any node."""
    total, free = sparkray.cluster_resources(), sparkray.available_resources()
    return total["CPU"] == CPUS_OF_NODE * len(cluster.list_all_nodes()) == free.get("CPU")


@pytest.mark.parametrize("seed", [1, 20])
def test_all_results_are_right_whatever_is_killed(seed: int) -> None:
    started = time.monotonic()
    deadline = started + DEADLINE
    with Cluster(initialize_head=True, head_node_args={"num_cpus": CPUS_OF_NODE}) as cluster:
        for _ in range(2):
            cluster.add_node(num_cpus=CPUS_OF_NODE)
        sparkray.init(address=cluster.address)
        cluster.wait_for_nodes()
        pids = [node.pid for node in cluster.list_all_nodes()]
        killer = Killer(cluster, seed)

        big = sparkray.put(np.ones(50_000))  # in the store of the first node, which is not killed
        actor = Squarer.remote()
        weights = [weigh.remote(big, n) for n in range(TASKS)]
        # The arguments of these are results of those, whichever node they came from.
        doubles = [double.remote(weight) for weight in weights]
        arrays = [enlarge.remote(value) for value in doubles[:40]]

        waiting = doubles
        while waiting:
            count = min(TASKS_BETWEEN_ACTS, len(waiting))
            ready, waiting = sparkray.wait(waiting, num_returns=count, timeout=deadline - time.monotonic())
            assert len(ready) == count, f"only {len(ready)} of {count} tasks ended, {len(waiting)} wait"
            killer.act()
            assert called(actor, len(waiting), deadline) == len(waiting) ** 2
        assert not killer.acts and len(killer.killed) >= 8
        pids += [node.pid for node in cluster.list_all_nodes()]

        assert sparkray.get(weights, timeout=60) == [50_000.0 + n for n in range(TASKS)]
        assert sparkray.get(doubles, timeout=60) == [2 * (50_000.0 + n) for n in range(TASKS)]
        for n, reference in enumerate(arrays):
            try:
                array = sparkray.get(reference, timeout=60)
            except exceptions.ObjectLostError:
                continue  # it was in the store of the killed node
            assert array.shape == (40_000,) and (array == 2 * (50_000.0 + n)).all()
        # What was lost can be made anew from what was not.
        again = sparkray.get([enlarge.remote(value) for value in doubles[:6]], timeout=60)
        assert [float(array[-1]) for array in again] == [2 * (50_000.0 + n) for n in range(6)]

        cluster.wait_for_nodes()
        del actor, weights, doubles, arrays, waiting, ready, big, again
        wait_until(lambda: same_as_before(cluster), 60, "all CPUs are free again")
        cluster_id = cluster.cluster_id
        pids += [pid for pid, _ in processes_of(cluster_id)]
    assert_nothing_left(cluster_id, pids)
    print(f"seed {seed}: {len(killer.killed)} processes killed, {time.monotonic() - started:.1f} s")
