"""put, get, wait; shared memory; references."""

# mypy: disable-error-code="attr-defined,union-attr,arg-type,call-overload"
from __future__ import annotations

import asyncio
import copy
import gc
import time

import numpy as np
import pytest

import sparkray
from sparkray import exceptions

pytestmark = pytest.mark.usefixtures("shared")


@sparkray.remote
def total(array):
    return float(array.sum()), array.flags.writeable


@sparkray.remote
def after(seconds, value=None):
    time.sleep(seconds)
    return value


def test_arrays_are_read_only_views_of_shared_memory():
    array = np.arange(1_000_000, dtype=np.float64)
    reference = sparkray.put(array)
    one, two = sparkray.get(reference), sparkray.get(reference)
    np.testing.assert_array_equal(one, array)
    assert not one.flags.writeable
    assert not one.flags.owndata
    assert one.ctypes.data == two.ctypes.data, "both are views of one mapping"
    assert one.ctypes.data % 64 == 0
    with pytest.raises(ValueError, match="read-only"):
        one[0] = 1.0


def test_an_array_stays_valid_after_its_reference_is_gone():
    array = sparkray.get(sparkray.put(np.full(200_000, 7.0)))
    gc.collect()
    others = [sparkray.put(np.zeros(200_000)) for _ in range(5)]
    assert float(array.sum()) == 1_400_000.0
    del others


def test_a_task_reads_a_large_argument_in_place():
    assert sparkray.get(total.remote(sparkray.put(np.ones(500_000)))) == (500_000.0, False)
    assert sparkray.get(total.remote(np.ones(500_000))) == (500_000.0, False)


class Counted:
    """Counts how often it is pickled in this process."""

    times = 0

    def __reduce__(self):
        Counted.times += 1
        return str, ("counted",)


@pytest.mark.parametrize(
    ("filler", "times"), [([None] * 200_000, 1), (["x" * 200_000], 2)], ids=["many elements", "a large element"]
)
@pytest.mark.parametrize("named", [False, True])
def test_a_large_argument_is_pickled_once_when_its_length_tells_and_else_twice(filler, times, named):
    @sparkray.remote
    def first_and_length(items, small):
        return items[0], len(items), small

    items = [Counted(), *filler]
    Counted.times = 0
    call = first_and_length.remote(items, small=3) if named else first_and_length.remote(items, 3)
    assert Counted.times == times
    assert sparkray.get(call) == ("counted", len(items), 3)


def test_large_results():
    @sparkray.remote
    def make(n):
        return np.arange(n)

    assert int(sparkray.get(make.remote(1_000_000))[-1]) == 999_999


def test_arrow_tables_are_read_in_place():
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"a": list(range(1000)), "b": [None, "x"] * 500})
    reference = sparkray.put(table)
    assert sparkray.get(reference).equals(table)
    batch = table.to_batches()[0]
    assert sparkray.get(sparkray.put(batch)).equals(batch)

    @sparkray.remote
    def count(given):
        return given.num_rows, given.schema.names

    assert sparkray.get(count.remote(reference)) == (1000, ["a", "b"])
    assert sparkray.get(sparkray.put([table]))[0].equals(table)
    empty = table.slice(0, 0)
    assert sparkray.get(sparkray.put(empty)).equals(empty)


def test_frames_of_pandas():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": np.arange(100_000), "b": ["x"] * 100_000})
    pd.testing.assert_frame_equal(sparkray.get(sparkray.put(frame)), frame)


def test_a_reference_has_an_id_and_equality():
    one, two = sparkray.put(1), sparkray.put(1)
    assert one != two
    assert len({one, two, one}) == 2
    assert one.hex() == one.binary().hex()
    assert len(one.task_id().binary()) == 16
    assert one.task_id().hex() == one.task_id()
    assert one.hex() in repr(one)


def test_a_reference_has_what_rays_has():
    one = sparkray.put(1)
    assert bytes(one) == one.binary()
    assert not one.is_nil()
    assert type(one).nil().is_nil()
    for missing in ("job_id", "call_site", "from_random"):
        with pytest.raises(NotImplementedError, match=missing):
            getattr(one, missing)()

    async def program():
        return await one.as_future()

    assert asyncio.run(program()) == 1
    with pytest.raises(RuntimeError, match="loop"):
        one.as_future()


def test_a_copy_of_a_reference_is_the_reference():
    one = sparkray.put(bytes(1 << 20))
    assert copy.copy(one) is one
    nested = copy.deepcopy({"a": [one]})
    assert nested["a"][0] is one


