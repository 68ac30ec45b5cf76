"""Pauses that are no deaths: of the head, and of the network between two hosts that both reach the head."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import os
import pathlib
import signal
import time
from typing import Any

import numpy as np

import sparkray
from hosts.cluster import ERROR_SECONDS, LARGE, Keeper, RayOnHosts, Waiting, address, hold, make, on, total
from process.helpers import wait_until

HEAD_STOPS_SECONDS = 20.0
NETWORK_PAUSES_SECONDS = 30.0
OWNER_PAUSES_SECONDS = 20.0


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


def test_a_pause_between_two_workers_frees_nothing_that_is_held(ray: RayOnHosts) -> None:
    """Both reach the head and the driver all the time, so nobody is dead, however many connections broke."""
    one, other = Keeper.options(**on(ray.one)).remote(), Keeper.options(**on(ray.other)).remote()
    one_more, other_idle = Keeper.options(**on(ray.one)).remote(), Keeper.options(**on(ray.other)).remote()
    # Owned by the driver, made on either side, borrowed on both.
    made = [make.options(**on(host)).remote(2.0) for host in (ray.one, ray.other)]
    # Owned by the actor on either side, borrowed by the one on the other side; the driver forgets them.
    of_one = sparkray.get(one.own.remote(3.0), timeout=60)
    of_other = sparkray.get(other.own.remote(4.0), timeout=60)
    kept = [one.keep.remote([*made, *of_other]), other.keep.remote([*made, *of_one])]
    assert sparkray.get(kept, timeout=60) == [3, 3]
    del of_one, of_other
    expected = [[2.0 * LARGE, 2.0 * LARGE, 4.0 * LARGE], [2.0 * LARGE, 2.0 * LARGE, 3.0 * LARGE]]
    nodes = {node["node_id"] for node in ray.context.nodes()}
    waiting = Waiting()
    with ray.network.cut_between(ray.one, ray.other):
        waiting.begin("pulls from the one side", lambda: sparkray.get(one.sums.remote()))
        waiting.begin("pulls from the other side", lambda: sparkray.get(other.sums.remote()))
        waiting.begin("a call across", lambda: sparkray.get(one_more.ask.remote(other_idle)))
        waiting.outlast(NETWORK_PAUSES_SECONDS)
    found = waiting.end(90)
    assert found["a call across"].value == 1
    # Nobody had the objects of the other side before the pause. Who asks for them hears in time that they are out of
    # reach, which is not lost.
    for side in ("the one side", "the other side"):
        pulls = found[f"pulls from {side}"]
        assert isinstance(pulls.error, sparkray.exceptions.ObjectFetchTimedOutError), pulls
        assert pulls.seconds < ERROR_SECONDS
    assert sparkray.get([one.sums.remote(), other.sums.remote()], timeout=60) == expected
    assert {node["node_id"] for node in ray.context.nodes()} == nodes
    assert {node["state"] for node in ray.context.nodes()} == {"up"}
    # What is let go afterwards is freed on both sides.
    wait_until(lambda: _stored(ray) >= 4 * LARGE * 8, 60, "the stores report what they have")
    sparkray.get([one.forget.remote(), other.forget.remote()], timeout=60)
    del made
    wait_until(lambda: _stored(ray) < LARGE * 8, 60, "everything is freed")


@sparkray.remote(max_retries=0)
def _put_and_hold(path: str, seconds: float) -> list[Any]:
    """Writes down that it runs, and returns a reference to an object of this worker much later."""
    with open(path, "a") as file:
        file.write("run\n")
    made = sparkray.put(np.full(LARGE, 6.0))
    time.sleep(seconds)
    return [made]


@sparkray.remote(num_cpus=0)
class _Caller:
    """Owns tasks on another host."""

    def begin(self, path: str, seconds: float, options: dict[str, Any]) -> None:
        self.running = _put_and_hold.options(**options).remote(path, seconds)

    def end(self) -> float:
        """The sum of the array that the task refers to."""
        return float(sparkray.get(sparkray.get(self.running)[0]).sum())

    def ask(self, options: dict[str, Any]) -> str:
        found: str = sparkray.get(address.options(**options).remote())
        return found


def test_a_pause_between_an_owner_and_its_worker_costs_no_attempt(ray: RayOnHosts, tmp_path: pathlib.Path) -> None:
    """The head hears both, so the raylet keeps the workers for their owner, with what they run and own.

    The owner is no driver: a host that is cut off from the driver's manager ends its node.
    """
    record = tmp_path / "runs"
    slot = {"num_cpus": 0, "resources": {f"node:{ray.other.address}": 0.001, "slot": 1}}
    nodes = {node["node_id"] for node in ray.context.nodes()}
    caller, asking = (_Caller.options(**on(ray.one)).remote() for _ in range(2))
    sparkray.get(caller.begin.remote(str(record), OWNER_PAUSES_SECONDS + 10, slot), timeout=60)
    wait_until(record.exists, 60, "the task runs")
    waiting = Waiting()
    with ray.network.cut_between(ray.one, ray.other):
        waiting.begin("the task", lambda: sparkray.get(caller.end.remote()))
        # That raylet is asked for something in the middle of it.
        waiting.begin("another task there", lambda: sparkray.get(asking.ask.remote(on(ray.other))))
        waiting.outlast(OWNER_PAUSES_SECONDS)
    found = waiting.end(OWNER_PAUSES_SECONDS + 60)
    assert found["another task there"].value == ray.other.address, found["another task there"]
    assert found["the task"].value == 6.0 * LARGE, found["the task"]
    assert record.read_text() == "run\n"
    # The lease has come back to its raylet: there is one slot on each host.
    assert sparkray.get(address.options(**slot).remote(), timeout=60) == ray.other.address
    assert {node["node_id"] for node in ray.context.nodes()} == nodes
    assert {node["state"] for node in ray.context.nodes()} == {"up"}


def _stored(ray: RayOnHosts) -> int:
    """Bytes in use in the stores of the workers' hosts, as they report them."""
    workers = {node["node_id"] for node in ray.context.nodes()}
    return sum(node["ObjectStore"]["used_bytes"] for node in sparkray.nodes() if node["NodeID"] in workers)
