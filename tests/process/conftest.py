"""Clusters for the tests, and what must hold after each: nothing is left, and no log tells of trouble."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sparkray
from process.helpers import assert_nothing_left, processes_of, troubles
from sparkray._private.node import LocalCluster

STORE = 64 << 20
# Fixtures whose cluster serves all tests of a module.
MODULE_WIDE = {"shared", "three_nodes", "two_nodes", "zones"}


class Started:
    """A cluster that a test started in this process."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.checked = False
        self.pids: set[int] = set()

    def check(self, trouble_expected: bool) -> None:
        """Nothing is left of it, and its logs are quiet."""
        self.checked = True
        assert_nothing_left(self.cluster.cluster_id, sorted(self.pids))
        found = troubles(self.cluster.session.log_dir)
        assert trouble_expected or not found, "unexpected lines in the logs:\n" + "\n".join(found)


_started: list[Started] = []


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "trouble: the test makes trouble that the logs may tell of")


@pytest.fixture(scope="package", autouse=True)
def _recorded_clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps all logs, and knows every cluster."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SPARKRAY_KEEP_LOGS", "1")
    directory = str(tmp_path_factory.mktemp("tmp"))
    patch.setattr(tempfile, "tempdir", directory)
    patch.setenv("TMPDIR", directory)
    make, add, stop = LocalCluster.__init__, LocalCluster.add_node, LocalCluster.stop

    def record(self: LocalCluster, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        _started.append(Started(self))
        _started[-1].pids.add(self.head_pid)

    def add_node(self: LocalCluster, **arguments: Any) -> Any:
        node = add(self, **arguments)
        _of(self).pids.add(node.pid)
        return node

    def stop_recorded(self: LocalCluster) -> None:
        _of(self).pids.update(pid for pid, _ in processes_of(self.cluster_id))
        stop(self)

    patch.setattr(LocalCluster, "__init__", record)
    patch.setattr(LocalCluster, "add_node", add_node)
    patch.setattr(LocalCluster, "stop", stop_recorded)
    yield
    left = [started.cluster.cluster_id for started in _started if not started.cluster._stopped]
    patch.undo()
    assert not left, f"clusters that no test stopped: {left}"
    for started in _started:
        if not started.checked:
            started.check(trouble_expected=False)


def _of(cluster: LocalCluster) -> Started:
    return next(started for started in _started if started.cluster is cluster)


@pytest.fixture(autouse=True)
def _clean_afterwards(request: pytest.FixtureRequest) -> Iterator[None]:
    first = len(_started)
    yield
    if not MODULE_WIDE & set(request.fixturenames):
        sparkray.shutdown()
    expected = request.node.get_closest_marker("trouble") is not None
    for started in _started[first:]:
        if started.cluster._stopped and not started.checked:
            started.check(expected)


@pytest.fixture(scope="module")
def shared() -> Iterator[sparkray.ClusterInfo]:
    """One cluster for all tests of a module that leave it as it was: 4 CPUs, 64 MiB."""
    info = sparkray.init(num_cpus=4, object_store_memory=STORE)
    yield info
    sparkray.shutdown()
    _started[-1].check(trouble_expected=False)


@pytest.fixture
def cluster() -> Iterator[sparkray.ClusterInfo]:
    """A cluster for one test: 4 CPUs, 64 MiB."""
    with sparkray.init(num_cpus=4, object_store_memory=STORE) as info:
        yield info


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Shows where the logs are, and the ends of those that are not empty."""
    outcome: Any = yield
    report = outcome.get_result()
    if not report.failed or not _started:
        return
    log_dir: Path = _started[-1].cluster.session.log_dir
    text = [f"log directory: {log_dir}"]
    for path in sorted(log_dir.rglob("*.log")):
        lines = path.read_text(errors="replace").splitlines()
        if lines:
            text += [f"--- {path.relative_to(log_dir)}", *lines[-12:]]
    report.sections.append(("logs of the cluster", "\n".join(text)))
