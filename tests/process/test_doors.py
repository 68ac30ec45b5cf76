"""Every door by which a reference or handle enters refuses at once what belongs elsewhere.

That is: to a cluster that this process has left, or to the process that it was forked from. Functions and classes
belong nowhere: they work in the next cluster.
"""

# mypy: disable-error-code="attr-defined,union-attr,arg-type"
from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import traceback

import pytest

import sparkray
from sparkray import exceptions
from sparkray._private import worker


@sparkray.remote(num_cpus=0)
def identity(value):
    return value


@sparkray.remote(num_cpus=0)
class Keeper:
    def __init__(self, value=None):
        self.value = value

    def keep(self, value=None):
        self.value = value

    def ping(self):
        return "pong"


def captured_by_function(thing):
    return sparkray.remote(num_cpus=0)(lambda: thing).remote()


def captured_by_class(thing):
    class Holder:
        held = thing

    return sparkray.remote(num_cpus=0)(Holder).remote()


async def awaited(reference):
    return await reference


# What may be done with a reference or a handle, and with what contains one.
FOR_BOTH = {
    "argument": lambda thing: identity.remote(thing),
    "keyword": lambda thing: identity.remote(value=thing),
    "in_an_argument": lambda thing: identity.remote({"a": [thing]}),
    "beside_a_large_argument": lambda thing: identity.remote([thing, bytes(200_000)]),
    "in_put": lambda thing: sparkray.put([thing]),
    "constructor": lambda thing: Keeper.remote(thing),
    "in_a_constructor": lambda thing: Keeper.remote([thing]),
    "method": lambda thing: Keeper.remote().keep.remote(thing),
    "method_keyword": lambda thing: Keeper.remote().keep.remote(value=thing),
    "in_a_method": lambda thing: Keeper.remote().keep.remote((thing,)),
    "ray_call": lambda thing: Keeper.remote().__ray_call__.remote(lambda self, given: given, thing),
    "in_ray_call": lambda thing: Keeper.remote().__ray_call__.remote(lambda self: thing),
    "function": captured_by_function,
    "class": captured_by_class,
    "pickle": lambda thing: pickle.dumps(thing),
}
FOR_REFERENCES = {
    "get": lambda reference: sparkray.get(reference, timeout=60),
    "get_of_several": lambda reference: sparkray.get([sparkray.put(1), reference], timeout=60),
    "wait": lambda reference: sparkray.wait([sparkray.put(1), reference], num_returns=2, timeout=60),
    "locations": lambda reference: worker.core_worker().object_locations([reference]),
    "future": lambda reference: reference.future(),
    "await": lambda reference: asyncio.run(awaited(reference)),
}
FOR_HANDLES = {
    "call": lambda handle: handle.ping.remote(),
    "call_with_options": lambda handle: handle.ping.options(name="other").remote(),
    "call_by_ray_call": lambda handle: handle.__ray_call__.remote(lambda self: 1),
    "kill": lambda handle: sparkray.kill(handle),
    "method_in_a_value": lambda handle: sparkray.put([handle.ping]),
}


class Left:
    """Things of a cluster that is over, or of the process that this one was forked from."""

    def __init__(self):
        small, large = sparkray.put(1), sparkray.put(bytes(300_000))
        handle = Keeper.remote()
        named = Keeper.options(name="named").remote()
        sparkray.get([handle.ping.remote(), named.ping.remote()], timeout=60)
        self.references = {
            "small": small,
            "large": large,
            "result": identity.remote(2),
            "never": identity.remote(small),
        }
        sparkray.get(self.references["result"], timeout=60)
        self.handles = {"made": handle, "found": sparkray.get_actor("named")}
        self.pickled = {
            "reference": pickle.dumps(small),
            "nested": pickle.dumps([large]),
            "handle": pickle.dumps(handle),
            "method": pickle.dumps(handle.ping),
        }

    def doors(self):
        """(name, call) for every door and every thing."""
        for kind, things, doors in (
            ("reference", self.references, {**FOR_BOTH, **FOR_REFERENCES}),
            ("handle", self.handles, {**FOR_BOTH, **FOR_HANDLES}),
        ):
            for door, use in doors.items():
                for name, thing in things.items():
                    yield f"{kind} {name} at {door}", lambda use=use, thing=thing: use(thing)
        for name, data in self.pickled.items():
            yield f"pickled {name}", lambda data=data: pickle.loads(data)


