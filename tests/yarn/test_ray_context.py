"""RayContext on a real YARN: nodes in containers, what they leave behind, what comes back."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

import sparkray
from process.helpers import alive
from sparkray.spark import RayContext, RayContextError, init_spark_on_yarn
from support.minicluster import MiniCluster, wait_until
from support.ray_processes import Recorded, executors_of_spark, look_at

STORE = "64m"

pytestmark = pytest.mark.filterwarnings("ignore:the virtual environment")


def start_spark(cluster: MiniCluster) -> Any:
    return init_spark_on_yarn(
        hadoop_conf=cluster.conf_dir,
        num_executors=2,
        executor_cores=1,
        executor_memory="512m",
        driver_cores=1,
        driver_memory="700m",
        extra_executor_memory_for_ray="512m",
        conf={**cluster.spark_conf(), "spark.ui.enabled": "false", "spark.ray.init.timeout": "120s"},
    )


@pytest.fixture(scope="module")
def spark(mini_cluster: MiniCluster) -> Iterator[Any]:
    context = start_spark(mini_cluster)
    yield context
    context.stop()
    wait_until(lambda: not mini_cluster.container_processes(), 60, "the containers end")


@pytest.fixture
def context(spark: Any) -> Iterator[RayContext]:
    """A cluster on both executors; nothing of it is left afterwards."""
    context = RayContext(spark, object_store_memory=STORE)
    context.init()
    recorded = Recorded(context)
    yield context
    context.stop()
    recorded.assert_gone()


@sparkray.remote
def where() -> tuple[str, int, str, str, str]:
    node = sparkray.get_runtime_context().get_node_id()
    return node, os.getpid(), os.environ.get("CONTAINER_ID", ""), sys.executable, sys.prefix


def executors(context: RayContext) -> dict[str, dict[str, Any]]:
    return {node["executor_id"]: node for node in context.nodes()}


def said(context: RayContext) -> str:
    """Why the cluster is lost; nothing when it is not."""
    try:
        context.check()
    except RayContextError as error:
        return str(error)
    return ""


def other_than_head(context: RayContext) -> dict[str, Any]:
    head = context._running()["head_executor_id"]
    return next(node for node in context.nodes() if node["executor_id"] != head)


def test_init_is_quick_and_gives_every_executor_one_node(
    spark: Any, mini_cluster: MiniCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    context = RayContext(spark, object_store_memory=STORE)
    # The very first start of this SparkContext, once its executors are up.
    wait_until(lambda: executors_of_spark(spark) == 2, 90, "Spark has its executors")
    capsys.readouterr()
    started = time.monotonic()
    context.init()
    seconds = time.monotonic() - started
    printed = capsys.readouterr().out
    with capsys.disabled():
        print(f"\nRayContext.init() on YARN, two executors: {seconds:.2f} s")
    assert "2 nodes with 2 cores" in printed and "0.06 GiB of 0.50 GiB set aside for Ray" in printed
    nodes = {node["NodeID"]: node["Labels"] for node in sparkray.nodes()}
    assert len(nodes) == 3
    granted = {container["id"] for container in mini_cluster.containers()}
    for executor_id, node in executors(context).items():
        assert nodes[node["node_id"]]["executor_id"] == executor_id
        assert nodes[node["node_id"]]["container_id"] == node["container_id"]
        assert node["container_id"] in granted
        assert node["memory_budget_bytes"] == 512 << 20
    assert len({node["container_id"] for node in context.nodes()}) == 2
    assert nodes[context.address_info["node_id"]]["executor_id"] == "driver"
    recorded = Recorded(context)
    context.stop()
    recorded.assert_gone()


def test_head_raylets_and_workers_are_inside_their_containers(context: RayContext, spark: Any) -> None:
    info = context._running()
    nodes = {node["node_id"]: node for node in context.nodes()}
    executor = executors(context)[info["head_executor_id"]]
    head = look_at(info["head_pid"])
    assert head.parent_pid == executor["executor_pid"]
    assert head.environment["CONTAINER_ID"] == executor["container_id"]
    for node in nodes.values():
        raylet, java = look_at(node["pid"]), look_at(node["executor_pid"])
        assert look_at(raylet.parent_pid).parent_pid == java.pid, "between them is the raylet's guardian"
        assert raylet.group == java.group
        assert raylet.environment["CONTAINER_ID"] == node["container_id"]
        container = pathlib.Path(os.readlink(f"/proc/{node['executor_pid']}/cwd"))
        assert pathlib.Path(os.readlink(f"/proc/{node['pid']}/exe")).is_relative_to(container)
        logs = java.environment["LOG_DIRS"].split(",")[0]
        assert pathlib.Path(logs, f"sparkray-raylet-{node['executor_id']}.log").exists()
    # Spark has its slots meanwhile.
    assert spark.parallelize(range(8), 8).map(lambda value: value * value).sum() == 140
    for node_id, pid, container_id, executable, prefix in sparkray.get([where.remote() for _ in range(20)], timeout=60):
        node = nodes[node_id]
        worker = look_at(pid)
        assert worker.parent_pid == node["pid"]
        # The zygote and its workers are a group of their own, which a driver's Ctrl-C does not reach.
        assert look_at(worker.group).parent_pid == node["pid"]
        assert container_id == node["container_id"]
        assert executable.endswith(f"{container_id}/python_env/bin/python")
        assert prefix.endswith(f"{container_id}/python_env")
    assert "CONTAINER_ID" not in look_at(info["driver_node"]["pid"]).environment


@pytest.mark.trouble("raylet ended")
def test_a_killed_raylets_node_is_back_in_two_seconds(context: RayContext) -> None:
    victim = other_than_head(context)
    os.kill(victim["pid"], signal.SIGKILL)
    wait_until(lambda: executors(context)[victim["executor_id"]]["start_count"] == 2, 60, "the raylet is back")
    back = executors(context)[victim["executor_id"]]
    assert back["state"] == "up" and back["node_id"] != victim["node_id"]
    assert len(sparkray.get([where.remote() for _ in range(10)], timeout=60)) == 10


@pytest.mark.trouble("raylet ended", "the head is lost", "cannot reach the driver's manager")
def test_a_killed_executors_container_is_empty_and_its_replacement_joins(
    context: RayContext, mini_cluster: MiniCluster
) -> None:
    sparkray.get([where.remote() for _ in range(10)], timeout=60)
    victim = other_than_head(context)
    inside = [process.pid for process in mini_cluster.container_processes(victim["container_id"])]
    assert victim["pid"] in inside
    assert victim["executor_pid"] in mini_cluster.kill_executor_jvms(victim["container_id"])
    wait_until(lambda: not any(alive(pid) for pid in inside), 60, "the container is empty")
    wait_until(lambda: victim["executor_id"] not in executors(context), 60, "its end is noticed")
    wait_until(lambda: [n["state"] for n in context.nodes()] == ["up", "up"], 90, "Spark replaces it and it joins")
    context.check()
    assert len(sparkray.get([where.remote() for _ in range(10)], timeout=60)) == 10


def test_a_store_larger_than_the_budget_starts_nothing(spark: Any, mini_cluster: MiniCluster) -> None:
    with pytest.raises(RayContextError, match=r"object_store_memory is 600.0 MiB .* set aside only 512.0 MiB for Ray"):
        RayContext(spark, object_store_memory="600m").init()
    assert not [process for process in mini_cluster.container_processes() if "sparkrayd" in process.command]


def test_modules_come_from_the_shipped_environment_and_sparks_files(
    context: RayContext, spark: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "added_later.py").write_text("VERSION = 'later'\n")
    # As setuptools does: an installed package that adds a directory of its own.
    vendored = os.path.join(os.path.dirname(os.path.dirname(pytest.__file__)), "pytest", "_vendored")
    monkeypatch.setattr(sys, "path", [*sys.path, vendored])

    @sparkray.remote
    def look() -> tuple[str, str, str, list[str]]:
        import added_later  # type: ignore[import-not-found]
        import numpy

        return added_later.VERSION, numpy.__file__, sys.prefix, sys.path

    spark.addPyFile(str(tmp_path / "added_later.py"))
    version, numpy_file, prefix, path = sparkray.get(look.remote())
    assert version == "later"
    assert prefix != sys.prefix and numpy_file.startswith(prefix + os.sep)
    # The driver's own packages are on this machine too, and come from nowhere but the environment.
    assert os.path.join(prefix, os.path.relpath(vendored, sys.prefix)) in path
    assert not [entry for entry in path if entry.startswith(sys.prefix + os.sep)]


# A manager that has not been told of the end yet starts a raylet again.
@pytest.mark.trouble(
    "raylet ended",
    "the raylet failed",
    "the zygote ended",
    "head",
    "refused a node",
    "cannot reach the driver's manager",
)
def test_yarn_application_kill_leaves_nothing_and_is_said(mini_cluster: MiniCluster, spark: Any) -> None:
    """The last test of this module: it ends the application."""
    context = RayContext(spark, object_store_memory=STORE)
    context.init()
    sparkray.get([where.remote() for _ in range(10)], timeout=60)
    recorded = Recorded(context)
    mini_cluster.yarn_application_kill(spark.applicationId)
    wait_until(
        lambda: not [process for process in mini_cluster.container_processes() if "java" in process.command],
        20,
        "YARN ends the containers",
    )
    wait_until(lambda: not mini_cluster.container_processes(), 60, "nothing outlives its container")

    wait_until(lambda: said(context), 60, "the loss is seen")
    # YARN's signal reaches head and JVM at the same time, and Spark hears of the end as well: the first is named.
    gone = r"(executor \d+ on \S+, which ran its head, is gone|its head on executor \d+ on \S+ ended)"
    lost = rf"the cluster is lost: {gone}; call stop\(\) and then init\(\)"
    assert re.match(rf"{lost}|the SparkContext was stopped, and its Ray cluster with it$", said(context))
    context.stop()
    recorded.assert_gone()
