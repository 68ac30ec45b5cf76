"""One mini cluster for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.minicluster import MiniCluster


@pytest.fixture(scope="session")
def mini_cluster() -> Iterator[MiniCluster]:
    """A real YARN with two NodeManagers and a real HDFS."""
    with MiniCluster() as cluster:
        yield cluster
