"""Demand that no executor's node can meet: the driver says what to change of Spark's settings or RayContext's."""

from __future__ import annotations

import io
import sys

import pytest

import sparkray
from process.helpers import PATIENCE, wait_until
from sparkray.spark import RayContext
from support.sessions import spark_session

CONF = {
    "spark.master": "local-cluster[1,1,1024]",
    "spark.ui.enabled": "false",
    "spark.ray.memory.budget": "1g",
    "spark.ray.init.timeout": "120s",
}


@sparkray.remote
def train() -> str:
    return "done"


def test_the_driver_says_what_to_change_of_the_executors(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()

    def told(*words: str) -> list[str]:
        lines = [line for line in stream.getvalue().splitlines() if line.startswith("(sparkray) Warning: ")]
        return [line for line in lines if all(word in line for word in words)]

    with spark_session(memory="1g", conf=CONF) as spark, RayContext(spark, object_store_memory="64m"):
        monkeypatch.setattr(sys, "stderr", stream)
        waiting = [
            train.options(num_cpus=64).remote(),
            train.options(num_gpus=1).remote(),
            train.options(resources={"slot": 2}).remote(),
            train.options(label_selector={"zone": "b"}).remote(),
        ]
        wait_until(lambda: len(told()) >= 4, what="four lines")
        assert len(told()) == 4, told()
        (cpus,) = told("task train (1 waiting)", "no node has more than 1 CPU")
        assert "executor_cores=64 of init_spark_on_yarn" in cpus and "spark.executor.cores=64" in cpus
        (gpus,) = told("no node has more than 0 GPU")
        assert "spark.executor.resource.gpu.amount" in gpus
        (slots,) = told("no node has more than 0 slot")
        assert "extra_params={\"resources\": {'slot': 2}} of RayContext" in slots
        (labels,) = told("{zone: in(b)}", "executor_id=0")
        assert "executor_id, container_id, hostname" in labels
        # After shutdown() the program's own init() joins again, and the advice is still Spark's.
        sparkray.shutdown()
        stream.truncate(0)
        sparkray.init()
        waiting = [train.options(num_cpus=65).remote()]
        wait_until(lambda: told(), what="a line")
        assert len(told("executor_cores=65")) == 1
        assert sparkray.get(train.remote(), timeout=PATIENCE) == "done"
        del waiting
