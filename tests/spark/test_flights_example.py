"""The parts of examples/flights that need no cluster."""

from __future__ import annotations

import data
import numpy as np
import pyarrow
import pytest

parameter_server = pytest.importorskip("parameter_server", reason="needs `import ray`")


def exact_area(scores: np.ndarray, labels: np.ndarray) -> float:
    differences = scores[labels == 1][:, None] - scores[labels == 0][None, :]
    return float((differences > 0).mean() + (differences == 0).mean() / 2)


def test_area_under_curve_from_bins_is_the_exact_one():
    random = np.random.default_rng(7)
    bins = parameter_server.BINS
    labels = random.integers(0, 2, 500)
    positions = np.minimum(random.integers(0, bins, 500) + labels * bins // 5, bins - 1)
    counts = np.stack([np.bincount(positions[labels == label], minlength=bins) for label in (0, 1)])

    assert parameter_server.area_under_curve(counts) == pytest.approx(exact_area(positions, labels), abs=1e-12)


def test_area_under_curve_counts_a_tie_half():
    counts = np.array([[0, 4, 0], [0, 9, 0]])

    assert parameter_server.area_under_curve(counts) == 0.5


def test_each_category_has_weights_of_its_own_after_the_constant():
    columns = (("a", "b"), {"x": 3, "y": 2})
    block = pyarrow.table({"x": pyarrow.array([0, 2], pyarrow.int32()), "y": pyarrow.array([0, 1], pyarrow.int32())})

    assert parameter_server.count_weights(columns) == 8
    assert parameter_server.read_codes(block, columns).tolist() == [[3, 6], [5, 7]]


def test_every_flight_is_there_with_its_nulls():
    flights = data.read_table("flights")

    assert flights.num_rows == data.FLIGHTS
    assert len(flights.column_names) == 20
    assert flights["flight_id"].to_numpy().tolist() == list(range(data.FLIGHTS))
    assert flights["arr_delay"].null_count == 9430
    assert flights["tailnum"].null_count == 2512
