"""Starts on YARN that come to nothing: a full queue, a deadline, Ctrl-C. No application and no file is left."""

from __future__ import annotations

import json
import pathlib
import signal
import sys
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest

from process.helpers import children_of, start_driver
from sparkray.spark import driver_log, gateway
from sparkray.spark.spark_conf import build_spark_conf, with_driver_java_option
from support.minicluster import MiniCluster, wait_until

FINAL = ("FINISHED", "FAILED", "KILLED")

DRIVER = """
    import json, os, sys
    from sparkray.spark import gateway
    conf, variables = json.loads({request!r})
    try:
        gateway.start_context(conf, variables)
    finally:
        from pyspark import SparkContext
        print("left", SparkContext._gateway, SparkContext._active_spark_context, flush=True)
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An environment that no executor uses."""
    path = tmp_path_factory.mktemp("environment") / "empty.tar.gz"
    with tarfile.open(path, "w:gz"):
        pass
    return str(path)


def conf_for(cluster: MiniCluster, archive: str, **conf: Any) -> dict[str, str]:
    _, option = driver_log.redirect_driver_log("WARN")
    settings = build_spark_conf(
        num_executors=1,
        executor_cores=1,
        executor_memory="512m",
        driver_cores=1,
        driver_memory="600m",
        extra_executor_memory_for_ray=None,
        environment_archive=archive,
        driver_python=sys.executable,
        plugin_jar=None,
        conf={**cluster.spark_conf(), "spark.ui.enabled": "false", "spark.network.crypto.enabled": "false", **conf},
    )
    return with_driver_java_option(settings, option)


@pytest.fixture(scope="module")
def occupant(mini_cluster: MiniCluster, archive: str) -> Iterator[Any]:
    """An application whose master takes what the queue has for masters."""
    secret = "spark.hadoop.fs.s3a.secret.key"
    conf = conf_for(mini_cluster, archive, **{"spark.yarn.am.memory": "7g", secret: "s3cr3t value"})
    context = gateway.start_context(conf, {"HADOOP_CONF_DIR": mini_cluster.conf_dir})
    yield context
    context.stop()
    gateway.end_gateway()
    wait_until(lambda: not mini_cluster.container_processes(), 60, "the containers end")


def request(cluster: MiniCluster, archive: str, **conf: Any) -> str:
    return json.dumps([conf_for(cluster, archive, **conf), {"HADOOP_CONF_DIR": cluster.conf_dir}])


@pytest.fixture(scope="module")
def left_before(occupant: Any) -> set[str]:
    """Staging directories of applications whose driver was killed in other tests: nobody was left to remove them."""
    return set(staging(occupant)) - {occupant.applicationId}


def staging(occupant: Any) -> list[str]:
    """Names of the staging directories in HDFS."""
    files: Any = occupant._jvm.org.apache.hadoop.fs
    file_system = files.FileSystem.get(occupant._jsc.hadoopConfiguration())
    directory = files.Path(file_system.getHomeDirectory(), ".sparkStaging")
    return [str(status.getPath().getName()) for status in file_system.listStatus(directory)]


def assert_only_the_occupant_is_left(cluster: MiniCluster, occupant: Any, left_before: set[str]) -> None:
    left = {row["id"]: row["state"] for row in cluster.applications() if row["state"] not in FINAL}
    assert left == {occupant.applicationId: "RUNNING"}
    assert set(staging(occupant)) - left_before == {occupant.applicationId}


def test_settings_are_on_no_command_line(occupant: Any) -> None:
    java = occupant._gateway.proc.pid
    assert b"s3cr3t" not in pathlib.Path(f"/proc/{java}/cmdline").read_bytes()
    assert b"s3cr3t" not in pathlib.Path(f"/proc/{java}/environ").read_bytes()
    assert occupant._jsc.hadoopConfiguration().get("fs.s3a.secret.key") == "s3cr3t value"
    words = pathlib.Path(f"/proc/{java}/cmdline").read_text().split("\0")
    assert not pathlib.Path(words[words.index("--properties-file") + 1]).exists()
    assert not occupant.getConf().contains("spark.shuffle.service.enabled=true")


def test_full_queue_ends_the_start_at_its_deadline(
    mini_cluster: MiniCluster, archive: str, occupant: Any, left_before: set[str]
) -> None:
    text = request(mini_cluster, archive, **{"spark.ray.start.timeout": "3s", "spark.yarn.tags": "mine"})
    with start_driver(DRIVER.format(request=text)) as process:
        out, err = process.communicate(timeout=90)
    assert process.returncode != 0 and "left None None" in out
    assert "is ACCEPTED in queue default for" in err.replace("root.", "")
    error = next(line for line in reversed(err.splitlines()) if "SparkStartError" in line)
    assert "Spark did not start: YARN did not start application_" in error
    for words in ("ACCEPTED", "queue", "AM resource limit", "spark.ray.start.timeout", "spark.yarn.queue"):
        assert words in error
    assert_only_the_occupant_is_left(mini_cluster, occupant, left_before)


@pytest.fixture
def large_archive(tmp_path: pathlib.Path) -> str:
    """An environment whose upload takes longer than the test, were it not interrupted."""
    path = tmp_path / "large.tar.gz"
    with path.open("wb") as file:
        file.truncate(4 << 30)
    return str(path)


# The call of Spark's client that makes its staging directory comes to HDFS after the one that removes it.
MADE_AFTER_ITS_REMOVAL = """
    from sparkray.spark import yarn_start
    is_starting = yarn_start.StartWatch._is_starting
    def make_again_at_the_end(watch):
        starting = is_starting(watch)
        if not starting:
            files = watch._jvm.org.apache.hadoop.fs.FileSystem.get(watch._hadoop_conf)
            assert not files.exists(watch._staging_directory)
            print("made again", files.mkdirs(watch._staging_directory), flush=True)
        return starting
    yarn_start.StartWatch._is_starting = make_again_at_the_end
"""


@pytest.mark.parametrize("where", ["upload", "upload, its directory made again", "queue"])
def test_interrupt_while_the_application_starts(
    mini_cluster: MiniCluster, archive: str, large_archive: str, occupant: Any, left_before: set[str], where: str
) -> None:
    program = DRIVER.format(request=request(mini_cluster, archive if where == "queue" else large_archive))
    if "again" in where:
        program = MADE_AFTER_ITS_REMOVAL + program
    with start_driver(program) as process:
        assert process.stderr is not None
        if "upload" in where:
            # Its staging directory is made.
            wait_until(lambda: len(set(staging(occupant)) - left_before) == 2, 60, "files are uploaded")
        else:
            for line in process.stderr:
                if "is ACCEPTED" in line:
                    break
        children = children_of(process.pid)
        assert children
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in err and "left None None" in out
    assert ("made again True" in out) == ("again" in where)
    assert_only_the_occupant_is_left(mini_cluster, occupant, left_before)
