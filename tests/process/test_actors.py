"""Actors: state, order, names, lifetime, restarts, concurrency."""

# mypy: disable-error-code="attr-defined,union-attr,arg-type"
from __future__ import annotations

import asyncio
import gc
import os
import threading
import time

import pytest

import sparkray
from process.helpers import alive, wait_until
from sparkray import exceptions
from sparkray.actor import exit_actor

pytestmark = pytest.mark.usefixtures("shared")


@sparkray.remote
class Counter:
    """Counts."""

    def __init__(self, start=0):
        self.value = start

    def add(self, amount=1):
        self.value += amount
        return self.value

    def pid(self):
        return os.getpid()

    def fail(self, kind, text):
        raise kind(text)

    def die(self):
        os.kill(os.getpid(), 9)

    def sleep(self, seconds):
        time.sleep(seconds)

    @sparkray.method(num_returns=2)
    def pair(self):
        return self.value, "second"


@sparkray.remote
def use_handle(counter, amount):
    return sparkray.get(counter.add.remote(amount))


def test_an_actor_keeps_its_state():
    counter = Counter.remote(10)
    assert sparkray.get(counter.add.remote()) == 11
    assert sparkray.get(counter.add.remote(amount=5)) == 16


def test_calls_run_in_the_order_in_which_they_are_made():
    counter = Counter.remote()
    assert sparkray.get([counter.add.remote() for _ in range(2000)]) == list(range(1, 2001))


def test_order_holds_when_an_argument_is_late():
    @sparkray.remote
    def late():
        time.sleep(0.2)
        return 100

    counter = Counter.remote()
    first, second = counter.add.remote(late.remote()), counter.add.remote(1)
    assert sparkray.get([first, second]) == [100, 101]


def test_a_method_with_several_returns():
    first, second = Counter.remote(3).pair.remote()
    assert sparkray.get([first, second]) == [3, "second"]
    both = Counter.remote(4).pair.options(num_returns=1).remote()
    assert sparkray.get(both) == (4, "second")


def test_handles_can_be_passed_to_tasks_and_actors():
    counter = Counter.remote()
    assert sparkray.get(use_handle.remote(counter, 5)) == 5
    assert sparkray.get(use_handle.remote(counter, 5)) == 10
    assert sparkray.get(counter.add.remote(0)) == 10


def test_actors_make_actors():
    @sparkray.remote
    class Parent:
        def child(self):
            self.counter = Counter.remote(7)
            return self.counter

    parent = Parent.remote()
    child = sparkray.get(parent.child.remote())
    assert sparkray.get(child.add.remote()) == 8


def test_an_exception_of_a_method_leaves_the_actor_alive():
    counter = Counter.remote()
    with pytest.raises(KeyError, match="gone") as caught:
        sparkray.get(counter.fail.remote(KeyError, "gone"))
    assert "ray::Counter.fail()" in str(caught.value)
    assert sparkray.get(counter.add.remote()) == 1


def test_an_exception_of_the_constructor_is_raised_by_every_call():
    @sparkray.remote
    class Broken:
        def __init__(self):
            raise RuntimeError("cannot begin")

        def method(self):
            return 1

    broken = Broken.remote()
    for _ in range(2):
        with pytest.raises(exceptions.ActorDiedError, match="cannot begin") as caught:
            sparkray.get(broken.method.remote(), timeout=30)
    assert "Broken.__init__" in str(caught.value)
    assert caught.value.actor_id == broken._actor_id.hex()


def test_a_named_actor_is_found_in_its_namespace_only():
    counter = Counter.options(name="named", namespace="mine").remote(1)
    sparkray.get(counter.add.remote())
    again = sparkray.get_actor("named", namespace="mine")
    assert again == counter
    assert sparkray.get(again.add.remote()) == 3
    with pytest.raises(ValueError, match="named"):
        sparkray.get_actor("named")

    @sparkray.remote
    def find():
        return sparkray.get(sparkray.get_actor("named", namespace="mine").add.remote())

    assert sparkray.get(find.remote()) == 4


def test_tasks_find_actors_in_the_drivers_namespace():
    counter = Counter.options(name="by-name").remote(1)
    sparkray.get(counter.add.remote())

    @sparkray.remote
    def find():
        return sparkray.get(sparkray.get_actor("by-name").add.remote())

    assert sparkray.get(find.remote()) == 3
    assert "by-name" in sparkray.util.list_named_actors()


