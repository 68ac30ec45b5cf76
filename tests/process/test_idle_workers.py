"""Workers that nobody needs any more end; those that others need stay."""

from __future__ import annotations

import os

import pytest

import sparkray
from process.helpers import alive, wait_until


@sparkray.remote(num_cpus=1)
def chain(depth, keeping):
    """Pids of so many workers, each of which waits for the next; every second one keeps an object, when it is to."""
    kept = [sparkray.put(os.getpid())] if keeping and depth % 2 else []
    further = sparkray.get(chain.remote(depth - 1, keeping)) if depth > 1 else []
    return [(os.getpid(), kept), *further]


class _Named:
    def pid(self):
        return os.getpid()


Named = sparkray.remote(num_cpus=0)(_Named)


@sparkray.remote(num_cpus=1)
def creator(depth):
    """As `chain`; the last one creates an actor that is known by its name, and keeps no handle of it."""
    if depth > 1:
        return [os.getpid(), *sparkray.get(creator.remote(depth - 1))]
    named = Named.options(name="named").remote()
    return [os.getpid(), sparkray.get(named.pid.remote()), named]


@pytest.fixture
def cluster():
    sparkray.init(num_cpus=1)
    yield
    sparkray.shutdown()


def living(pids):
    return [pid for pid in pids if alive(pid)]


def test_workers_above_the_cores_end_and_later_calls_get_others(cluster):
    pids = {pid for pid, _ in sparkray.get(chain.remote(6, False))}
    assert len(pids) == 6
    wait_until(lambda: len(living(pids)) == 1, what="one worker is left for the node's one core")
    again = {pid for pid, _ in sparkray.get(chain.remote(6, False))}
    assert len(again) == 6


def test_workers_whose_objects_are_referred_to_stay(cluster):
    found = sparkray.get(chain.remote(6, True))
    keepers = {pid for pid, kept in found if kept}
    others = {pid for pid, kept in found if not kept}
    assert (len(keepers), len(others)) == (3, 3)
    wait_until(lambda: not living(others), what="those that own nothing have ended")
    assert set(living(keepers)) == keepers
    assert {sparkray.get(kept[0]) for _, kept in found if kept} == keepers
    del found
    wait_until(lambda: len(living(keepers)) == 1, what="nothing of theirs is referred to any more")


def test_a_worker_whose_actor_lives_stays(cluster):
    *pids, last, actor, handle = sparkray.get(creator.remote(4))
    wait_until(lambda: not living(pids), what="those that created nothing have ended")
    assert living([last]) == [last]
    assert sparkray.get(handle.pid.remote()) == actor
