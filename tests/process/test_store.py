"""What the object store of a node holds, frees, spills and restores."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

import sparkray
from process.helpers import running_cluster, wait_until
from support.figures import reported_stores

pytestmark = pytest.mark.usefixtures("cluster")


def store():
    return reported_stores()[0]


def used_bytes():
    return store()["used_bytes"]


def files_of_spills():
    return [path for path in Path(running_cluster().session.path).glob("spill-*/**/*") if path.is_file()]


def test_memory_is_freed_when_the_last_reference_goes():
    reference = sparkray.put(np.zeros(2_000_000))
    wait_until(lambda: used_bytes() >= 16_000_000, 60, "the store reports the object")
    copy = reference
    del reference
    gc.collect()
    assert float(sparkray.get(copy).sum()) == 0.0
    del copy
    gc.collect()
    wait_until(lambda: used_bytes() < 100_000, 60, "the store reports that the object is gone")


def test_memory_is_kept_while_a_view_of_it_lives():
    array = sparkray.get(sparkray.put(np.full(2_000_000, 3.0)))
    gc.collect()
    others = [sparkray.put(np.zeros(2_000_000)) for _ in range(6)]
    assert float(array.sum()) == 6_000_000.0
    del array, others
    gc.collect()
    wait_until(lambda: used_bytes() < 100_000, 60, "the store reports that everything is gone")


def test_results_nobody_waits_for_are_freed():
    @sparkray.remote
    def make():
        return np.zeros(1_000_000)

    sparkray.wait([make.remote() for _ in range(20)], num_returns=20, timeout=60)
    gc.collect()
    wait_until(lambda: used_bytes() < 100_000, 60, "the store reports that the results are gone")


def test_more_than_fits_into_memory_is_spilled_and_restored():
    references = [sparkray.put(np.full(1_000_000, n, dtype=np.float64)) for n in range(16)]  # 128 MB in 64 MiB
    wait_until(lambda: store()["spilled_bytes"] > 0, 60, "the store reports what it spilled")
    assert not files_of_spills(), "volumes have no name: nothing of them can be left"
    for n, reference in enumerate(references):
        array = sparkray.get(reference, timeout=60)
        assert float(array[0]) == n
        assert float(array.sum()) == n * 1e6
    assert store()["capacity_bytes"] == 64 << 20


def test_a_task_whose_argument_was_spilled_gets_it():
    @sparkray.remote
    def total(array):
        return float(array.sum())

    references = [sparkray.put(np.full(1_000_000, n, dtype=np.float64)) for n in range(12)]
    assert sparkray.get([total.remote(reference) for reference in references], timeout=60) == [
        n * 1e6 for n in range(12)
    ]


def test_a_value_larger_than_memory_goes_to_disk():
    array = np.arange(12_000_000, dtype=np.float64)  # 96 MB in 64 MiB
    np.testing.assert_array_equal(sparkray.get(sparkray.put(array), timeout=60), array)
