"""Hosts that vanish: whatever waits for them ends with an error in time, and they come back when the network does."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import time

import sparkray
from hosts.cluster import (
    BACK_SECONDS,
    ERROR_SECONDS,
    LARGE,
    Keeper,
    RayOnHosts,
    Waiting,
    address,
    hold,
    make,
    on,
)
from process.helpers import wait_until


def test_a_workers_host_that_vanishes_is_dead_and_comes_back(ray: RayOnHosts) -> None:
    victim = ray.one
    former = ray.node(victim)["node_id"]
    there, busy = Keeper.options(**on(victim)).remote(), Keeper.options(**on(victim)).remote()
    asking = Keeper.options(**on(ray.other)).remote()
    fetching = Keeper.options(**on(ray.head)).remote()
    made = make.options(**on(victim)).remote(2.0)
    sparkray.get([keeper.add.remote() for keeper in (there, busy, asking, fetching)], timeout=60)
    sparkray.wait([made], timeout=60, fetch_local=False)
    running = hold.options(max_retries=0, **on(victim)).remote(300.0)
    (owned,) = sparkray.get(there.own.remote(3.0), timeout=60)
    waiting = Waiting()
    with ray.network.black_hole(victim):
        waiting.begin("a task that runs there", lambda: sparkray.get(running))
        waiting.begin("wait", lambda: sparkray.get(sparkray.wait([running], fetch_local=False)[0]))
        waiting.begin("a call that runs there", lambda: sparkray.get(busy.wait.remote(300.0)))
        waiting.begin("a call", lambda: sparkray.get(there.add.remote()))
        waiting.begin("a call of an actor's", lambda: sparkray.get(asking.ask.remote(there)))
        waiting.begin("a pull", lambda: sparkray.get(made))
        waiting.begin("a pull of an actor's", lambda: sparkray.get(fetching.fetch.remote([made])))
        waiting.begin("an object whose owner is there", lambda: sparkray.get(owned))
        pinned = address.options(**on(victim)).remote()
        waiting.assert_errors(ERROR_SECONDS)
        assert not ray.has(victim, former)
        assert former not in {node["NodeID"] for node in sparkray.nodes() if node["Alive"]}
        # The others go on.
        ray.context.check()
        assert sparkray.get([address.remote() for _ in range(20)], timeout=30)
        assert sparkray.get([fetching.add.remote()], timeout=30) == [2]
    healed = time.monotonic()
    wait_until(lambda: ray.is_back(victim, former), BACK_SECONDS, f"{victim.name} is back as a new node")
    print(f"back {time.monotonic() - healed:.1f} s after the heal")
    assert sparkray.get(pinned, timeout=60) == victim.address
    again = make.options(**on(victim)).remote(3.0)
    assert sparkray.get(again, timeout=60).sum() == 3.0 * LARGE
