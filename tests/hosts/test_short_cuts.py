"""What several hosts do for each other when nothing is wrong, and a cut that is too short to be a verdict."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import time

import numpy as np

import sparkray
from hosts.cluster import LARGE, Keeper, RayOnHosts, Waiting, address, hold, make, on, total

SHORT_SECONDS = 5.0
MEGABYTES = 100


def test_tasks_actors_and_objects_go_between_hosts(ray: RayOnHosts) -> None:
    workers = [ray.head, ray.one, ray.other]
    for host in workers:
        assert sparkray.get(address.options(**on(host)).remote(), timeout=60) == host.address
    # Every host reads what every host made.
    made = [make.options(**on(host)).remote(float(number)) for number, host in enumerate(workers)]
    for number, reference in enumerate(made):
        sums = [total.options(**on(host)).remote(reference) for host in workers]
        assert sparkray.get(sums, timeout=60) == [float(number) * LARGE] * len(workers)
        assert sparkray.get(reference, timeout=60).sum() == float(number) * LARGE
    keepers = [Keeper.options(**on(host)).remote() for host in workers]
    assert sparkray.get([k.where.remote() for k in keepers], timeout=60) == [host.address for host in workers]
    for asking, asked in ((0, 1), (1, 2), (2, 0)):
        assert sparkray.get(keepers[asking].ask.remote(keepers[asked]), timeout=60) == 1


def test_a_large_object_is_pulled_whole(ray: RayOnHosts) -> None:
    """The rate is printed, and only a rate that no network would explain fails."""
    count = MEGABYTES * 125_000
    expected = np.arange(count, dtype=np.float64)
    reference = sparkray.remote(np.arange).options(**on(ray.one)).remote(count, dtype=np.float64)
    sparkray.wait([reference], timeout=60, fetch_local=False)
    started = time.monotonic()
    array = sparkray.get(reference, timeout=60)
    rate = MEGABYTES / (time.monotonic() - started)
    assert np.array_equal(array, expected)
    print(f"{rate:.0f} MB/s from host to host")
    assert rate > 10


def test_a_cut_of_five_seconds_loses_nothing(ray: RayOnHosts) -> None:
    """Between a worker and the head's host, both of which the driver reaches. Nothing dies of it."""
    there, here = Keeper.options(**on(ray.one)).remote(), Keeper.options(**on(ray.head)).remote()
    asking_there, asking_here = Keeper.options(**on(ray.one)).remote(), Keeper.options(**on(ray.head)).remote()
    assert sparkray.get([k.add.remote() for k in (there, here, asking_there, asking_here)], timeout=60) == [1, 1, 1, 1]
    nodes = {node["node_id"] for node in ray.context.nodes()}
    waiting = Waiting()
    with ray.network.cut_between(ray.one, ray.head):
        running = hold.options(**on(ray.one)).remote(SHORT_SECONDS)
        waiting.begin("a task that runs there", lambda: sparkray.get(running))
        waiting.begin("a call from there", lambda: sparkray.get(asking_there.ask.remote(here)))
        waiting.begin("a call to there", lambda: sparkray.get(asking_here.ask.remote(there)))
        waiting.begin("a call of the driver's", lambda: sparkray.get(there.where.remote()))
        waiting.outlast(SHORT_SECONDS)
    assert waiting.values(60) == {
        "a task that runs there": ray.one.address,
        "a call from there": 2,
        "a call to there": 2,
        "a call of the driver's": ray.one.address,
    }
    assert {node["node_id"] for node in ray.context.nodes()} == nodes
    assert {node["state"] for node in ray.context.nodes()} == {"up"}
    assert nodes <= {node["NodeID"] for node in sparkray.nodes() if node["Alive"]}
    ray.context.check()
    assert sparkray.get([there.add.remote(), here.add.remote()], timeout=60) == [3, 3]
