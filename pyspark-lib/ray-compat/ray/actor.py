"""Types around actors, which are sparkray's."""

from typing import Any

import sparkray.actor
from sparkray.actor import *  # noqa: F403
from sparkray.actor import __all__ as __all__


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module 'ray.actor' has no attribute {name!r}")
    return getattr(sparkray.actor, name)
