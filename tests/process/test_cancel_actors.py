"""cancel() of actors' calls: what waits never runs, coroutines are cancelled, other methods are told when they ask."""

# mypy: disable-error-code="attr-defined,union-attr,arg-type,misc"
from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

import sparkray
from process.helpers import PATIENCE, wait_until
from process.test_cancel import Signal, assert_interrupted, assert_never_ran, ends_of, run, sleep
from sparkray import exceptions

pytestmark = pytest.mark.usefixtures("shared")


class Methods:
    """Of actors that are not async."""

    def hold(self, started: Path, until: Path):
        started.touch()
        wait_until(until.exists)
        return sparkray.get_runtime_context().is_canceled()

    def heed(self, started: Path):
        started.touch()
        wait_until(lambda: sparkray.get_runtime_context().is_canceled())
        return "heard"

    def ran(self, name: Path):
        name.touch()


# Calls one after the other, on the main thread.
Plain = sparkray.remote(Methods)
# Calls on two threads.
Threaded = sparkray.remote(max_concurrency=2)(Methods)


@sparkray.remote(max_concurrency=2)
class Asynchronous:
    """Calls as coroutines, two at a time."""

    def __init__(self):
        self.seen = []

    async def hold(self, started: Path, until: Path):
        started.touch()
        while not until.exists():
            await asyncio.sleep(0.01)
        return sparkray.get_runtime_context().is_canceled()

    async def sleep(self, started: Path):
        started.touch()
        try:
            await asyncio.sleep(10 * PATIENCE)
        except BaseException as error:
            self.seen.append(type(error).__name__)
            raise

    async def catch(self, started: Path):
        try:
            started.touch()
            await asyncio.sleep(10 * PATIENCE)
        except asyncio.CancelledError:
            return sparkray.get_runtime_context().is_canceled()

    async def raise_own(self):
        raise asyncio.CancelledError

    async def call(self, started: Path):
        return await run.remote(started, sleep, None)

    async def get_stored(self, refs, started: Path):
        started.touch()
        return len(await refs[0])

    def what_was_seen(self):
        return self.seen

    def ran(self, name: Path):
        name.touch()


@pytest.mark.parametrize("kind", [Plain, Threaded, Asynchronous])
def test_calls_that_wait_for_their_actor_never_run(tmp_path, kind):
    actor = kind.remote()
    held = [actor.hold.remote(tmp_path / "started", tmp_path / "go")]
    if kind is not Plain:
        held.append(actor.hold.remote(tmp_path / "started too", tmp_path / "go"))
        wait_until((tmp_path / "started too").exists)
    wait_until((tmp_path / "started").exists)
    calls = [actor.ran.remote(tmp_path / f"ran{n}") for n in range(4)]
    for ref in calls[:3]:
        sparkray.cancel(ref)
    (tmp_path / "go").touch()
    for ref in calls[:3]:
        assert_never_ran(ref)
    assert sparkray.get(held, timeout=PATIENCE) == [False] * len(held)
    assert sparkray.get(calls[3], timeout=PATIENCE) is None
    assert [path.name for path in tmp_path.glob("ran*")] == ["ran3"]


@pytest.mark.parametrize("kind", [Plain, Threaded])
def test_a_method_that_runs_goes_on_and_may_ask_whether_it_was_cancelled(tmp_path, kind):
    actor = kind.remote()
    ref = actor.heed.remote(tmp_path / "started")
    wait_until((tmp_path / "started").exists)
    sparkray.cancel(ref)
    next_one = actor.hold.remote(tmp_path / "next", tmp_path / "go")
    assert sparkray.get(ref, timeout=PATIENCE) == "heard"
    (tmp_path / "go").touch()
    assert sparkray.get(next_one, timeout=PATIENCE) is False


def test_a_coroutine_is_cancelled_and_its_actor_lives_on(tmp_path):
    actor = Asynchronous.remote()
    ref, other = actor.sleep.remote(tmp_path / "started"), actor.hold.remote(tmp_path / "held", tmp_path / "go")
    wait_until(lambda: (tmp_path / "started").exists() and (tmp_path / "held").exists())
    sparkray.cancel(ref)
    assert_interrupted(ref)
    assert sparkray.get(actor.what_was_seen.remote(), timeout=PATIENCE) == ["CancelledError"]
    (tmp_path / "go").touch()
    assert sparkray.get(other, timeout=PATIENCE) is False


def test_a_coroutine_may_catch_it_and_return_a_value(tmp_path):
    actor = Asynchronous.remote()
    ref = actor.catch.remote(tmp_path / "started")
    wait_until((tmp_path / "started").exists)
    sparkray.cancel(ref)
    assert sparkray.get(ref, timeout=PATIENCE) is True


