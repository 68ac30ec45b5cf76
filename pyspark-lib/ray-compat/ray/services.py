"""The module of old Ray versions (before 1.0) that programs took `get_node_ip_address` from."""

from typing import Any

from sparkray.util import get_node_ip_address

__all__ = ["get_node_ip_address"]


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module 'ray.services' has no attribute {name!r}")
    raise AttributeError(f"ray.services.{name} is not there: `ray` is sparkray here, and it lacks that yet")
