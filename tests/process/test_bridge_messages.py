"""Messages that Java carries between Python and the native library: their bytes, and bytes that are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sparkray import _native

FIELD_CUT_OFF = b"\x0a\x05\x01"


@pytest.mark.parametrize(
    ("decode", "name"),
    [
        (_native.decode_feed_report, "FeedReport"),
        (_native.decode_table_schemas, "TableSchemas"),
        (_native.decode_init_result, "InitResult"),
        (_native.decode_status, "Status"),
        (_native.decode_stop_result, "StopResult"),
    ],
)
def test_bytes_that_are_no_message_are_refused_with_its_name(decode: Callable[[bytes], Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"cannot read {name}: "):
        decode(FIELD_CUT_OFF)


def test_partitions_are_packed_as_java_reads_them() -> None:
    assert _native.encode_feed_partitions([3, 270, 86942]) == bytes.fromhex("0a06038e029ea705")


def test_nothing_is_a_message_without_fields() -> None:
    assert _native.decode_feed_report(b"") == []
    assert _native.decode_table_schemas(b"") == []
    assert _native.decode_stop_result(b"") == []
    status = _native.decode_status(b"")
    assert (status["failure"], status["nodes"], status["driver_node"]) == (None, [], None)


def test_a_request_has_all_its_fields_and_no_other() -> None:
    request: dict[str, Any] = {
        "cluster_id": "",
        "expected_nodes": 1,
        "node_cpus": 1,
        "node_resources": {},
        "object_store_bytes": 0,
        "driver_cpus": 0,
        "worker_env": {},
        "python": "python3",
        "driver_python": "python3",
        "python_version": "3.11.7",
        "sparkray_version": "0",
    }
    assert _native.encode_init_request(**request)
    with pytest.raises(TypeError, match="colour"):
        _native.encode_init_request(**{**request, "colour": "red"})
    del request["expected_nodes"]
    with pytest.raises(TypeError, match="expected_nodes"):
        _native.encode_init_request(**request)
