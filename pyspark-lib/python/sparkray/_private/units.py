"""Amounts of memory on this machine."""

from __future__ import annotations

import contextlib
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


def available_memory() -> int:
    """Bytes that this process may still use: what the kernel has, within the limit of its cgroup."""
    available = 1 << 30
    with contextlib.suppress(OSError), open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    for limit_path, usage_path in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):
            with open(limit_path, encoding="ascii") as limit, open(usage_path, encoding="ascii") as usage:
                available = min(available, max(0, int(limit.read()) - int(usage.read())))
    return available
