"""Actors: state, order, names, errors."""

# mypy: disable-error-code="attr-defined,union-attr,arg-type"
from __future__ import annotations

import threading
import time

import pytest

import sparkray
from process.counter import Counter
from process.helpers import wait_until
from sparkray import exceptions

pytestmark = pytest.mark.usefixtures("shared")


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


def test_methods_that_ray_adds():
    counter = Counter.remote(3)
    assert sparkray.get(counter.__ray_ready__.remote()) is True
    assert sparkray.get(counter.__ray_call__.remote(lambda self, n: self.value * n, 2)) == 6


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