def test_a_name_that_is_taken_is_refused_and_free_again_after_the_death():
    counter = Counter.options(name="unique").remote()
    sparkray.get(counter.add.remote())
    with pytest.raises(ValueError, match="unique"):
        Counter.options(name="unique").remote()
    sparkray.kill(counter)

    def free():
        try:
            sparkray.get_actor("unique")
        except ValueError:
            return True
        return False

    wait_until(free, 10, "the name is free")
    assert sparkray.get(Counter.options(name="unique").remote(5).add.remote()) == 6


def test_get_if_exists():
    first = Counter.options(name="maybe", get_if_exists=True).remote(1)
    assert sparkray.get(first.add.remote()) == 2
    second = Counter.options(name="maybe", get_if_exists=True).remote(100)
    assert second == first
    assert sparkray.get(second.add.remote()) == 3


def test_an_unknown_name_is_an_error():
    with pytest.raises(ValueError, match="nobody"):
        sparkray.get_actor("nobody")
    with pytest.raises(ValueError, match="empty"):
        sparkray.get_actor("")


def test_an_actor_ends_when_its_last_handle_goes():
    counter = Counter.remote()
    pid = sparkray.get(counter.pid.remote())
    del counter
    gc.collect()
    wait_until(lambda: not alive(pid), 10, "the actor's worker ended")


def test_calls_made_before_the_handle_goes_still_run():
    reference = Counter.remote(1).add.remote()
    gc.collect()
    assert sparkray.get(reference, timeout=30) == 2


def test_kill_ends_the_worker_and_calls_fail():
    counter = Counter.remote()
    pid = sparkray.get(counter.pid.remote())
    pending = counter.sleep.remote(60)
    sparkray.kill(counter)
    with pytest.raises(exceptions.RayActorError):
        sparkray.get(pending, timeout=30)
    with pytest.raises(exceptions.ActorDiedError):
        sparkray.get(counter.add.remote(), timeout=30)
    wait_until(lambda: not alive(pid), 5, "the actor's worker ended")


def test_kill_of_something_else_is_refused():
    with pytest.raises(ValueError, match="actor"):
        sparkray.kill(sparkray.put(1))


def test_a_restartable_actor_comes_back_without_its_state():
    counter = Counter.options(max_restarts=1).remote(10)
    assert sparkray.get(counter.add.remote()) == 11
    first = sparkray.get(counter.pid.remote())
    os.kill(first, 9)
    values = []

    def answers():
        try:
            values.append(sparkray.get(counter.add.remote(), timeout=10))
        except exceptions.RayActorError:
            return False
        return True

    wait_until(answers, 30, "the actor is back")
    assert values == [11]
    second = sparkray.get(counter.pid.remote())
    assert second != first
    os.kill(second, 9)
    with pytest.raises(exceptions.ActorDiedError):
        wait_until(lambda: sparkray.get(counter.add.remote(), timeout=10) is None, 30)


def test_the_call_during_which_an_actor_dies_fails():
    counter = Counter.remote()
    with pytest.raises(exceptions.RayActorError):
        sparkray.get(counter.die.remote(), timeout=30)


def test_kill_with_restart():
    counter = Counter.options(max_restarts=-1).remote()
    pid = sparkray.get(counter.pid.remote())
    sparkray.kill(counter, no_restart=False)

    def back():
        try:
            return sparkray.get(counter.pid.remote(), timeout=10) != pid
        except exceptions.RayActorError:
            return False

    wait_until(back, 30, "the actor is back")
    sparkray.kill(counter)


def test_an_actor_knows_that_it_was_restarted():
    @sparkray.remote(max_restarts=1)
    class Aware:
        def restarted(self):
            return sparkray.get_runtime_context().was_current_actor_reconstructed

        def die(self):
            os._exit(1)

    aware = Aware.remote()
    assert sparkray.get(aware.restarted.remote()) is False
    with pytest.raises(exceptions.RayActorError):
        sparkray.get(aware.die.remote(), timeout=30)
    wait_until(lambda: _value_of(aware.restarted) is True, 30)


def _value_of(method):
    try:
        return sparkray.get(method.remote(), timeout=10)
    except exceptions.RayActorError:
        return None


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


def test_methods_that_ray_adds():
    counter = Counter.remote(3)
    assert sparkray.get(counter.__ray_ready__.remote()) is True
    assert sparkray.get(counter.__ray_call__.remote(lambda self, n: self.value * n, 2)) == 6


