"""Processes of one container are killed: what was there is lost and says so, and the node comes back."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import time
from typing import Any

import numpy as np
import pytest

import sparkray
from process.helpers import alive, children_of, processes_of, wait_until, zygote_of
from sparkray import exceptions
from sparkray.spark import RayContext
from support.minicluster import MiniCluster
from support.ray_processes import look_at

pytestmark = pytest.mark.filterwarnings("ignore:the virtual environment")

TASKS = 60
# RestartPolicy::default in runtime/supervisor/src/restart.rs.
RESTARTS = 5


@sparkray.remote(max_restarts=-1, num_cpus=0, resources={"slot": 1})
class Resident:
    """One on each node: a node has one slot."""

    def __init__(self) -> None:
        self.calls = 0

    def call(self) -> tuple[int, str, int]:
        self.calls += 1
        return self.calls, sparkray.get_runtime_context().get_node_id(), os.getpid()

    def child(self) -> int:
        return subprocess.Popen(["sleep", "600"]).pid

    def make(self) -> Any:
        return np.arange(500_000)


@sparkray.remote(max_retries=-1)
def weigh(array: Any, offset: int) -> tuple[float, int]:
    time.sleep(0.05)  # long enough to be killed in the middle
    return float(array.sum()) + offset, os.getpid()


def other_than_head(context: RayContext) -> dict[str, Any]:
    head = context._running()["head_executor_id"]
    return next(node for node in context.nodes() if node["executor_id"] != head)


def node_of(context: RayContext, executor_id: str) -> dict[str, Any]:
    return next(node for node in context.nodes() if node["executor_id"] == executor_id)


def residents(context: RayContext) -> dict[str, Any]:
    """An actor on each executor, by the executor's id."""
    found = [Resident.remote() for _ in context.nodes()]
    places = [node for _, node, _ in sparkray.get([resident.call.remote() for resident in found], timeout=60)]
    executor_of = {node["node_id"]: node["executor_id"] for node in context.nodes()}
    assert set(places) == set(executor_of)
    return {executor_of[place]: resident for place, resident in zip(places, found, strict=True)}


def answer_of(actor: Any, seconds: float) -> tuple[int, str, int]:
    """The first answer of an actor that is being restarted."""
    answers: list[tuple[int, str, int]] = []

    def answered() -> bool:
        try:
            answers.append(sparkray.get(actor.call.remote(), timeout=seconds))
        except exceptions.ActorUnavailableError:
            return False
        return True

    wait_until(answered, seconds, "the actor is back")
    return answers[0]


@pytest.mark.trouble("raylet ended", "lost an object", "did not adopt")
def test_the_objects_of_a_killed_raylet_are_lost_and_say_so(shared_spark: Any, shared_ray: RayContext) -> None:
    victim = other_than_head(shared_ray)
    found = residents(shared_ray)
    result = found[victim["executor_id"]].make.remote()
    blocks = sparkray.from_spark(shared_spark.range(0, 20_000, 1, 8))
    sparkray.wait([result], timeout=60)
    back = sparkray.to_spark(blocks, shared_spark)
    os.kill(victim["pid"], signal.SIGKILL)

    def is_back() -> bool:
        node = node_of(shared_ray, victim["executor_id"])
        return bool(node["state"] == "up" and node["node_id"] != victim["node_id"])

    wait_until(is_back, 60, "the node is back")
    living = {node["NodeID"] for node in sparkray.nodes() if node["Alive"]}
    assert victim["node_id"] not in living
    assert node_of(shared_ray, victim["executor_id"])["node_id"] in living
    for lost in (result, blocks):
        with pytest.raises(exceptions.ObjectLostError):
            sparkray.get(lost, timeout=60)
    with pytest.raises(exceptions.ObjectLostError):
        sparkray.to_spark(blocks, shared_spark)
    with pytest.raises(Exception, match="(?i)lost|dead|died|gone"):
        back.agg({"id": "sum"}).collect()
    # And what is made now is there.
    again = sparkray.to_spark(sparkray.from_spark(shared_spark.range(0, 20_000, 1, 8)), shared_spark)
    assert again.agg({"id": "sum"}).collect()[0][0] == 199_990_000


