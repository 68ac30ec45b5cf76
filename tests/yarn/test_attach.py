"""Programs that Spark's own commands start on YARN, with nothing of sparkray but the package: client mode, cluster mode
and the shell. The driver's environment goes along as an archive."""

from __future__ import annotations

import ast
import os
import pathlib
import subprocess
import sys
import textwrap
from typing import Any

import pyspark
import pytest

from sparkray.spark.environment import pack_environment
from support.minicluster import MiniCluster, wait_until

SPARK = pathlib.Path(pyspark.__file__).parent
SECONDS = 400.0
PROGRAM = """
import os, sys
from pyspark.sql import SparkSession
import sparkray
from sparkray.spark import RayContext

spark = SparkSession.builder.getOrCreate()
context = RayContext(spark, object_store_memory="200m")
context.init()

@sparkray.remote
def where():
    return os.environ["CONTAINER_ID"], sys.prefix

@sparkray.remote
def double(table):
    import pyarrow
    import pyarrow.compute
    return pyarrow.table({"id": pyarrow.compute.multiply(table["id"], 2)})

nodes = {node["container_id"]: node["memory_budget_bytes"] >> 20 for node in context.nodes()}
blocks = sparkray.from_spark(spark.range(0, 1000, 1, 4))
total = sparkray.to_spark([double.remote(block) for block in blocks], spark).selectExpr("sum(id)").collect()[0][0]
seen = sparkray.get([where.remote() for _ in range(8)], timeout=120)
driver = context._running()["driver_node"]["object_store_bytes"] >> 20
print("RESULT", {"nodes": nodes, "total": total, "seen": seen, "driver": driver}, flush=True)
context.stop()
spark.stop()
"""
# What an interactive interpreter reads: each statement on a line of its own.
SHELL_LINES = """
import os, sys, sparkray
from sparkray.spark import RayContext
context = RayContext(sc, allow_unauthenticated_spark=True)
print("INFO", sorted(context.init()), flush=True)
nodes = {node["container_id"]: node["memory_budget_bytes"] >> 20 for node in context.nodes()}
where = sparkray.remote(lambda: (os.environ["CONTAINER_ID"], sys.prefix))
total = sparkray.to_spark(sparkray.from_spark(spark.range(0, 1000, 1, 4)), spark).selectExpr("sum(id)").collect()[0][0]
seen = sparkray.get([where.remote() for _ in range(8)], timeout=120)
print("RESULT", {"nodes": nodes, "total": total, "seen": seen}, flush=True)
context.stop()
spark.stop()
exit()
"""

pytestmark = pytest.mark.filterwarnings("ignore:the virtual environment")


def run(
    cluster: MiniCluster, command: list[str], conf: dict[str, str], **more: Any
) -> subprocess.CompletedProcess[str]:
    """A command of Spark's, with the environment as an archive."""
    settings = {**cluster.spark_conf(), "spark.ui.enabled": "false", "spark.ray.init.timeout": "240s", **conf}
    options = [word for key, value in settings.items() for word in ("--conf", f"{key}={value}")]
    sizes = ["--num-executors", "2", "--executor-cores", "1", "--executor-memory", "512m", "--driver-memory", "600m"]
    archives = ["--archives", f"{pack_environment()}#environment"]
    variables = {
        "HADOOP_CONF_DIR": cluster.conf_dir,
        "PYSPARK_PYTHON": "./environment/bin/python",
        **more.pop("variables"),
    }
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SPARK_HOME")}
    program, *arguments = command
    return subprocess.run(
        [str(SPARK / "bin" / program), "--master", "yarn", *archives, *sizes, *options, *arguments],
        env={**clean, **variables},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        **more,
    )


def result_in(text: str) -> dict[str, Any]:
    """What the program printed."""
    lines = [line.partition("RESULT ")[2] for line in text.splitlines() if "RESULT {" in line]
    assert len(lines) == 1, text
    result: dict[str, Any] = ast.literal_eval(lines[0])
    return result


def assert_right(result: dict[str, Any], budget_mebibytes: int) -> None:
    """Two nodes in containers, and workers that run the shipped environment there."""
    assert list(result["nodes"].values()) == [budget_mebibytes] * 2 and all(result["nodes"])
    for container, prefix in result["seen"]:
        assert container in result["nodes"] and prefix.endswith(f"{container}/environment")


def assert_nothing_left(cluster: MiniCluster) -> None:
    wait_until(lambda: not cluster.container_processes(), 60, "nothing outlives the containers")


AUTHENTICATED = {"spark.authenticate": "true", "spark.executor.memoryOverhead": "896m"}


def test_spark_submit_in_client_mode(mini_cluster: MiniCluster, tmp_path: pathlib.Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = run(
        mini_cluster,
        ["spark-submit", str(program)],
        AUTHENTICATED,
        variables={"PYSPARK_DRIVER_PYTHON": sys.executable},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = result_in(done.stdout)
    assert_right(result, 512)
    assert result["total"] == 999_000 and result["driver"] == 200
    assert "has set no memory aside" not in done.stderr
    assert_nothing_left(mini_cluster)


@pytest.mark.trouble("the head is lost", "raylet ended", "cannot reach the driver's manager")
def test_spark_submit_in_cluster_mode(mini_cluster: MiniCluster, tmp_path: pathlib.Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    before = {application["id"] for application in mini_cluster.applications()}
    done = run(
        mini_cluster,
        ["spark-submit", "--deploy-mode", "cluster", str(program)],
        AUTHENTICATED,
        variables={},
    )
    (application,) = {application["id"] for application in mini_cluster.applications()} - before
    logs = mini_cluster.container_logs(application)
    assert done.returncode == 0, done.stdout + done.stderr + logs
    result = result_in(logs)
    assert_right(result, 512)
    assert result["total"] == 999_000
    # A quarter of the 384 MiB of the driver's container: half of Ray's half.
    assert result["driver"] == 96
    assert_nothing_left(mini_cluster)


@pytest.mark.trouble("the head is lost", "raylet ended", "cannot reach the driver's manager")
def test_the_shell(mini_cluster: MiniCluster) -> None:
    """Without authentication, allowed by name, and without memory for Ray, of which it warns."""
    done = run(
        mini_cluster,
        ["pyspark"],
        {},
        variables={"PYSPARK_DRIVER_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON_OPTS": "-i"},
        input=textwrap.dedent(SHELL_LINES).lstrip(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = result_in(done.stdout)
    # Half of the 384 MiB that Spark keeps for itself.
    assert_right(result, 192)
    assert result["total"] == 499_500
    assert "has set no memory aside for Ray: each node has 192 MiB" in done.stderr
    assert "spark.executor.memoryOverhead" in done.stderr
    assert_nothing_left(mini_cluster)