def test_wait_takes_the_names_and_numbers_that_ray_takes():
    refs = [sparkray.put(1), sparkray.put(2)]
    for ready, rest in (
        sparkray.wait(ray_waitables=refs, num_returns=np.int64(2)),
        sparkray.wait(object_refs=refs, num_returns=2, timeout=np.float32(5)),
        sparkray.wait(refs, num_returns=2, timeout=np.int32(5)),
    ):
        assert (ready, rest) == (refs, [])
    with pytest.raises(TypeError, match="not both"):
        sparkray.wait(refs, object_refs=refs)
    with pytest.raises(TypeError, match="list"):
        sparkray.wait()
    with pytest.raises(TypeError, match="num_returns"):
        sparkray.wait(refs, num_returns=1.5)
    with pytest.raises(TypeError, match="timeout"):
        sparkray.get(refs, timeout="1")


def test_put_of_a_reference_is_refused():
    with pytest.raises(TypeError, match="ObjectRef"):
        sparkray.put(sparkray.put(1))


def test_a_reference_inside_an_object_keeps_the_inner_one():
    outer = sparkray.put([sparkray.put(np.ones(100_000))])
    gc.collect()
    assert float(sparkray.get(sparkray.get(outer)[0]).sum()) == 100_000.0


def test_a_reference_held_by_an_actor_keeps_the_object():
    @sparkray.remote
    class Holder:
        def hold(self, references):
            self.references = references

        def value(self):
            return float(sparkray.get(self.references[0]).sum())

    holder = Holder.remote()
    reference = sparkray.put(np.ones(100_000))
    sparkray.get(holder.hold.remote([reference]))
    del reference
    gc.collect()
    filler = [sparkray.put(np.zeros(100_000)) for _ in range(10)]
    assert sparkray.get(holder.value.remote()) == 100_000.0
    del filler


def test_future_and_result():
    assert after.remote(0.05, "late").future().result(timeout=60) == "late"


def test_wait_returns_what_is_ready_and_the_rest_in_order():
    slow = after.remote(1.5)
    quick = [after.remote(0, n) for n in range(3)]
    ready, others = sparkray.wait([slow, *quick], num_returns=3, timeout=60)
    assert ready == quick
    assert others == [slow]


def test_wait_returns_at_most_what_was_asked_for():
    references = [sparkray.put(n) for n in range(5)]
    ready, others = sparkray.wait(references, num_returns=2)
    assert len(ready) == 2
    assert ready + others == references


def test_wait_with_a_timeout():
    reference = after.remote(3.0)
    started = time.monotonic()
    assert sparkray.wait([reference], timeout=0.1) == ([], [reference])
    assert time.monotonic() - started >= 0.1
    assert sparkray.wait([reference], timeout=0) == ([], [reference])
    assert sparkray.wait([reference], timeout=60) == ([reference], [])


def test_wait_for_a_thousand():
    references = [after.remote(0, n) for n in range(1000)]
    left = references
    while left:
        ready, left = sparkray.wait(left, num_returns=min(100, len(left)), timeout=60)
        assert ready
    assert sparkray.get(references) == list(range(1000))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (lambda r: (r,), TypeError),
        (lambda r: ([r, r],), ValueError),
        (lambda r: ([r, 3],), TypeError),
        (lambda r: ("ab",), TypeError),
    ],
)
def test_wait_for_something_else_is_refused(arguments, error):
    with pytest.raises(error):
        sparkray.wait(*arguments(sparkray.put(1)))


@pytest.mark.parametrize("count", [0, 2, -1])
def test_wait_for_an_impossible_number_is_refused(count):
    with pytest.raises(ValueError, match="num_returns"):
        sparkray.wait([sparkray.put(1)], num_returns=count)


def test_wait_for_nothing():
    assert sparkray.wait([]) == ([], [])
    assert sparkray.get([]) == []


def test_a_timeout_that_is_no_time_is_refused():
    with pytest.raises(ValueError, match="timeout"):
        sparkray.get(sparkray.put(1), timeout=float("nan"))


def test_a_value_larger_than_memory_and_disk_is_an_error(tmp_path):
    huge = tmp_path / "sparse"
    with open(huge, "wb") as file:
        file.truncate(1 << 42)  # 4 TiB of nothing: it takes no room
    array = np.asarray(np.memmap(huge, dtype=np.uint8, mode="r"))
    with pytest.raises((exceptions.ObjectStoreFullError, exceptions.OutOfDiskError)) as caught:
        sparkray.put(array)
    assert "\n" not in str(caught.value)
    assert sparkray.get(sparkray.put(1)) == 1
