"""An executor's JVM is killed while retriable tasks and a restartable actor run on it."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import sparkray
from process.helpers import alive, wait_until
from sparkray import exceptions
from sparkray.spark import RayContext, gateway, init_spark_on_local
from support.ray_processes import Recorded

CONF = {
    "spark.master": "local-cluster[2,1,1024]",
    "spark.ui.enabled": "false",
    "spark.ray.memory.budget": "1g",
    # Executors take long to start on a loaded machine.
    "spark.ray.init.timeout": "120s",
    "spark.ray.worker.prestart": "0",
}
TASKS = 120


@pytest.fixture
def context() -> Iterator[RayContext]:
    """A cluster on both executors, each with one slot; nothing of it is left afterwards."""
    spark = init_spark_on_local(memory="1g", conf=CONF)
    try:
        context = RayContext(spark, object_store_memory="64m", extra_params={"resources": {"slot": 1}})
        context.init()
        yield context
        recorded = Recorded(context)
        context.stop()
        recorded.assert_gone()
    finally:
        spark.stop()
        gateway.end_gateway()


@sparkray.remote(max_retries=-1)
def weigh(array: Any, offset: int) -> float:
    time.sleep(0.1)  # long enough to be killed in the middle
    return float(array.sum()) + offset


@sparkray.remote(max_restarts=-1, num_cpus=0, resources={"slot": 1})
class Counter:
    def __init__(self) -> None:
        self.value = 0

    def add(self) -> tuple[int, str, int]:
        self.value += 1
        return self.value, sparkray.get_runtime_context().get_node_id(), os.getpid()


def test_a_killed_executor_costs_no_result_and_its_actor_comes_back(context: RayContext) -> None:
    before = {node["executor_id"]: node for node in context.nodes()}
    victim = next(node for node in before.values() if node["executor_id"] != context._running()["head_executor_id"])
    # One slot for each: so there is one actor on each executor.
    actors = [Counter.remote() for _ in before]
    where = [node for _, node, _ in sparkray.get([actor.add.remote() for actor in actors], timeout=60)]
    assert set(where) == {node["node_id"] for node in before.values()}
    moved = actors[where.index(victim["node_id"])]
    stays = actors[1 - where.index(victim["node_id"])]
    first_pid = sparkray.get(moved.add.remote(), timeout=60)[2]

    array = sparkray.put(np.ones(100_000))
    tasks = [weigh.remote(array, n) for n in range(TASKS)]
    ready, _ = sparkray.wait(tasks, num_returns=10, timeout=60)
    assert len(ready) == 10
    os.kill(victim["executor_pid"], signal.SIGKILL)
    wait_until(lambda: not alive(victim["executor_pid"]), 60, "the executor is gone")
    wait_until(lambda: not alive(victim["pid"]) and not alive(first_pid), 60, "what ran in the executor is gone")

    assert sparkray.get(tasks, timeout=90) == [100_000.0 + n for n in range(TASKS)]
    # The other one did not notice.
    assert sparkray.get(stays.add.remote(), timeout=60)[0] == 2

    def replaced() -> bool:
        up = [node for node in context.nodes() if node["state"] == "up"]
        return len(up) == 2 and not {node["node_id"] for node in up} & {victim["node_id"]}

    wait_until(replaced, 60, "Spark has replaced the executor, which has joined")
    context.check()
    new = next(node for node in context.nodes() if node["executor_id"] not in before)
    assert new["executor_pid"] != victim["executor_pid"] and new["pid"] != victim["pid"]
    answers: list[tuple[int, str, int]] = []

    def answered() -> bool:
        try:
            answers.append(sparkray.get(moved.add.remote(), timeout=60))
        except exceptions.ActorUnavailableError:
            return False
        return True

    wait_until(answered, 60, "the actor is back")
    value, node_id, pid = answers[-1]
    assert (value, node_id) == (1, new["node_id"]) and pid != first_pid
    alive_nodes = {node["NodeID"] for node in sparkray.nodes() if node["Alive"]}
    assert victim["node_id"] not in alive_nodes and new["node_id"] in alive_nodes
    wait_until(lambda: sparkray.available_resources().get("CPU") == 2.0, 60, "all CPUs are free again")


@pytest.mark.trouble
def test_an_executors_raylet_that_stood_still_for_long_is_replaced_by_itself(context: RayContext) -> None:
    before = {node["executor_id"]: node for node in context.nodes()}
    victim = next(node for node in before.values() if node["executor_id"] != context._running()["head_executor_id"])
    actors = [Counter.remote() for _ in before]
    where = [node for _, node, _ in sparkray.get([actor.add.remote() for actor in actors], timeout=60)]
    moved = actors[where.index(victim["node_id"])]
    stays = actors[1 - where.index(victim["node_id"])]
    first_pid = sparkray.get(moved.add.remote(), timeout=60)[2]
    os.kill(victim["pid"], signal.SIGSTOP)
    try:
        wait_until(lambda: not alive(first_pid), 60, "its worker ends itself")

        def given_up() -> bool:
            return victim["node_id"] not in {node["NodeID"] for node in sparkray.nodes() if node["Alive"]}

        wait_until(given_up, 60, "the head gives it up")
    finally:
        os.kill(victim["pid"], signal.SIGCONT)

    def back() -> bool:
        now = {node["executor_id"]: node for node in context.nodes()}.get(victim["executor_id"])
        return now is not None and now["state"] == "up" and now["node_id"] != victim["node_id"]

    wait_until(back, 60, "its executor has started another")
    context.check()
    answers: list[tuple[int, str, int]] = []

    def answered() -> bool:
        try:
            answers.append(sparkray.get(moved.add.remote(), timeout=60))
        except exceptions.ActorUnavailableError:
            return False
        return True

    wait_until(answered, 60, "the actor is back")
    new = next(node for node in context.nodes() if node["executor_id"] == victim["executor_id"])
    assert answers[-1][:2] == (1, new["node_id"])
    assert sparkray.get(stays.add.remote(), timeout=60)[0] == 2


@pytest.mark.trouble
def test_a_head_on_an_executor_that_stands_still_for_long_loses_nothing(context: RayContext) -> None:
    nodes = {node["node_id"] for node in context.nodes()}
    actors = [Counter.remote() for _ in nodes]
    first = sparkray.get([actor.add.remote() for actor in actors], timeout=60)
    array = sparkray.put(np.ones(100_000))
    head = context._running()["head_pid"]
    os.kill(head, signal.SIGSTOP)
    try:
        resumed = time.monotonic() + 20
        while time.monotonic() < resumed:
            answers = sparkray.get([actor.add.remote() for actor in actors], timeout=60)
            time.sleep(0.5)
    finally:
        os.kill(head, signal.SIGCONT)
    assert sparkray.get(weigh.remote(array, 1), timeout=60) == 100_001.0
    after = sparkray.get([actor.add.remote() for actor in actors], timeout=60)
    assert [answer[1:] for answer in first] == [answer[1:] for answer in answers] == [answer[1:] for answer in after]
    assert {node["NodeID"] for node in sparkray.nodes() if node["Alive"]} >= nodes
    context.check()
    assert {node["node_id"] for node in context.nodes()} == nodes
