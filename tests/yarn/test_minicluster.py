"""The mini cluster is a real YARN, and it ends with its parent."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import xml.etree.ElementTree
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from sparkray.spark import gateway
from support.minicluster import MiniCluster, MiniClusterError, wait_until

END_SECONDS = 60.0


@contextlib.contextmanager
def spark_context(cluster: MiniCluster, **settings: str) -> Iterator[Any]:
    """A SparkContext on the cluster with two small executors, ended with its gateway."""
    conf = {
        "spark.master": "yarn",
        "spark.submit.deployMode": "client",
        "spark.app.name": "test",
        "spark.executor.instances": "2",
        "spark.executor.cores": "1",
        "spark.executor.memory": "512m",
        "spark.scheduler.minRegisteredResourcesRatio": "1.0",
        "spark.scheduler.maxRegisteredResourcesWaitingTime": "120s",
        "spark.ui.enabled": "false",
        **cluster.spark_conf(),
        **{key.replace("_", "."): value for key, value in settings.items()},
    }
    context = gateway.start_context(conf, {"HADOOP_CONF_DIR": cluster.conf_dir, "PYSPARK_PYTHON": sys.executable})
    try:
        yield context
    finally:
        context.stop()
        gateway.end_gateway()


def container_ids(context: Any) -> set[str]:
    """The containers that ran the tasks of a job over all slots."""

    def container_id(_: object) -> Iterator[str]:
        yield os.environ["CONTAINER_ID"]

    return set(context.parallelize(range(20), 20).mapPartitions(container_id).collect())


def test_two_node_managers_run(mini_cluster: MiniCluster) -> None:
    assert [node["state"] for node in mini_cluster.nodes()] == ["RUNNING", "RUNNING"]


def test_client_configuration_has_addresses_only(mini_cluster: MiniCluster) -> None:
    values = {}
    for path in pathlib.Path(mini_cluster.conf_dir).iterdir():
        for element in xml.etree.ElementTree.parse(path).getroot().iter("property"):
            values[element.findtext("name")] = element.findtext("value") or ""
    assert values["fs.defaultFS"] == mini_cluster.hdfs_uri
    assert values["yarn.resourcemanager.address"] == mini_cluster.resource_manager
    assert all(key == "fs.defaultFS" or key == "dfs.replication" or "resourcemanager" in str(key) for key in values)
    assert "0.0.0.0" not in "".join(values.values())


def test_a_job_runs_in_two_real_containers_and_leaves_none(mini_cluster: MiniCluster) -> None:
    with spark_context(mini_cluster) as context:
        used = container_ids(context)
        assert len(used) == 2
        processes = mini_cluster.container_processes()
        assert used < {process.container_id for process in processes}
        assert {container["state"] for container in mini_cluster.containers() if container["id"] in used} == {"RUNNING"}
        application = context.applicationId
        assert application in [row["id"] for row in mini_cluster.applications() if row["state"] == "RUNNING"]
    wait_until(lambda: not mini_cluster.container_processes(), END_SECONDS, "the containers' processes end")
    states = {row["id"]: row["final_status"] for row in mini_cluster.applications()}
    assert states[application] == "SUCCEEDED"


def test_killed_container_and_killed_application(mini_cluster: MiniCluster) -> None:
    with spark_context(mini_cluster) as context:
        one, other = sorted(container_ids(context))
        mini_cluster.kill_container(one)
        wait_until(lambda: not mini_cluster.container_processes(one), END_SECONDS, "the container's processes end")
        assert mini_cluster.kill_executor_jvms(other)
        wait_until(lambda: not mini_cluster.container_processes(other), END_SECONDS, "the executor ends")
        mini_cluster.yarn_application_kill(context.applicationId)
        wait_until(lambda: not mini_cluster.container_processes(), END_SECONDS, "everything of the application ends")
    states = {row["id"]: row["state"] for row in mini_cluster.applications()}
    assert "KILLED" in states.values()


def test_errors_of_commands_are_sentences(mini_cluster: MiniCluster) -> None:
    with pytest.raises(MiniClusterError, match="Invalid ApplicationId"):
        mini_cluster.yarn_application_kill("application")
    with pytest.raises(MiniClusterError, match="unknown command"):
        mini_cluster._command("dance")


def test_failed_start_shows_the_log(tmp_path: pathlib.Path) -> None:
    (tmp_path / "conf").write_text("not a directory")
    with pytest.raises(MiniClusterError, match="did not start"):
        MiniCluster(tmp_path).start()


def test_memory_checks_kill_a_task_that_takes_too_much() -> None:
    """The positive control of every memory test: 1.5 GB in a container of 768 MB."""

    def take_memory(_: object) -> Iterator[int]:
        import threading

        taken = bytearray(os.urandom(1024)) * (1536 * 1024)
        threading.Event().wait(60)  # The kill comes meanwhile.
        yield len(taken)

    with MiniCluster(memory_checks=True, node_managers=1) as cluster:
        small = {
            "spark_executor_instances": "1",
            "spark_executor_memoryOverhead": "256m",
            "spark_task_maxFailures": "1",
        }
        with spark_context(cluster, **small) as context:
            with pytest.raises(Exception, match="exceeding physical memory limits"):
                context.parallelize([0], 1).mapPartitions(take_memory).collect()


PARENT = """
import os, signal, sys
sys.path[:0] = {path!r}
from pyspark import SparkConf, SparkContext
from support.minicluster import MiniCluster
cluster = MiniCluster()
cluster.start()
holder = os.fork()
if holder == 0:
    signal.pause()  # Holds the pipe of the cluster's standard input open.
os.environ["HADOOP_CONF_DIR"] = cluster.conf_dir
conf = SparkConf(loadDefaults=False).setMaster("yarn").setAppName("test").setAll(cluster.spark_conf().items())
conf.set("spark.executor.instances", "1").set("spark.executor.memory", "512m")
SparkContext(conf=conf.set("spark.scheduler.minRegisteredResourcesRatio", "1.0"))
print(cluster.pid, holder, cluster.work_dir, *(process.pid for process in cluster.container_processes()), flush=True)
signal.pause()
"""


def test_killed_parent_leaves_nothing() -> None:
    program = PARENT.format(path=sys.path)
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    holder = None
    try:
        cluster_pid, holder, work_dir, *containers = parent.stdout.readline().split()
        processes = [psutil.Process(int(pid)) for pid in (cluster_pid, *containers)]
        assert len(processes) >= 3  # The cluster, an ApplicationMaster and an executor at least.
        parent.kill()
        parent.wait()
        _, alive = psutil.wait_procs(processes, timeout=END_SECONDS)
        assert alive == []
        wait_until(lambda: not pathlib.Path(work_dir).exists(), 60, "the cluster's files are deleted")
    finally:
        parent.kill()
        parent.wait()
        if holder is not None:
            os.kill(int(holder), signal.SIGKILL)
