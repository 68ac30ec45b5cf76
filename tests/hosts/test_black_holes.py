"""Hosts that vanish: whatever waits for them ends with an error in time, and they come back when the network does."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import time

import pytest

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
    run_holding,
    total,
)
from process.helpers import wait_until


def works_again(ray: RayOnHosts) -> bool:
    """Whether a new cluster starts on the same Spark, and has all hosts."""
    try:
        ray.context.init()
    except sparkray.spark.RayContextError as error:
        print(f"not yet: {error}")
        ray.context.stop()
        return False
    found = sparkray.get([address.options(**on(h)).remote() for h in (ray.head, ray.one, ray.other)], timeout=60)
    return found == [ray.head.address, ray.one.address, ray.other.address]


def test_everything_ends_with_an_error_when_the_heads_host_vanishes(ray: RayOnHosts) -> None:
    on_head, on_one, on_other = (Keeper.options(**on(host)).remote() for host in (ray.head, ray.one, ray.other))
    busy = Keeper.options(**on(ray.head)).remote()
    made = make.options(**on(ray.head)).remote(2.0)
    sparkray.get([keeper.add.remote() for keeper in (on_head, on_one, on_other, busy)], timeout=60)
    sparkray.wait([made], timeout=60, fetch_local=False)
    running = run_holding(ray.head, 300.0)
    elsewhere = run_holding(ray.one, 300.0)
    waiting = Waiting()
    with ray.network.black_hole(ray.head):
        waiting.begin("a task that runs there", lambda: sparkray.get(running))
        waiting.begin("a task that runs elsewhere", lambda: sparkray.get(elsewhere))
        waiting.begin("wait", lambda: sparkray.get(sparkray.wait([running], fetch_local=False)[0]))
        waiting.begin("a call that runs there", lambda: sparkray.get(busy.wait.remote(300.0)))
        waiting.begin("a call", lambda: sparkray.get(on_head.add.remote()))
        waiting.begin("a call of an actor's", lambda: sparkray.get(on_one.ask.remote(on_head)))
        waiting.begin("a pull", lambda: sparkray.get(made))
        waiting.begin("a pull of an actor's", lambda: sparkray.get(on_other.fetch.remote([made])))
        waiting.begin("a pull of a task's", lambda: sparkray.get(total.options(**on(ray.one)).remote(made)))
        waiting.begin("a task pinned there", lambda: sparkray.get(address.options(**on(ray.head)).remote()))
        waiting.begin("a new task", lambda: sparkray.get(hold.remote(300.0)))
        waiting.begin("a new actor", lambda: sparkray.get(Keeper.remote().wait.remote(300.0)))
        waiting.begin("a name", lambda: sparkray.get_actor("nobody"))
        waiting.begin("a question to the head", lambda: sparkray.cluster_resources())
        waiting.assert_errors(ERROR_SECONDS)
        assert ray.is_lost()
        started = time.monotonic()
        with pytest.raises(sparkray.exceptions.RayError):
            sparkray.get(on_one.add.remote(), timeout=30)
        assert time.monotonic() - started < ERROR_SECONDS
        ray.context.stop()
    wait_until(lambda: works_again(ray), BACK_SECONDS, "a new cluster starts")


def test_a_workers_host_that_vanishes_is_dead_and_comes_back(ray: RayOnHosts) -> None:
    victim = ray.one
    former = ray.node(victim)["node_id"]
    there, busy = Keeper.options(**on(victim)).remote(), Keeper.options(**on(victim)).remote()
    asking = Keeper.options(**on(ray.other)).remote()
    fetching = Keeper.options(**on(ray.head)).remote()
    made = make.options(**on(victim)).remote(2.0)
    sparkray.get([keeper.add.remote() for keeper in (there, busy, asking, fetching)], timeout=60)
    sparkray.wait([made], timeout=60, fetch_local=False)
    running = run_holding(victim, 300.0, max_retries=0)
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


def test_a_driver_whose_host_is_cut_off_gets_errors_and_can_start_anew(ray: RayOnHosts) -> None:
    there = Keeper.options(**on(ray.one)).remote()
    made = make.options(**on(ray.one)).remote(2.0)
    sparkray.get(there.add.remote(), timeout=60)
    sparkray.wait([made], timeout=60, fetch_local=False)
    running = run_holding(ray.one, 300.0, max_retries=0)
    waiting = Waiting()
    with ray.network.black_hole(ray.driver):
        waiting.begin("a task that runs", lambda: sparkray.get(running))
        waiting.begin("wait", lambda: sparkray.get(sparkray.wait([running], fetch_local=False)[0]))
        waiting.begin("a call", lambda: sparkray.get(there.wait.remote(300.0)))
        waiting.begin("a pull", lambda: sparkray.get(made))
        waiting.begin("a new task", lambda: sparkray.get(hold.remote(300.0)))
        waiting.begin("a new actor", lambda: sparkray.get(Keeper.remote().wait.remote(300.0)))
        waiting.begin("a question to the head", lambda: sparkray.cluster_resources())
        waiting.assert_errors(ERROR_SECONDS)
    ray.context.stop()
    wait_until(lambda: works_again(ray), BACK_SECONDS, "a new cluster starts")
