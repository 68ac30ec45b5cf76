"""Cuts long enough for a verdict: it is one verdict for all, no actor lives twice, and the host comes back."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import os
import pathlib
import threading
import time
import uuid
from typing import Any

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
    make,
    on,
    run_holding,
    total,
)
from process.helpers import wait_until

# Longer than one attempt to connect.
SHORT_SECONDS = 7.0


@sparkray.remote(max_restarts=-1, num_cpus=0, resources={"slot": 1})
class Witness:
    """Writes down that it lives, several times a second, until its process ends."""

    def __init__(self, file: str, name: str) -> None:
        self._journal = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._words = f"{name} {uuid.uuid4().hex[:12]} {sparkray.util.get_node_ip_address()}"
        self._write()
        threading.Thread(target=self._go_on, daemon=True).start()

    def _write(self) -> None:
        # The clock is the same on all hosts: they are one machine.
        os.write(self._journal, f"{self._words} {time.monotonic()}\n".encode())

    def _go_on(self) -> None:
        while True:
            time.sleep(0.05)
            self._write()

    def where(self) -> str:
        return sparkray.util.get_node_ip_address()


def lives(file: pathlib.Path) -> dict[str, list[tuple[float, float, str]]]:
    """For each actor its instances in order: first and last sign of life, and where."""
    found: dict[str, dict[str, tuple[float, float, str]]] = {}
    for line in file.read_text().splitlines():
        name, instance, where, moment = line.split()
        first, last, _ = found.setdefault(name, {}).get(instance, (float(moment), float(moment), where))
        found[name][instance] = (min(first, float(moment)), max(last, float(moment)), where)
    return {name: sorted(instances.values()) for name, instances in found.items()}


def assert_never_two(file: pathlib.Path) -> dict[str, list[tuple[float, float, str]]]:
    """No actor's instance was alive when another one was."""
    found = lives(file)
    for name, instances in found.items():
        for before, after in zip(instances, instances[1:], strict=False):
            gap = after[0] - before[1]
            assert gap > 0, f"{name} on {before[2]} lived {-gap:.1f} s beside that on {after[2]}: {instances}"
    return found


@pytest.mark.parametrize("seconds", [20.0, 40.0])
def test_a_cut_host_is_dead_for_all_and_comes_back_as_a_new_node(
    ray: RayOnHosts, tmp_path: pathlib.Path, seconds: float
) -> None:
    """Between a worker and the head's host. The driver reaches both, and says nothing else than the head."""
    journal = tmp_path / "journal"
    witnesses = {name: Witness.remote(str(journal), name) for name in ("first", "second")}
    places = {name: sparkray.get(witness.where.remote(), timeout=60) for name, witness in witnesses.items()}
    moves = next(name for name, place in places.items() if place != ray.head.address)
    victim = ray.network.at(places[moves])
    former = ray.node(victim)["node_id"]
    there = Keeper.options(**on(victim)).remote()
    asking = Keeper.options(**on(ray.head)).remote()
    made = make.options(**on(victim)).remote(2.0)
    sparkray.get([there.add.remote(), asking.add.remote()], timeout=60)
    sparkray.wait([made], timeout=60, fetch_local=False)
    running = run_holding(victim, 300.0, max_retries=0)
    waiting = Waiting()
    with ray.network.cut_between(victim, ray.head):
        waiting.begin("a task that runs there", lambda: sparkray.get(running))
        waiting.begin("wait for it", lambda: sparkray.get(sparkray.wait([running], fetch_local=False)[0]))
        waiting.begin("a call of the driver's", lambda: sparkray.get(there.wait.remote(300.0)))
        waiting.begin("an actor's call", lambda: sparkray.get(asking.ask.remote(there)))
        waiting.begin("a pull", lambda: sparkray.get(total.options(max_retries=0, **on(ray.head)).remote(made)))
        # It may be tried again: it waits for the host to come back.
        started = [address.options(**on(victim)).remote()]
        waiting.assert_errors(ERROR_SECONDS)
        assert not ray.has(victim, former)
        assert former not in {node["NodeID"] for node in sparkray.nodes() if node["Alive"]}
        ray.context.check()
        # Nobody is there to begin with it.
        started.append(address.options(max_retries=0, **on(victim)).remote())
        new = Keeper.options(**on(victim)).remote()
        started.append(new.where.remote())
        # What needs neither goes on.
        assert sparkray.get(address.options(num_cpus=0, **_on_the_rest(ray, victim)).remote(), timeout=30)
        waiting.outlast(seconds)
    healed = time.monotonic()
    wait_until(lambda: ray.is_back(victim, former), BACK_SECONDS, f"{victim.name} is back as a new node")
    print(f"back {time.monotonic() - healed:.1f} s after a cut of {seconds:.0f} s")
    ray.context.check()
    assert sparkray.get(started, timeout=BACK_SECONDS) == [victim.address] * 3
    assert sparkray.get(address.options(**on(victim)).remote(), timeout=60) == victim.address
    again = make.options(**on(victim)).remote(3.0)
    assert sparkray.get(total.options(**on(ray.head)).remote(again), timeout=60) == 3.0 * LARGE
    assert sparkray.get(again, timeout=60).sum() == 3.0 * LARGE
    assert sparkray.get(asking.ask.remote(new), timeout=60) == 1
    with pytest.raises(sparkray.exceptions.RayError):
        sparkray.get(there.add.remote(), timeout=30)

    # Both witnesses live, one of them elsewhere, and never did two of one.
    where = {name: sparkray.get(witness.where.remote(), timeout=60) for name, witness in witnesses.items()}
    found = assert_never_two(journal)
    assert len(found[moves]) == 2 and where[moves] != places[moves], found
    (stays,) = set(witnesses) - {moves}
    assert len(found[stays]) == 1 and where[stays] == places[stays], found


def _on_the_rest(ray: RayOnHosts, victim: Any) -> dict[str, Any]:
    (host,) = ray.network.others(ray.driver, ray.head, victim)
    return {"resources": on(host)["resources"]}


def test_a_pull_that_begins_in_a_short_cut_waits_for_its_end(ray: RayOnHosts) -> None:
    """Between two workers that both reach the head, so nobody is given up: the connection is made when it can be."""
    made = make.options(**on(ray.one)).remote(2.0)
    sparkray.wait([made], timeout=60, fetch_local=False)
    waiting = Waiting()
    with ray.network.cut_between(ray.one, ray.other):
        waiting.begin("a pull", lambda: sparkray.get(total.options(**on(ray.other)).remote(made)))
        waiting.outlast(SHORT_SECONDS)
    assert waiting.values(60) == {"a pull": 2.0 * LARGE}
