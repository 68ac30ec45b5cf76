"""Actors that run several calls at a time: on threads, or as coroutines."""

# mypy: disable-error-code="attr-defined,union-attr,arg-type"
from __future__ import annotations

import asyncio
import threading
import time

import pytest

import sparkray
from sparkray import exceptions

pytestmark = pytest.mark.usefixtures("shared")


def test_max_concurrency_runs_calls_on_threads():
    @sparkray.remote(max_concurrency=4)
    class Meeting:
        def __init__(self):
            self.barrier = threading.Barrier(4)

        def meet(self):
            self.barrier.wait(20)
            return threading.get_ident()

    meeting = Meeting.remote()
    assert len(set(sparkray.get([meeting.meet.remote() for _ in range(4)], timeout=30))) == 4


def test_concurrency_is_bounded():
    @sparkray.remote(max_concurrency=2)
    class Gauge:
        def __init__(self):
            self.lock = threading.Lock()
            self.now = self.most = 0

        def run(self):
            with self.lock:
                self.now += 1
                self.most = max(self.most, self.now)
            time.sleep(0.02)
            with self.lock:
                self.now -= 1

        def peak(self):
            return self.most

    gauge = Gauge.remote()
    sparkray.get([gauge.run.remote() for _ in range(10)], timeout=30)
    assert sparkray.get(gauge.peak.remote()) == 2


def test_threads_of_an_actor_fail_one_by_one():
    @sparkray.remote(max_concurrency=3)
    class Mixed:
        def run(self, n):
            if n % 2:
                raise ValueError(n)
            return n

    mixed = Mixed.remote()
    references = [mixed.run.remote(n) for n in range(6)]
    for n, reference in enumerate(references):
        if n % 2:
            with pytest.raises(ValueError, match=str(n)):
                sparkray.get(reference, timeout=30)
        else:
            assert sparkray.get(reference, timeout=30) == n


@sparkray.remote
class Async:
    """An async actor."""

    def __init__(self):
        self.event = None
        self.waiting = 0

    async def wait(self):
        self.event = self.event or asyncio.Event()
        self.waiting += 1
        await self.event.wait()
        return self.waiting

    async def release(self):
        while not self.waiting >= 20:
            await asyncio.sleep(0.01)
        self.event.set()

    async def fail(self):
        await asyncio.sleep(0)
        raise LookupError("async")

    async def use(self, references):
        return await references[0] + sum(await asyncio.gather(*references[1:]))

    def plain(self):
        return "plain"


def test_an_async_actor_runs_many_calls_at_a_time():
    actor = Async.remote()
    waiting = [actor.wait.remote() for _ in range(20)]
    sparkray.get(actor.release.remote(), timeout=30)
    assert sparkray.get(waiting, timeout=30) == [20] * 20


def test_an_async_actor_with_exceptions_plain_methods_and_references():
    @sparkray.remote
    def number(n):
        time.sleep(0.05)
        return n

    actor = Async.remote()
    with pytest.raises(LookupError, match="async") as caught:
        sparkray.get(actor.fail.remote(), timeout=30)
    assert "Async.fail" in str(caught.value)
    assert sparkray.get(actor.plain.remote(), timeout=30) == "plain"
    assert sparkray.get(actor.use.remote([number.remote(n) for n in range(4)]), timeout=30) == 6


def test_awaiting_a_reference_in_the_driver():
    @sparkray.remote
    def number(n):
        return n

    async def program():
        one = await number.remote(1)
        rest = await asyncio.gather(*[number.remote(n) for n in range(10)])
        return one, rest

    assert asyncio.run(program()) == (1, list(range(10)))


def test_max_concurrency_of_an_async_actor():
    @sparkray.remote(max_concurrency=3)
    class Gauge:
        def __init__(self):
            self.now = self.most = 0

        async def run(self):
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.02)
            self.now -= 1
            return self.most

    gauge = Gauge.remote()
    assert max(sparkray.get([gauge.run.remote() for _ in range(12)], timeout=30)) == 3


def test_sys_exit_ends_an_async_actor():
    @sparkray.remote
    class Leaver:
        async def leave(self):
            raise SystemExit(0)

    leaver = Leaver.remote()
    with pytest.raises(exceptions.ActorDiedError):
        sparkray.get(leaver.leave.remote(), timeout=30)


def test_threads_of_a_task_may_use_the_api():
    @sparkray.remote
    def number(n):
        return n

    @sparkray.remote
    class Threads:
        def run(self):
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(4) as pool:
                return sum(pool.map(lambda n: sparkray.get(number.remote(n)), range(40)))

    assert sparkray.get(Threads.remote().run.remote(), timeout=60) == 780
