"""Tasks: arguments, results, order, retries."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import os
import pickle
import random
import time
from pathlib import Path

import cloudpickle
import numpy as np
import pytest

import sparkray
from sparkray import exceptions

pytestmark = pytest.mark.usefixtures("shared")


@sparkray.remote
def echo(value):
    return value


@sparkray.remote
def add(left, right=10, *, times=1):
    return (left + right) * times


@sparkray.remote
def pid():
    return os.getpid()


def test_a_task_returns_its_value():
    assert sparkray.get(echo.remote(7)) == 7


def test_positional_keyword_and_default_arguments_arrive():
    assert sparkray.get(add.remote(1)) == 11
    assert sparkray.get(add.remote(1, 2)) == 3
    assert sparkray.get(add.remote(right=2, left=1, times=5)) == 15


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(2**80),
        1.5,
        "",
        "ä",
        b"",
        b"x" * 10,
        (),
        (1, [2, {"a": None}]),
        {1, 2},
        {"k": (1,)},
        Ellipsis,
        1j,
    ],
    ids=repr,
)
def test_values_come_back_as_they_were(value):
    returned = sparkray.get(echo.remote(value))
    assert returned == value
    assert type(returned) is type(value)


@pytest.mark.parametrize("size", [0, 1, 100 * 1024 - 65, 100 * 1024 - 64, 100 * 1024, 100 * 1024 + 1, 5 << 20])
def test_sizes_around_the_limit_of_inline_values(size):
    value = os.urandom(size)
    assert sparkray.get(echo.remote(value)) == value
    assert sparkray.get(echo.remote(sparkray.put(value))) == value


def test_references_at_the_top_level_are_replaced_by_their_values():
    assert sparkray.get(add.remote(sparkray.put(1), right=echo.remote(2))) == 3


def test_references_inside_containers_stay_references():
    @sparkray.remote
    def open_them(references):
        assert all(isinstance(reference, sparkray.ObjectRef) for reference in references)
        return sum(sparkray.get(references))

    assert sparkray.get(open_them.remote([sparkray.put(1), echo.remote(2)])) == 3


def test_references_returned_inside_a_value_can_be_got():
    @sparkray.remote
    def outer():
        return [echo.remote(1), sparkray.put(2), {"deep": echo.remote(np.arange(50_000))}]

    one, two, deep = sparkray.get(outer.remote())
    assert sparkray.get([one, two]) == [1, 2]
    assert int(sparkray.get(deep["deep"]).sum()) == 49_999 * 25_000


def test_several_returns():
    @sparkray.remote(num_returns=3)
    def three():
        return 1, "b", np.zeros(30_000)

    first, second, third = three.remote()
    assert sparkray.get([first, second]) == [1, "b"]
    assert sparkray.get(third).shape == (30_000,)


def test_a_wrong_number_of_returns_is_an_error_of_all_of_them():
    @sparkray.remote(num_returns=2)
    def three():
        return 1, 2, 3

    for reference in three.remote():
        with pytest.raises(ValueError, match="2|3"):
            sparkray.get(reference)


def test_no_returns():
    @sparkray.remote(num_returns=0)
    def nothing():
        return None

    assert nothing.remote() is None


def test_options_change_a_call_and_not_the_function():
    assert len(add.options(num_returns=1, num_cpus=0.5, name="other").remote(1).binary()) == 20
    assert sparkray.get(add.remote(1)) == 11


def test_functions_bring_closures_globals_and_classes_along():
    factor = 3

    class Local:
        def __init__(self, value):
            self.value = value

        def scaled(self):
            return self.value * factor

    @sparkray.remote
    def use(thing):
        return Local(thing.scaled() + 1)

    assert sparkray.get(use.remote(Local(2))).value == 7


def test_a_function_that_refers_to_itself_nests_deeper_than_there_are_cpus():
    @sparkray.remote
    def factorial(n):
        return 1 if n < 2 else n * sparkray.get(factorial.remote(n - 1))

    assert sparkray.get(factorial.remote(8), timeout=60) == 40320


def test_a_function_may_refer_to_a_reference_outside_of_it():
    reference = sparkray.put(41)

    @sparkray.remote
    def use():
        return sparkray.get(reference) + 1

    assert sparkray.get(use.remote()) == 42


def test_many_tasks_at_once():
    assert sparkray.get([add.remote(n, 0) for n in range(3000)]) == list(range(3000))


def test_tasks_run_at_the_same_time():
    @sparkray.remote
    def meet(directory, me, others):
        Path(directory, str(me)).touch()
        deadline = time.monotonic() + 20
        while len(os.listdir(directory)) < others:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{me} is alone")
            time.sleep(0.005)
        return os.getpid()

    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        pids = sparkray.get([meet.remote(directory, me, 4) for me in range(4)])
    assert len(set(pids)) == 4


def test_a_task_that_waits_for_one_submitted_after_it_does_not_hang():
    @sparkray.remote
    def wait_for(references):
        return sparkray.get(references[0])

    @sparkray.remote
    def slow():
        time.sleep(0.2)
        return "done"

    outer = [wait_for.remote([slow.remote()]) for _ in range(12)]
    assert sparkray.get(outer, timeout=60) == ["done"] * 12


def test_workers_are_reused():
    assert len(set(sparkray.get([pid.remote() for _ in range(50)]))) <= 8


def test_forked_workers_draw_different_random_numbers():
    @sparkray.remote
    def draw(directory, me):
        Path(directory, str(me)).touch()
        deadline = time.monotonic() + 20
        while len(os.listdir(directory)) < 3 and time.monotonic() < deadline:
            time.sleep(0.005)
        return os.getpid(), random.random(), float(np.random.rand()), os.urandom(4)

    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        drawn = sparkray.get([draw.remote(directory, me) for me in range(3)])
    assert len({entry[0] for entry in drawn}) == 3
    assert len({entry[1] for entry in drawn}) == 3
    assert len({entry[2] for entry in drawn}) == 3


def test_workers_find_the_drivers_modules():
    from process import helpers

    assert sparkray.get(echo.remote(helpers.alive)) is helpers.alive


def test_arguments_that_do_not_fit_are_refused_where_the_call_is_made():
    with pytest.raises(TypeError, match="'left'"):
        add.remote()
    with pytest.raises(TypeError, match="unexpected"):
        add.remote(1, tines=2)
    with pytest.raises(TypeError, match="remote"):
        add(1)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"num_cpu": 1}, ValueError, "num_cpus"),
        ({"num_cpus": -1}, ValueError, "at least 0"),
        ({"num_cpus": "1"}, TypeError, "number"),
        ({"resources": {"CPU": 1}}, ValueError, "num_cpus"),
        ({"num_returns": -1}, ValueError, "at least 0"),
        ({"num_returns": "streaming"}, NotImplementedError, "not there yet"),
        ({"max_retries": -2}, ValueError, "-1"),
        ({"fallback_strategy": [{"label_selector": {"a": "b"}}]}, NotImplementedError, "not there yet"),
        ({"runtime_env": {"pip": ["x"]}}, NotImplementedError, "not there yet"),
        ({"max_restarts": 1}, ValueError, "tasks"),
    ],
    ids=str,
)
def test_options_that_cannot_be_used_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        echo.options(**options)


def test_generators_return_a_fixed_number_of_values_and_say_so_otherwise():
    @sparkray.remote
    def pair(n):
        yield n
        yield n + 1

    @sparkray.remote
    async def stream():
        yield 1

    assert sparkray.get(pair.options(num_returns=2).remote(3)) == [3, 4]
    with pytest.raises(NotImplementedError, match="generator"):
        pair.remote(3)
    with pytest.raises(NotImplementedError, match="generator"):
        stream.remote()


def test_a_remote_function_that_was_pickled_keeps_its_name():
    copy = pickle.loads(cloudpickle.dumps(add))
    assert copy.__name__ == "add"
    assert sparkray.get(copy._remote(args=(1,), kwargs={"times": 3}, num_cpus=0.5)) == 33


def test_a_task_is_run_again_when_its_worker_is_killed(tmp_path):
    @sparkray.remote(max_retries=2)
    def die_twice(directory):
        attempts = len(list(Path(directory).iterdir()))
        Path(directory, str(attempts)).touch()
        if attempts < 2:
            os.kill(os.getpid(), 9)
        return attempts

    assert sparkray.get(die_twice.remote(str(tmp_path)), timeout=60) == 2


def test_a_task_without_retries_fails_when_its_worker_is_killed():
    @sparkray.remote(max_retries=0)
    def die():
        os.kill(os.getpid(), 9)

    with pytest.raises(exceptions.WorkerCrashedError):
        sparkray.get(die.remote(), timeout=60)


def test_a_task_that_raised_is_run_again_only_when_asked(tmp_path):
    def fail_once(directory):
        attempts = len(list(Path(directory).iterdir()))
        Path(directory, str(attempts)).touch()
        if attempts == 0:
            raise RuntimeError("first attempt")
        return attempts

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(RuntimeError, match="first attempt"):
        sparkray.get(sparkray.remote(fail_once).remote(str(tmp_path / "a")))
    retried = sparkray.remote(retry_exceptions=True, max_retries=1)(fail_once)
    assert sparkray.get(retried.remote(str(tmp_path / "b"))) == 1


def test_a_resource_that_no_node_has_is_waited_for_until_the_timeout():
    with pytest.raises((exceptions.GetTimeoutError, exceptions.TaskUnschedulableError)):
        sparkray.get(echo.options(resources={"unheard": 1}).remote(1), timeout=0.5)


def test_arguments_have_any_name():
    # Whatever our own functions on the way call theirs.
    names = ("self", "args", "kwargs", "function", "name", "method", "options", "core", "a b", "")

    def keywords(**given):
        return given

    class Keeper:
        def __init__(self, /, **given):
            self.given = given

        def call(self, /, **given):
            return self.given, given

    given = dict.fromkeys(names, 1)
    assert sparkray.get(sparkray.remote(keywords).remote(**given)) == given
    keeper = sparkray.remote(Keeper).remote(**given)
    assert sparkray.get(keeper.call.remote(**given)) == (given, given)
    assert sparkray.get(keeper.__ray_call__.remote(lambda _, **given: given, **given)) == given
