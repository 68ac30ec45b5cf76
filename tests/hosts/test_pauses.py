"""Pauses that are no deaths."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import os
import signal

import numpy as np

import sparkray
from hosts.cluster import LARGE, Keeper, RayOnHosts, Waiting, address, hold, make, on, total

HEAD_STOPS_SECONDS = 20.0


def test_a_head_that_stands_still_for_twenty_seconds_loses_nothing(ray: RayOnHosts) -> None:
    """As on a host that swaps. Calls, tasks and objects do not even notice; what needs the head waits for it."""
    keepers = [Keeper.options(**on(host)).remote() for host in (ray.head, ray.one, ray.other)]
    assert sparkray.get([keeper.add.remote() for keeper in keepers], timeout=60) == [1, 1, 1]
    # The head is asked once where an actor is.
    assert sparkray.get(keepers[1].ask.remote(keepers[2]), timeout=60) == 2
    made = [make.options(**on(host)).remote(2.0) for host in (ray.head, ray.one)]
    kept = sparkray.put(np.full(LARGE, 5.0))
    sparkray.wait(made, num_returns=2, timeout=60, fetch_local=False)
    nodes = {node["node_id"] for node in ray.context.nodes()}
    os.kill(ray.head_pid, signal.SIGSTOP)
    try:
        waiting = Waiting()
        running = hold.options(**on(ray.one)).remote(HEAD_STOPS_SECONDS + 2)
        waiting.begin("a task that runs all the time", lambda: sparkray.get(running))
        waiting.begin("a new actor", lambda: sparkray.get(Keeper.options(**on(ray.one)).remote().add.remote()))
        waiting.begin("a question to the head", lambda: sparkray.cluster_resources()["CPU"])
        assert sparkray.get([keeper.add.remote() for keeper in keepers], timeout=10) == [2, 2, 3]
        assert sparkray.get(keepers[1].ask.remote(keepers[2]), timeout=10) == 4
        waiting.outlast(HEAD_STOPS_SECONDS)
        assert sparkray.get([keeper.add.remote() for keeper in keepers], timeout=10) == [3, 3, 5]
    finally:
        os.kill(ray.head_pid, signal.SIGCONT)
    assert waiting.values(60) == {
        "a task that runs all the time": ray.one.address,
        "a new actor": 1,
        "a question to the head": 6.0,
    }
    # No verdict came later either: raylets that wake up beside a head that does are the same nodes.
    ray.context.check()
    assert {node["node_id"] for node in ray.context.nodes()} == nodes
    assert {node["state"] for node in ray.context.nodes()} == {"up"}
    assert nodes <= {node["NodeID"] for node in sparkray.nodes() if node["Alive"]}
    assert sparkray.get([keeper.add.remote() for keeper in keepers], timeout=30) == [4, 4, 6]
    for reference in made:
        assert sparkray.get(total.options(**on(ray.other)).remote(reference), timeout=30) == 2.0 * LARGE
    assert sparkray.get(kept, timeout=30).sum() == 5.0 * LARGE
    everywhere = [address.options(**on(host)).remote() for host in (ray.head, ray.one, ray.other)]
    assert sparkray.get(everywhere, timeout=60) == [ray.head.address, ray.one.address, ray.other.address]
