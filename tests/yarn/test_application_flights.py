"""The demo's program on a real YARN, as a user runs it."""

from __future__ import annotations

import re

import pytest

from support.flights_program import run_flights, stored_bytes
from support.minicluster import MiniCluster


@pytest.mark.slow
def test_the_flights_run_on_yarn_in_two_containers_and_leave_nothing(mini_cluster: MiniCluster) -> None:
    printed = run_flights("--master", "yarn", "--hadoop-conf", mini_cluster.conf_dir)
    containers = re.findall(r"executor \d+ at \S+:\d+ in (container_\w+):", printed)
    assert len(containers) == len(set(containers)) == 2
    assert f"{mini_cluster.hdfs_uri}/user/" in printed
    blocks, all_objects = stored_bytes(printed)
    # The driver's node has none; each executor has about half.
    assert len(blocks) == 3 and min(blocks) == 0.0
    executors = sorted(blocks)[1:]
    assert min(executors) > 0.4 * sum(executors) > 10
    assert sum(all_objects) > sum(blocks)
