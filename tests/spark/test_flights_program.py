"""The demo's program without YARN, as a user runs it."""

from __future__ import annotations

import pytest

from support.flights_program import run_flights, stored_bytes


@pytest.mark.slow
@pytest.mark.parametrize(("master", "nodes"), [("local-cluster", 3), ("local", 1)])
def test_the_flights_run_without_yarn_and_leave_nothing(
    master: str, nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HADOOP_CONF_DIR", raising=False)
    printed = run_flights("--master", master)
    assert [len(amounts) for amounts in stored_bytes(printed)] == [nodes, nodes]
    assert "file:///" in printed and "container_" not in printed
