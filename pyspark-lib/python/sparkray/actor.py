"""Types around actors (Ray: ray.actor)."""

from __future__ import annotations

from sparkray._private.actor import ActorClass, ActorHandle, ActorMethod, exit_actor, method

__all__ = ["ActorClass", "ActorHandle", "ActorMethod", "exit_actor", "method"]
