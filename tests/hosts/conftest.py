"""Four hosts, Spark standalone on them, and this program on the first: one Spark for all tests of this folder."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

import sparkray
from hosts.cluster import Hosts, RayOnHosts
from process.helpers import TROUBLE, wait_until
from sparkray.spark import RayContext, gateway
from support.network import Network
from support.standalone import Standalone

STORE = "256m"


@pytest.fixture(scope="package")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """The driver's host and three workers. This thread is on the driver's host until the last test has run."""
    sparkray.shutdown()
    gateway.end_gateway()
    with Network("driver", "one", "two", "three") as network:
        standalone = Standalone(network, tmp_path_factory.mktemp("standalone"))
        with standalone.driver.entered():
            spark = standalone.context()
            try:
                yield Hosts(network, standalone, spark)
            finally:
                network.heal()
                spark.stop()
                gateway.end_gateway()


@pytest.fixture
def ray(hosts: Hosts) -> Iterator[RayOnHosts]:
    """A cluster on all hosts for one test. Afterwards the network is whole, and no process of the cluster is left."""
    context = RayContext(hosts.spark, object_store_memory=STORE, extra_params={"resources": {"slot": 1}})
    context.init()
    before = RayOnHosts(hosts, context)
    try:
        yield before
    finally:
        hosts.network.heal()
        context.stop()
    wait_until(lambda: not hosts.rays(), 30, "no process of the cluster is left")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Shows what the logs of the hosts tell of trouble."""
    outcome: Any = yield
    report = outcome.get_result()
    found = getattr(item, "funcargs", {}).get("hosts")
    if not report.failed or found is None:
        return
    text = []
    for path in found.standalone.logs():
        lines = [match.group(0) for match in TROUBLE.finditer(_read(path))]
        if lines:
            text += [f"--- {path}", *lines[-12:]]
    report.sections.append(("trouble in the logs of the hosts", "\n".join(text)))


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
