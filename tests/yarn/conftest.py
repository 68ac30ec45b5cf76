"""One mini cluster for all tests of this folder, and one Spark application for those that need no special one."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from process.helpers import TROUBLE
from sparkray.spark import RayContext
from support.application import STORE, Application
from support.minicluster import MiniCluster
from support.ray_processes import Recorded, allowed_troubles


@pytest.fixture(scope="session")
def mini_cluster() -> Iterator[MiniCluster]:
    """A real YARN with two NodeManagers and a real HDFS."""
    with MiniCluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def application(mini_cluster: MiniCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """The application that modules share."""
    shared = Application(mini_cluster, tmp_path_factory.mktemp("events"))
    yield shared
    shared.stop()


@pytest.fixture(scope="module", autouse=True)
def _one_application(request: pytest.FixtureRequest, application: Application) -> None:
    """Ends the shared application before a module that does not use it: there is one SparkContext in a process. The
    modules that do are named so that they come one after the other."""
    items = [item for item in request.session.items if getattr(item, "module", None) is request.module]
    if not any("shared_spark" in getattr(item, "fixturenames", ()) for item in items):
        application.stop()


@pytest.fixture(scope="module")
def shared_spark(application: Application) -> Any:
    """The SparkSession of the shared application."""
    from pyspark.sql import SparkSession

    return SparkSession(application.context())


@pytest.fixture
def shared_ray(shared_spark: Any) -> Iterator[RayContext]:
    """A cluster of the shared application for one test; nothing of it is left afterwards."""
    context = RayContext(shared_spark.sparkContext, object_store_memory=STORE, extra_params={"resources": {"slot": 1}})
    context.init()
    recorded = Recorded(context)
    yield context
    context.stop()
    recorded.assert_gone()


@pytest.fixture(autouse=True)
def _quiet_logs(request: pytest.FixtureRequest, mini_cluster: MiniCluster) -> Iterator[None]:
    """No process of ours logs a warning or an error, but those that the test's marker `trouble` allows."""
    before = {path: path.stat().st_size for path in _logs(mini_cluster)}
    yield
    # Executors outlive the driver of a program that ends, on a busy machine for long enough to say so.
    allowed = [*allowed_troubles(request), "cannot reach the driver's manager"]
    unexpected = []
    for path in _logs(mini_cluster):
        with path.open("rb") as file:
            file.seek(before.get(path, 0))
            text = file.read().decode(errors="replace")
        lines = [match.group(0) for match in TROUBLE.finditer(text)]
        if any(not any(word in line for word in allowed) for line in lines):
            # What led to it.
            unexpected.append(f"==> {path.parent.name}/{path.name}\n{text[-4000:]}")
    assert not unexpected, "unexpected warnings or errors in the logs:\n" + "\n".join(unexpected)


def _logs(cluster: MiniCluster) -> list[pathlib.Path]:
    return [
        path
        for directory in cluster.container_log_dirs
        for path in directory.glob("application_*/container_*/*")
        # The managers log to their JVMs' standard error.
        if path.name.startswith("sparkray-") or path.name == "stderr"
    ]
