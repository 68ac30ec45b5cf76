"""Amounts of memory on this machine."""

from __future__ import annotations

from typing import Any

from sparkray._private.memory import parse_memory

# Ray's share of the memory for objects.
STORE_SHARE = 0.3
STORE_LEAST = 1 << 20


def parse_bytes(name: str, value: Any) -> int:
    """Bytes from an int, or from a string with a unit such as "512m" or "2g".

    Raises:
        ValueError: a string without a unit, with an unknown one, or a fraction; the message names `name`.
        TypeError: neither int nor string.
    """
    if isinstance(value, str):
        return parse_memory(value, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is a number of bytes or a string such as '2g', not a {type(value).__name__}")
    if value != int(value) or value < 0:
        raise ValueError(f"{name} is a whole number of bytes, not {value}")
    return int(value)
