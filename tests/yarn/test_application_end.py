"""However a program on YARN ends, nothing of its cluster outlives the containers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import Any

import pytest

from process.helpers import start_driver
from support.minicluster import MiniCluster, wait_until
from support.ray_processes import Traces

PROGRAM = """
import json, os, sys, time
os.setsid()  # so that the test can press Ctrl-C for this program alone
import sparkray
from sparkray.spark import RayContext, init_spark_on_yarn
from support.ray_processes import Recorded

@sparkray.remote
class Actor:
    def ping(self):
        return os.getpid()

@sparkray.remote
def sleep(seconds):
    time.sleep(seconds)

sc = init_spark_on_yarn(**{arguments!r})
context = RayContext(sc, object_store_memory="64m")
context.init()
actor = Actor.options(name="detached", lifetime="detached", num_cpus=0).remote()
sparkray.get(actor.ping.remote(), timeout=60)
pending = sleep.remote(600)
recorded = Recorded(context)
java = [sc._gateway.proc.pid, *recorded.java_pids]
directories = [os.readlink(f"/proc/{{pid}}/cwd") for pid in recorded.java_pids]
print("recorded", json.dumps(java), json.dumps(directories), recorded.text(), sep="|", flush=True)
"""
WAYS = {
    "kill": "time.sleep(600)",
    "interrupt": "sparkray.get(pending)",
    "return": "",
    "exception": "raise RuntimeError('on purpose')",
}


@pytest.mark.trouble("the head is lost", "raylet ended", "cannot reach the driver's manager")
@pytest.mark.parametrize("way", WAYS)
def test_however_a_program_ends_nothing_outlives_its_containers(mini_cluster: MiniCluster, way: str) -> None:
    arguments: dict[str, Any] = {
        "hadoop_conf": mini_cluster.conf_dir,
        "num_executors": 1,
        "executor_cores": 1,
        "executor_memory": "512m",
        "driver_memory": "600m",
        "extra_executor_memory_for_ray": "512m",
        "conf": {
            **mini_cluster.spark_conf(),
            "spark.ui.enabled": "false",
            "spark.ray.init.timeout": "120s",
        },
    }
    with start_driver(PROGRAM.format(arguments=arguments) + WAYS[way]) as driver:
        try:
            java_pids, directories, text = facts_of(driver)
            if way == "kill":
                driver.kill()
            elif way == "interrupt":
                os.killpg(driver.pid, signal.SIGINT)
            code = driver.wait(timeout=60)
            Traces.of_text(text).assert_gone_with(java_pids)
        finally:
            driver.kill()
        assert code == {"kill": -signal.SIGKILL, "return": 0}.get(way, code)
        assert (code == 0) == (way == "return")
    wait_until(lambda: not any(map(os.path.exists, directories)), 60, "YARN deletes the containers' directories")


def facts_of(driver: subprocess.Popen[str]) -> tuple[list[int], list[str], str]:
    """Processes that carried the cluster, their containers' directories, and the traces of the cluster."""
    assert driver.stdout is not None and driver.stderr is not None
    while line := driver.stdout.readline():
        if line.startswith("recorded|"):
            _, java_pids, directories, text = line.split("|", 3)
            return json.loads(java_pids), json.loads(directories), text
    raise AssertionError(driver.stderr.read())