def wrongly_open(left, refusal, words):
    """Doors that do not refuse as they should."""
    found = []
    for name, call in left.doors():
        try:
            call()
        except refusal as error:
            if not any(word in str(error) for word in words):
                found.append(f"{name}: {error}")
        except BaseException as error:
            found.append(f"{name}: {type(error).__name__}: {error}")
        else:
            found.append(f"{name}: no error")
    return found


def works():
    """The cluster of this process goes on."""
    values = [identity.remote(n) for n in range(5)]
    assert sparkray.get(values, timeout=60) == list(range(5))
    keeper = Keeper.remote(values[1])
    sparkray.get(keeper.keep.remote([values[2]]), timeout=60)
    assert sparkray.get(keeper.ping.remote(), timeout=60) == "pong"


def test_what_belongs_to_a_cluster_that_was_left_is_refused_at_once():
    with sparkray.init(num_cpus=2):
        left = Left()
    with sparkray.init(num_cpus=2):
        works()
        assert wrongly_open(left, ValueError, ["that this process has left", "belongs to another cluster"]) == []
        works()


def test_without_a_cluster_everything_says_so():
    with sparkray.init(num_cpus=1):
        left = Left()
    refusals = (ValueError, exceptions.RaySystemError)
    words = ["that this process has left", "was stopped", "in a process that takes part"]
    assert wrongly_open(left, refusals, words) == []


@pytest.mark.parametrize("has_its_own_cluster", [False, True])
def test_what_belongs_to_the_parent_is_refused_in_a_forked_child(cluster, has_its_own_cluster):
    left = Left()
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(read_end)
            with os.fdopen(write_end, "w") as answer, contextlib.ExitStack() as stack:
                try:
                    if has_its_own_cluster:
                        stack.enter_context(sparkray.init(num_cpus=1))
                        works()
                    refusals = ValueError if has_its_own_cluster else (ValueError, exceptions.RaySystemError)
                    words = ["forked", "another cluster", "in a process that takes part"]
                    answer.write("\n".join(wrongly_open(left, refusals, words)))
                    if has_its_own_cluster:
                        works()
                    code = 0
                except BaseException:
                    answer.write(traceback.format_exc())
        finally:
            os._exit(code)
    os.close(write_end)
    with os.fdopen(read_end) as answer:
        said = answer.read()
    assert (said, os.waitpid(child, 0)[1]) == ("", 0)
    works()
    assert sparkray.get(left.handles["made"].ping.remote(), timeout=60) == "pong"


def test_references_and_handles_travel_in_pickles_within_their_cluster(cluster):
    left = Left()
    reference, (large,) = (pickle.loads(left.pickled[name]) for name in ("reference", "nested"))
    assert sparkray.get(reference, timeout=60) == 1
    assert len(sparkray.get(large, timeout=60)) == 300_000
    assert sparkray.get(pickle.loads(left.pickled["handle"]).ping.remote(), timeout=60) == "pong"
    assert sparkray.get(pickle.loads(left.pickled["method"]).remote(), timeout=60) == "pong"


class Unreadable:
    """Cannot be read back."""

    def __reduce__(self):
        return _refuse, ()


def _refuse():
    raise LookupError("not to be read")


def test_arguments_that_cannot_be_read_fail_their_call_alone(cluster):
    for make in (lambda: Unreadable(), lambda: [Unreadable(), bytes(300_000)], lambda: sparkray.put(Unreadable())):
        with pytest.raises(LookupError, match="not to be read"):
            sparkray.get(identity.remote(make()), timeout=60)
    keeper = Keeper.remote()
    calls = []
    for n in range(20):
        calls.append(keeper.keep.remote(Unreadable() if n % 3 == 1 else n))
    for n, call in enumerate(calls):
        if n % 3 == 1:
            with pytest.raises(LookupError, match="not to be read"):
                sparkray.get(call, timeout=60)
        else:
            sparkray.get(call, timeout=60)
    assert sparkray.get(keeper.ping.remote(), timeout=60) == "pong"
    works()
