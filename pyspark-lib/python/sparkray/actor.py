"""Types around actors (Ray: ray.actor)."""

from __future__ import annotations

from sparkray._private.actor import ActorClass, ActorHandle, ActorMethod, method

__all__ = ["ActorClass", "ActorHandle", "ActorMethod", "method"]
