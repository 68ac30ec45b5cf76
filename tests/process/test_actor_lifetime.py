"""Actors: when they end, and when they come back."""

# mypy: disable-error-code="attr-defined,union-attr,arg-type"
from __future__ import annotations

import gc
import os
import sys

import pytest

import sparkray
from process.counter import Counter
from process.helpers import alive, wait_until
from sparkray import exceptions
from sparkray.actor import exit_actor

pytestmark = pytest.mark.usefixtures("shared")


def test_an_actor_ends_when_its_last_handle_goes():
    counter = Counter.remote()
    pid = sparkray.get(counter.pid.remote())
    del counter
    gc.collect()
    wait_until(lambda: not alive(pid), 60, "the actor's worker ended")


def test_calls_made_before_the_handle_goes_still_run():
    reference = Counter.remote(1).add.remote()
    gc.collect()
    assert sparkray.get(reference, timeout=60) == 2


def test_kill_ends_the_worker_and_calls_fail():
    counter = Counter.remote()
    pid = sparkray.get(counter.pid.remote())
    pending = counter.sleep.remote(60)
    sparkray.kill(counter)
    with pytest.raises(exceptions.RayActorError):
        sparkray.get(pending, timeout=60)
    with pytest.raises(exceptions.ActorDiedError):
        sparkray.get(counter.add.remote(), timeout=60)
    wait_until(lambda: not alive(pid), 60, "the actor's worker ended")


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
            values.append(sparkray.get(counter.add.remote(), timeout=60))
        except exceptions.RayActorError:
            return False
        return True

    wait_until(answers, 60, "the actor is back")
    assert values == [11]
    second = sparkray.get(counter.pid.remote())
    assert second != first
    os.kill(second, 9)
    with pytest.raises(exceptions.ActorDiedError):
        wait_until(lambda: sparkray.get(counter.add.remote(), timeout=60) is None, 60)


def test_the_call_during_which_an_actor_dies_fails():
    counter = Counter.remote()
    with pytest.raises(exceptions.RayActorError):
        sparkray.get(counter.die.remote(), timeout=60)


def test_kill_with_restart():
    counter = Counter.options(max_restarts=-1).remote()
    pid = sparkray.get(counter.pid.remote())
    sparkray.kill(counter, no_restart=False)

    def back():
        try:
            return sparkray.get(counter.pid.remote(), timeout=60) != pid
        except exceptions.RayActorError:
            return False

    wait_until(back, 60, "the actor is back")
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
        sparkray.get(aware.die.remote(), timeout=60)
    wait_until(lambda: _value_of(aware.restarted) is True, 60)


def _value_of(method):
    try:
        return sparkray.get(method.remote(), timeout=60)
    except exceptions.RayActorError:
        return None


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
        sparkray.get(before, timeout=60)
    last = leaver.leave.remote()
    assert sparkray.get(before, timeout=60) == list(range(50))
    with pytest.raises(exceptions.ActorDiedError):
        sparkray.get(last, timeout=60)
    with pytest.raises(exceptions.ActorDiedError):
        sparkray.get(leaver.work.remote(1), timeout=60)


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
        sparkray.get(unreadable.method.remote(), timeout=60)


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

        def pid(self):
            return os.getpid()

    owner = Owner.remote()
    small, large, pid = sparkray.get([owner.small.remote(), owner.large.remote(), owner.pid.remote()])
    sparkray.kill(owner)
    # The head answers before the node has killed the process, which may still answer for its objects.
    wait_until(lambda: not alive(pid), 60, "the owner ended")
    with pytest.raises(exceptions.ActorDiedError):
        sparkray.get(owner.small.remote(), timeout=60)
    for reference in (small[0], large[0]):
        with pytest.raises(exceptions.OwnerDiedError):
            sparkray.get(reference, timeout=60)


@pytest.mark.parametrize(
    ("end", "restarts"),
    [
        (lambda: os._exit(0), True),
        (lambda: os._exit(3), True),
        (lambda: sys.exit(256), True),
        (lambda: sys.exit(1), True),
        (lambda: sys.exit(0), False),
        (lambda: sys.exit(), False),
        (exit_actor, False),
    ],
    ids=["_exit 0", "_exit 3", "exit 256", "exit 1", "exit 0", "exit", "exit_actor"],
)
def test_only_an_actor_that_wants_to_end_is_not_restarted(end, restarts):
    """The exit code of a process does not tell what its code wanted."""

    @sparkray.remote(max_restarts=1)
    class Ending:
        def end(self):
            end()

        def answer(self):
            return 1

    actor = Ending.remote()
    assert sparkray.get(actor.answer.remote(), timeout=60) == 1
    with pytest.raises(exceptions.RayActorError):
        sparkray.get(actor.end.remote(), timeout=60)
    if restarts:
        assert sparkray.get(actor.answer.remote(), timeout=60) == 1
    else:
        with pytest.raises(exceptions.ActorDiedError):
            sparkray.get(actor.answer.remote(), timeout=60)