@pytest.mark.trouble("zygote", "worker")
def test_a_killed_zygote_and_killed_workers_come_back_in_their_container(shared_ray: RayContext) -> None:
    victim = other_than_head(shared_ray)
    # The other one keeps the other node's slot.
    found = residents(shared_ray)
    resident = found[victim["executor_id"]]
    _, _, pid = sparkray.get(resident.call.remote(), timeout=60)
    child = sparkray.get(resident.child.remote(), timeout=60)
    array = sparkray.put(np.ones(100_000))
    tasks = [weigh.remote(array, n) for n in range(TASKS)]
    ready, _ = sparkray.wait(tasks, num_returns=4, timeout=60)
    assert len(ready) == 4

    zygote = zygote_of(victim["pid"])
    os.kill(zygote, signal.SIGKILL)
    ours = {found for found, _ in processes_of(shared_ray.cluster_id)}
    workers = [found for found in children_of(victim["pid"]) if found in ours and found != zygote]
    assert pid in workers
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
            os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, [zygote, *workers])), 60, "the processes are gone")
    wait_until(lambda: not alive(child), 60, "the child of a worker is gone")

    assert [value for value, _ in sparkray.get(tasks, timeout=60)] == [100_000.0 + n for n in range(TASKS)]
    count, node_id, new_pid = answer_of(resident, 30)
    assert (count, node_id) == (1, victim["node_id"]) and new_pid not in workers
    new_zygote = zygote_of(victim["pid"])
    assert new_zygote != zygote
    for process in (new_zygote, new_pid):
        assert look_at(process).environment["CONTAINER_ID"] == victim["container_id"]
    assert node_of(shared_ray, victim["executor_id"])["start_count"] == 1
    shared_ray.check()


@pytest.mark.trouble("raylet ended", "the head is lost", "cannot reach the driver's manager")
def test_a_killed_executor_costs_no_result_and_its_actor_comes_back(
    shared_ray: RayContext, mini_cluster: MiniCluster
) -> None:
    victim = other_than_head(shared_ray)
    before = {node["executor_id"] for node in shared_ray.nodes()}
    found = residents(shared_ray)
    moved = found.pop(victim["executor_id"])
    (stays,) = found.values()
    directory = os.readlink(f"/proc/{victim['executor_pid']}/cwd")
    array = sparkray.put(np.ones(100_000))
    tasks = [weigh.remote(array, n) for n in range(TASKS)]
    ready, _ = sparkray.wait(tasks, num_returns=4, timeout=60)
    assert len(ready) == 4
    inside = [process.pid for process in mini_cluster.container_processes(victim["container_id"])]
    os.kill(victim["executor_pid"], signal.SIGKILL)
    wait_until(lambda: not alive(victim["executor_pid"]), 60, "the executor is gone")
    wait_until(lambda: not any(map(alive, inside)), 60, "the container is empty")
    assert sparkray.get(stays.call.remote(), timeout=60)[0] == 2
    assert [value for value, _ in sparkray.get(tasks, timeout=90)] == [100_000.0 + n for n in range(TASKS)]
    wait_until(lambda: not os.path.exists(directory), 60, "YARN deletes the container's directory")

    def replaced() -> bool:
        up = [node["executor_id"] for node in shared_ray.nodes() if node["state"] == "up"]
        return len(up) == 2 and victim["executor_id"] not in up

    wait_until(replaced, 90, "Spark replaces the executor, and it joins")
    new = next(node for node in shared_ray.nodes() if node["executor_id"] not in before)
    count, node_id, _ = answer_of(moved, 60)
    assert (count, node_id) == (1, new["node_id"])


@pytest.mark.trouble("raylet ended")
def test_a_raylet_that_dies_too_often_stays_down_and_the_rest_works(shared_ray: RayContext) -> None:
    victim = other_than_head(shared_ray)["executor_id"]

    def state() -> str:
        return str(node_of(shared_ray, victim)["state"])

    def is_up(start: int) -> bool:
        return state() == "up" and bool(node_of(shared_ray, victim)["start_count"] == start)

    for start in range(1, RESTARTS + 2):
        # A start may be over before it is looked for, so they are counted.
        wait_until(functools.partial(is_up, start), 60, f"start {start}")
        os.kill(node_of(shared_ray, victim)["pid"], signal.SIGKILL)
    wait_until(lambda: state() == "down", 60, "it is not started again")
    assert "SIGKILL" in node_of(shared_ray, victim)["message"] or "signal 9" in node_of(shared_ray, victim)["message"]
    shared_ray.check()
    assert sparkray.cluster_resources()["CPU"] == 1
    array = sparkray.put(np.ones(10))
    results = sparkray.get([weigh.remote(array, n) for n in range(4)], timeout=60)
    assert [value for value, _ in results] == [10.0 + n for n in range(4)]
