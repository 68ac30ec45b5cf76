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
    assert len(set(sparkray.get([meeting.meet.remote() for _ in range(4)], timeout=60))) == 4


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
    sparkray.get([gauge.run.remote() for _ in range(10)], timeout=60)
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
                sparkray.get(reference, timeout=60)
        else:
            assert sparkray.get(reference, timeout=60) == n


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
    sparkray.get(actor.release.remote(), timeout=60)
    assert sparkray.get(waiting, timeout=60) == [20] * 20


def test_an_async_actor_with_exceptions_plain_methods_and_references():
    @sparkray.remote
    def number(n):
        time.sleep(0.05)
        return n

    actor = Async.remote()
    with pytest.raises(LookupError, match="async") as caught:
        sparkray.get(actor.fail.remote(), timeout=60)
    assert "Async.fail" in str(caught.value)
    assert sparkray.get(actor.plain.remote(), timeout=60) == "plain"
    assert sparkray.get(actor.use.remote([number.remote(n) for n in range(4)]), timeout=60) == 6


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
    assert max(sparkray.get([gauge.run.remote() for _ in range(12)], timeout=60)) == 3


def test_sys_exit_ends_an_async_actor():
    @sparkray.remote
    class Leaver:
        async def leave(self):
            raise SystemExit(0)

    leaver = Leaver.remote()
    with pytest.raises(exceptions.ActorDiedError):
        sparkray.get(leaver.leave.remote(), timeout=60)


def test_the_constructor_of_an_async_actor_runs_on_its_loop():
    @sparkray.remote
    class Ticker:
        def __init__(self):
            self.loop = asyncio.get_running_loop()
            self.ticks: asyncio.Queue[int] = asyncio.Queue()
            self.task = asyncio.create_task(self.fill())

        async def fill(self):
            for number in range(3):
                await self.ticks.put(number)
                await asyncio.sleep(0)

        async def take(self):
            assert asyncio.get_running_loop() is self.loop
            return await self.ticks.get()

    ticker = Ticker.remote()
    assert sparkray.get([ticker.take.remote() for _ in range(3)], timeout=60) == [0, 1, 2]


def test_a_constructor_may_be_async():
    @sparkray.remote
    class Slow:
        async def __init__(self, value, *, more=0):
            await asyncio.sleep(0.01)
            if value is None:
                raise ValueError("no value")
            self.value = value + more

        def get(self):
            return self.value

    assert sparkray.get(Slow.remote(1, more=2).get.remote(), timeout=60) == 3
    with pytest.raises(exceptions.ActorDiedError, match="no value") as caught:
        sparkray.get(Slow.remote(None).get.remote(), timeout=60)
    assert "base_events.py" not in str(caught.value)


@pytest.mark.parametrize("kind", ["async", "threads"])
def test_a_late_argument_does_not_hold_up_later_calls(kind):
    @sparkray.remote
    class AsyncSignal:
        def __init__(self):
            self.event = asyncio.Event()

        async def wait(self):
            await self.event.wait()
            return "signalled"

        async def signal(self):
            self.event.set()

        async def use(self, value):
            return value

    @sparkray.remote(max_concurrency=3)
    class ThreadSignal:
        def __init__(self):
            self.event = threading.Event()

        def wait(self):
            self.event.wait()
            return "signalled"

        def signal(self):
            self.event.set()

        def use(self, value):
            return value

    @sparkray.remote
    def through_a_task(handle):
        value = handle.wait.remote()
        used = handle.use.remote(value)
        handle.signal.remote()
        return sparkray.get(used, timeout=60)

    actor = (AsyncSignal if kind == "async" else ThreadSignal).options(name=f"signal-{kind}").remote()
    value = actor.wait.remote()
    used = [actor.use.remote(value) for _ in range(3)]
    actor.signal.remote()
    assert sparkray.get(used, timeout=60) == ["signalled"] * 3
    # Handles that were passed on, or looked up, know it too.
    again = (AsyncSignal if kind == "async" else ThreadSignal).remote()
    assert sparkray.get(through_a_task.remote(again), timeout=60) == "signalled"

    @sparkray.remote
    def by_name(name):
        handle = sparkray.get_actor(name)
        late = number_later.remote()
        used = handle.use.remote(late)
        first = handle.use.remote("first")
        ready, _ = sparkray.wait([used, first], timeout=60)
        return ready == [first] and sparkray.get(used, timeout=60) == 5

    @sparkray.remote
    def number_later():
        time.sleep(0.5)
        return 5

    assert sparkray.get(by_name.remote(f"signal-{kind}"), timeout=60)


def test_an_actor_with_one_call_at_a_time_may_run_them_out_of_order_too():
    @sparkray.remote
    class Notes:
        def __init__(self):
            self.notes = []

        def note(self, value):
            self.notes.append(value)
            return list(self.notes)

    @sparkray.remote
    class Gate:
        async def wait(self):
            await asyncio.Event().wait()

    gate = Gate.remote()
    notes = Notes.options(allow_out_of_order_execution=True).remote()
    held = notes.note.remote(gate.wait.remote())
    assert sparkray.get(notes.note.remote("second"), timeout=60) == ["second"]
    sparkray.kill(gate)
    with pytest.raises(exceptions.ActorDiedError):
        sparkray.get(held, timeout=60)
    with pytest.raises(ValueError, match="several calls"):
        Async.options(allow_out_of_order_execution=False).remote()


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration])
def test_awaiting_a_task_that_stopped_an_iteration_raises(kind):
    @sparkray.remote
    def stop():
        raise kind("over")

    async def program():
        await stop.remote()

    with pytest.raises(RuntimeError, match=kind.__name__) as caught:
        asyncio.run(asyncio.wait_for(program(), 30))
    assert isinstance(caught.value.__cause__, kind)


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
