"""The default of max_block_bytes: what the tasks of an executor hold fits beside Ray's budget."""

from __future__ import annotations

import types
from typing import Any

import pytest

from sparkray.spark import dataframe
from sparkray.spark.spark_conf import MEMORY_BUDGET, OVERHEAD

MEBI = 1024**2
BUDGET = str(1024 * MEBI)


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({OVERHEAD: "1408m", MEMORY_BUDGET: BUDGET}, 64 * MEBI),
        ({OVERHEAD: "1408", MEMORY_BUDGET: "1g", "spark.executor.cores": "4"}, 48 * MEBI),
        ({OVERHEAD: "384m", "spark.executor.cores": "16"}, 12 * MEBI),
        ({OVERHEAD: "1g", MEMORY_BUDGET: BUDGET}, MEBI),
        ({}, 64 * MEBI),
    ],
)
def test_default_block_size(settings: dict[str, str], limit: int) -> None:
    def context(master: str) -> Any:
        return types.SimpleNamespace(sc=types.SimpleNamespace(master=master, getConf=lambda: settings))

    assert dataframe._default_limit(context("yarn")) == limit
    assert dataframe._default_limit(context("local-cluster[2,4,1024]")) == 64 * MEBI
