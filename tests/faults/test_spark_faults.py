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