@pytest.mark.parametrize("options", [{}, {"max_concurrency": 2}], ids=str)
def test_exit_actor_ends_it_for_good(options):
    @sparkray.remote(max_restarts=3)
    class Leaver:
        def work(self, n):
            return n

        def leave(self):
            exit_actor()

    leaver = Leaver.options(**options).remote()
    before = [leaver.work.remote(n) for n in range(50)]
    if options:
        sparkray.get(before, timeout=30)
    last = leaver.leave.remote()
    assert sparkray.get(before, timeout=30) == list(range(50))
    with pytest.raises(exceptions.ActorDiedError):
        sparkray.get(last, timeout=30)
    with pytest.raises(exceptions.ActorDiedError):
        sparkray.get(leaver.work.remote(1), timeout=30)


def test_sys_exit_ends_an_async_actor():
    @sparkray.remote
    class Leaver:
        async def leave(self):
            raise SystemExit(0)

    leaver = Leaver.remote()
    with pytest.raises(exceptions.ActorDiedError):
        sparkray.get(leaver.leave.remote(), timeout=30)


def test_exit_actor_elsewhere_is_refused():
    with pytest.raises(TypeError, match="actor"):
        exit_actor()


def test_a_class_that_cannot_be_read_in_the_worker_is_an_error_of_every_call():
    @sparkray.remote
    class Unreadable:
        helper = _ReadableOnlyHere()

        def method(self):
            return 1

    unreadable = Unreadable.remote()
    with pytest.raises(exceptions.ActorDiedError, match="only in the driver"):
        sparkray.get(unreadable.method.remote(), timeout=30)


class _ReadableOnlyHere:
    """Pickles, and cannot be read back."""

    def __reduce__(self):
        return _refuse_to_be_read, ()


def _refuse_to_be_read():
    raise RuntimeError("this can be read only in the driver")


def test_the_objects_of_a_dead_owner_are_lost():
    @sparkray.remote
    class Owner:
        def small(self):
            return [sparkray.put(1)]

        def large(self):
            return [sparkray.put(bytes(1 << 20))]

    owner = Owner.remote()
    small, large = sparkray.get([owner.small.remote(), owner.large.remote()])
    sparkray.kill(owner)
    with pytest.raises(exceptions.ActorDiedError):
        sparkray.get(owner.small.remote(), timeout=30)
    for reference in (small[0], large[0]):
        with pytest.raises(exceptions.OwnerDiedError):
            sparkray.get(reference, timeout=30)


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


def test_a_worker_cannot_leave_the_cluster():
    @sparkray.remote
    def leave():
        sparkray.shutdown()

    with pytest.raises(RuntimeError, match="drivers"):
        sparkray.get(leave.remote(), timeout=30)


def test_misuse_gets_a_sentence():
    counter = Counter.remote()
    with pytest.raises(TypeError, match=r"Counter\.remote\(\)"):
        Counter()
    with pytest.raises(TypeError, match=r"add\.remote\(\)"):
        counter.add()
    with pytest.raises(AttributeError, match="did you mean 'add'"):
        counter.addd.remote()
    with pytest.raises(TypeError, match="unexpected"):
        counter.add.remote(amout=1)
    with pytest.raises(TypeError, match=r"argument 'amount' of Counter\.add\(\)"):
        counter.add.remote(threading.Lock())
    with pytest.raises(TypeError, match="inherited"):
        type("Child", (), {}) and __import__("types").new_class("Child", (Counter,))
    with pytest.raises(ValueError, match="lifetime"):
        Counter.options(lifetime="forever")


def test_actors_share_no_state():
    one, two = Counter.remote(), Counter.remote()
    sparkray.get([one.add.remote(5), two.add.remote(7)])
    assert sparkray.get([one.add.remote(0), two.add.remote(0)]) == [5, 7]
    assert sparkray.get(one.pid.remote()) != sparkray.get(two.pid.remote())


def test_more_actors_than_cpus():
    counters = [Counter.remote(n) for n in range(12)]
    assert sparkray.get([counter.add.remote(0) for counter in counters], timeout=60) == list(range(12))


def test_an_actor_with_cpus_holds_them():
    holder = Counter.options(num_cpus=3).remote()
    sparkray.get(holder.add.remote())
    wait_until(lambda: sparkray.available_resources().get("CPU", 0) <= 1.0, 5, "three CPUs are held")
    sparkray.kill(holder)
    wait_until(lambda: sparkray.available_resources().get("CPU", 0) == 4.0, 5, "the CPUs are back")