def test_a_coroutine_that_raises_cancelled_error_by_itself_was_not_cancelled():
    with pytest.raises(exceptions.RayTaskError) as caught:
        sparkray.get(Asynchronous.remote().raise_own.remote(), timeout=PATIENCE)
    assert not isinstance(caught.value, exceptions.TaskCancelledError)


def test_a_coroutine_that_is_cancelled_before_its_first_step_is_answered():
    actor = Asynchronous.remote()
    sparkray.get(actor.what_was_seen.remote(), timeout=PATIENCE)
    refs = [actor.what_was_seen.remote() for _ in range(200)]
    for ref in refs:
        sparkray.cancel(ref)
    for ref in refs:
        try:
            assert sparkray.get(ref, timeout=PATIENCE) == []
        except exceptions.TaskCancelledError:
            pass
    assert sparkray.get(actor.what_was_seen.remote(), timeout=PATIENCE) == []


@pytest.mark.parametrize("kind", [Plain, Threaded, Asynchronous])
def test_calls_end_before_the_actor_lives(tmp_path, kind):
    @sparkray.remote
    def later(until: Path):
        wait_until(until.exists)

    class Late:
        def __init__(self, _argument):
            pass

        def ran(self, name: Path):
            name.touch()

    class LateCoroutines(Late):
        async def other(self):
            pass

    late = sparkray.remote(LateCoroutines if kind is Asynchronous else Late)
    actor = late.options(max_concurrency=1 if kind is Plain else 2).remote(later.remote(tmp_path / "go"))
    first, second = [actor.ran.remote(tmp_path / name) for name in ("ran1", "ran2")]
    sparkray.cancel(first)
    assert_never_ran(first)
    (tmp_path / "go").touch()
    assert sparkray.get(second, timeout=PATIENCE) is None
    assert not (tmp_path / "ran1").exists()


def test_a_call_that_waits_for_its_argument_does_not_hold_up_others_any_more(tmp_path):
    @sparkray.remote
    def later(until: Path):
        wait_until(until.exists)

    actor = Plain.remote()
    waiting = actor.ran.remote(later.remote(tmp_path / "go"))
    behind = actor.ran.remote(tmp_path / "behind")
    sparkray.cancel(waiting)
    assert_never_ran(waiting)
    sparkray.get(behind, timeout=PATIENCE)
    (tmp_path / "go").touch()


def test_what_a_method_has_called_ends_with_it(tmp_path):
    actor = Asynchronous.remote()
    ref = actor.call.remote(tmp_path / "child")
    wait_until((tmp_path / "child").exists)
    sparkray.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        sparkray.get(ref, timeout=PATIENCE)
    wait_until(lambda: ends_of(tmp_path / "child"))


def test_what_a_plain_method_has_called_ends_and_the_method_hears_of_that(tmp_path):
    @sparkray.remote
    class Caller:
        def call(self, started: Path):
            return sparkray.get(run.remote(started, sleep, None))

        def threads(self):
            return threading.active_count()

    actor = Caller.remote()
    ref = actor.call.remote(tmp_path / "child")
    wait_until((tmp_path / "child").exists)
    sparkray.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        sparkray.get(ref, timeout=PATIENCE)
    assert sparkray.get(actor.threads.remote(), timeout=PATIENCE) > 0


def test_the_calls_of_actors_cannot_be_forced(tmp_path):
    actor = Plain.remote()
    ref = actor.hold.remote(tmp_path / "started", tmp_path / "go")
    with pytest.raises(ValueError, match="force=True is not supported for actor tasks"):
        sparkray.cancel(ref, force=True)

    @sparkray.remote
    def force(refs):
        sparkray.cancel(refs[0], force=True)

    with pytest.raises(ValueError, match="force=True is not supported for actor tasks"):
        sparkray.get(force.remote([ref]), timeout=PATIENCE)
    (tmp_path / "go").touch()
    assert sparkray.get(ref, timeout=PATIENCE) is False


def test_a_task_that_an_actor_was_asked_to_run_ends_with_what_asked(tmp_path):
    @sparkray.remote
    def ask(actor, started: Path):
        return sparkray.get(actor.sleep.remote(started))

    actor = Asynchronous.remote()
    ref = ask.remote(actor, tmp_path / "started")
    wait_until((tmp_path / "started").exists)
    sparkray.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        sparkray.get(ref, timeout=PATIENCE)
    wait_until(lambda: sparkray.get(actor.what_was_seen.remote()) == ["CancelledError"])


def test_a_signal_outlives_calls_that_were_cancelled():
    signal = Signal.remote()
    waits = [signal.wait.remote() for _ in range(20)]
    for ref in waits[:10]:
        sparkray.cancel(ref)
    sparkray.get(signal.send.remote(), timeout=PATIENCE)
    assert sparkray.get(waits[10:], timeout=PATIENCE) == [None] * 10
    for ref in waits[:10]:
        with pytest.raises(exceptions.TaskCancelledError):
            sparkray.get(ref, timeout=PATIENCE)
