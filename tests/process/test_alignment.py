"""Arrays are aligned in memory however they came: programs hand them to code that takes that for granted.

Buffers of values begin at multiples of 64 bytes, as in Ray. Sizes go from nothing to what lies in the store.
"""

# mypy: disable-error-code="attr-defined,union-attr,arg-type"
from __future__ import annotations

import random

import numpy as np
import pytest

import sparkray

pytestmark = pytest.mark.usefixtures("shared")

ALIGNMENT = 64
RECORD = np.dtype([("a", "<f8"), ("b", "<c16"), ("c", "S3")], align=True)
PACKED = np.dtype([("a", "<f8"), ("b", "u1")])
DTYPES = [np.dtype(name) for name in ("u1", "f2", "f4", "f8", "i8", "c8", "c16", "M8[ns]", "S7")] + [RECORD, PACKED]


def faults(where, array):
    """What is wrong with where an array lies."""
    if array.size == 0:
        return []
    if array.dtype.kind == "M":
        # numpy pickles times inside and copies them into memory of its own.
        return [] if array.flags.aligned else [f"{where}: {array.dtype}"]
    at = array.__array_interface__["data"][0]
    if array.flags.aligned and at % ALIGNMENT == 0:
        return []
    return [f"{where}: {array.dtype} {array.nbytes} bytes, at {at % ALIGNMENT} of {ALIGNMENT}, {array.flags.aligned}"]


def faults_of_all(where, arrays):
    return [fault for array in arrays for fault in faults(where, array)]


@sparkray.remote(num_cpus=0.1)
def identity(value):
    return value


@sparkray.remote(num_cpus=0.1)
def look(where, *arrays, **named):
    return faults_of_all(where, (*arrays, *named.values()))


@sparkray.remote(num_cpus=0.1)
def look_inside(where, arrays):
    return faults_of_all(where, arrays)


@sparkray.remote(num_cpus=0.1)
def look_behind(where, references):
    return faults_of_all(where, sparkray.get(references))


class Methods:
    def __init__(self, *arrays):
        self.found = faults_of_all("constructor", arrays)
        self.kept = arrays

    def look(self, where, *arrays):
        return faults_of_all(where, arrays)

    def give(self):
        return list(self.kept)

    def found_first(self):
        return self.found


Plain = sparkray.remote(num_cpus=0)(Methods)
Threaded = sparkray.remote(num_cpus=0, max_concurrency=4)(Methods)


@sparkray.remote(num_cpus=0)
class Asynchronous:
    async def look(self, where, *arrays):
        return faults_of_all(where, arrays)

    async def give(self, arrays):
        return arrays

    async def look_behind(self, where, references):
        return faults_of_all(where, [await reference for reference in references])


def make(draw, size, dtype):
    count = size // dtype.itemsize
    return np.frombuffer(draw.randbytes(count * dtype.itemsize), dtype=dtype).copy()


def arrays_for(seed):
    """Of all kinds, and of all sizes from nothing to above what is inline."""
    draw = random.Random(seed)
    sizes = [0, 8, 100, 900, 2_500, 8_100, 8_300, 20_000, 60_000, 99_000, 110_000, 200_000]
    return [make(draw, size + draw.randrange(64), dtype) for size in sizes for dtype in draw.sample(DTYPES, 4)]


@pytest.mark.parametrize("seed", range(3))
def test_arrays_are_aligned_however_they_came(seed):
    arrays = arrays_for(seed)
    few = arrays[seed::5]
    found = faults_of_all("put", sparkray.get([sparkray.put(array) for array in arrays]))
    found += faults_of_all("result", sparkray.get([identity.remote(array) for array in arrays]))
    for in_one in (sparkray.get(sparkray.put(few)), sparkray.get(identity.remote({"a": few}))["a"]):
        found += faults_of_all("inside", in_one)
    looks = [look.remote("argument", array) for array in arrays]
    looks += [look.remote("keyword", array=array) for array in arrays]
    looks += [look.remote("by reference", sparkray.put(array), identity.remote(array)) for array in arrays]
    looks += [look_inside.remote("in an argument", few)]
    looks += [look_behind.remote("borrowed", [sparkray.put(array) for array in few])]
    for kind in (Plain, Threaded):
        actor = kind.remote(*few[:4], sparkray.put(few[-1]))
        looks += [actor.look.remote("method", array) for array in arrays] + [actor.found_first.remote()]
        found += faults_of_all("actor's result", sparkray.get(actor.give.remote(), timeout=60))
    actor = Asynchronous.remote()
    looks += [actor.look.remote("async method", array) for array in arrays]
    looks += [actor.look_behind.remote("awaited", [sparkray.put(array) for array in few])]
    found += faults_of_all("async result", sparkray.get(actor.give.remote(few), timeout=60))
    found += [fault for faults in sparkray.get(looks, timeout=120) for fault in faults]
    assert not found, f"{len(found)} arrays: {found[:10]}"


def test_values_are_the_same_wherever_they_were_moved():
    for array in arrays_for(10):
        for came in sparkray.get([sparkray.put(array), identity.remote(array)]):
            assert came.dtype == array.dtype and came.tobytes() == array.tobytes()
