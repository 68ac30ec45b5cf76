"""Actors: state, order, names, errors."""

# mypy: disable-error-code="attr-defined,union-attr,arg-type"
from __future__ import annotations

import atexit
import importlib
import threading
import time
from typing import Any

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
            sparkray.get(broken.method.remote(), timeout=60)
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

    wait_until(free, 60, "the name is free")
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


def test_ray_terminate_ends_the_actor_after_its_calls():
    counter = Counter.remote(3)
    before = counter.add.remote()
    end = counter.__ray_terminate__.remote()
    assert sparkray.get(before) == 4
    with pytest.raises(exceptions.ActorDiedError):
        sparkray.get(end, timeout=60)
    with pytest.raises(exceptions.ActorDiedError):
        sparkray.get(counter.add.remote(), timeout=60)


@pytest.mark.parametrize("how", ["exit_actor", "terminate", "sys.exit"])
@pytest.mark.parametrize("kind", ["plain", "async"])
def test_an_actor_that_ends_in_order_runs_its_exit_handlers(how, kind, tmp_path):
    @sparkray.remote
    class Leaver:
        def __init__(self, path):
            self.path = path
            atexit.register(self.note, "atexit")

        def note(self, text):
            with open(self.path, "a") as file:
                file.write(text + "\n")

        def __ray_shutdown__(self):
            self.note("shutdown")

        def leave(self, how):
            if how == "exit_actor":
                sparkray.actor.exit_actor()
            raise SystemExit(0)

    leaver_class: Any = Leaver
    if kind == "async":
        plain: Any = Leaver._class

        async def leave(self, how):
            return plain.leave(self, how)

        leaver_class = sparkray.remote(type("AsyncLeaver", (plain,), {"leave": leave}))
    path = tmp_path / "notes"
    leaver = leaver_class.remote(str(path))
    end = leaver.__ray_terminate__.remote() if how == "terminate" else leaver.leave.remote(how)
    with pytest.raises(exceptions.ActorDiedError):
        sparkray.get(end, timeout=60)
    assert path.read_text().split() == ["shutdown", "atexit"]


def test_an_actor_that_is_killed_runs_no_exit_handlers(tmp_path):
    @sparkray.remote
    class Held:
        def __init__(self, path):
            self.path = path

        def ready(self):
            return True

        def __ray_shutdown__(self):
            open(self.path, "w").close()

    path = tmp_path / "notes"
    held = Held.remote(str(path))
    assert sparkray.get(held.ready.remote())
    sparkray.kill(held)
    with pytest.raises(exceptions.ActorDiedError):
        sparkray.get(held.ready.remote(), timeout=60)
    assert not path.exists()


def test_what_rays_handles_can_do_beside():
    from typing import get_args

    generic: Any
    for generic in (sparkray.ActorHandle, sparkray.ActorClass):
        assert get_args(generic[int]) == (int,)
    counter = Counter._remote(args=(5,), kwargs={}, name="by-remote")
    assert sparkray.get(counter.add._remote(args=(2,))) == 7
    assert sparkray.get(counter.pair._remote(num_returns=1)) == (7, "second")

    @sparkray.remote
    def call(method):
        return sparkray.get(method.remote(3))

    assert sparkray.get(call.remote(counter.add), timeout=60) == 10
    with pytest.raises(sparkray.actor.ActorClassInheritanceException):
        __import__("types").new_class("Child", (Counter,))


def test_options_of_methods():
    @sparkray.remote
    class Methods:
        @sparkray.method
        def bare(self):
            return 1

        @sparkray.method(enable_task_events=False, num_returns=2)
        def two(self):
            return 1, 2

    methods = Methods.remote()
    assert sparkray.get(methods.bare.remote()) == 1
    assert sparkray.get(methods.two.remote()) == [1, 2]
    assert sparkray.get(methods.two.options(num_returns=1, enable_task_events=False, name="x").remote()) == (1, 2)
    for refused in (sparkray.method, methods.two.options):
        with pytest.raises(NotImplementedError, match="concurrency_group"):
            refused(concurrency_group="io")
        with pytest.raises(ValueError, match="did you mean 'num_returns'"):
            refused(num_return=1)
        assert refused(max_task_retries=0)


def test_calls_of_a_method_can_be_named():
    @sparkray.remote
    class Named:
        def name(self):
            return sparkray.get_runtime_context().get_task_name()

        def fail(self):
            raise ValueError("named")

    named = Named.remote()
    calls = [named.name, named.name.options(name="first"), named.name.options(name="second")]
    assert sparkray.get([call.remote() for call in calls * 2]) == ["Named.name", "first", "second"] * 2
    assert sparkray.get([named.name.options(name=f"call {n}").remote() for n in range(600)]) == [
        f"call {n}" for n in range(600)
    ]
    with pytest.raises(ValueError, match="ray::by hand"):
        sparkray.get(named.fail.options(name="by hand").remote())


@sparkray.remote
class Constants:
    """Has attributes that belong to the class."""

    LIMIT = 17
    table = {"a": 1}

    @staticmethod
    def double(x):
        return 2 * x

    @classmethod
    def limit(cls):
        return cls.LIMIT

    def limit_through_the_actor_class(self):
        return Constants.LIMIT


def test_attributes_of_the_class_are_there():
    assert Constants.LIMIT == 17
    assert Constants.table == {"a": 1}
    assert Constants.double(4) == 8
    assert Constants.limit() == 17
    assert sparkray.get(Constants.remote().limit_through_the_actor_class.remote()) == 17
    assert not hasattr(Constants, "nothing")
    with pytest.raises(AttributeError, match="Constants.*nothing"):
        Constants.nothing()


def test_generator_methods_say_so_and_do_not_spoil_the_class():
    @sparkray.remote
    class Helper:
        def pairs(self):
            yield 1
            yield 2

        async def stream(self):
            yield 1

        async def total(self):
            return sum([item async for item in self.stream()]) + sum(self.pairs())

    helper = Helper.remote()
    assert sparkray.get(helper.total.remote(), timeout=60) == 4
    for method in (helper.pairs, helper.stream, helper.stream.options(num_returns=2)):
        with pytest.raises(NotImplementedError, match="generator"):
            method.remote()
    # A fixed number of values needs no stream.
    assert sparkray.get(helper.pairs.options(num_returns=2).remote(), timeout=60) == [1, 2]


def test_a_worker_cannot_leave_the_cluster():
    @sparkray.remote
    def leave():
        sparkray.shutdown()

    with pytest.raises(RuntimeError, match="drivers"):
        sparkray.get(leave.remote(), timeout=60)


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
    wait_until(lambda: sparkray.available_resources().get("CPU", 0) <= 1.0, 60, "three CPUs are held")
    sparkray.kill(holder)
    wait_until(lambda: sparkray.available_resources().get("CPU", 0) == 4.0, 60, "the CPUs are back")


MODULE = """
import sparkray

@sparkray.remote
class Shop:
    PRICE = 3

    class Item:
        name = "apple"

    @staticmethod
    def double(number):
        return 2 * number

    def sell(self):
        return self.Item.name, self.double(self.PRICE), Shop.double(Shop.PRICE), Shop.Item.name
"""


def test_an_actor_class_of_a_module_that_only_the_driver_has(tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    only_here = importlib.import_module("only_here")
    assert only_here.Shop.double(4) == 8 and only_here.Shop.Item.name == "apple"
    assert sparkray.get(only_here.Shop.remote().sell.remote()) == ("apple", 6, 6, "apple")
