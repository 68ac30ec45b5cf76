"""Types around actors (Ray: ray.actor)."""

from __future__ import annotations

from typing import Any

from sparkray._private.actor import (
    ActorClass,
    ActorClassInheritanceException,
    ActorHandle,
    ActorMethod,
    exit_actor,
    method,
)

__all__ = ["ActorClass", "ActorClassInheritanceException", "ActorHandle", "ActorMethod", "exit_actor", "method"]

_LATER = frozenset({"ActorProxy", "make_actor"})


def __getattr__(name: str) -> Any:
    if name in _LATER:
        raise AttributeError(f"sparkray.actor.{name} is not there yet (docs/STATUS.md lists what is missing)")
    raise AttributeError(f"module 'sparkray.actor' has no attribute {name!r}")
