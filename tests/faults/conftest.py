"""The clusters of tests/process and what must hold after each of them, for tests that make trouble."""

from __future__ import annotations

from process.conftest import (
    _clean_afterwards,
    _recorded_clusters,
    cluster,
    pytest_configure,
    pytest_runtest_makereport,
)

__all__ = ["_clean_afterwards", "_recorded_clusters", "cluster", "pytest_configure", "pytest_runtest_makereport"]
