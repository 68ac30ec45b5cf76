"""Ray's exceptions, which are sparkray's."""

from typing import Any

from sparkray.exceptions import *  # noqa: F403
from sparkray.exceptions import __all__ as __all__


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module 'ray.exceptions' has no attribute {name!r}")
    raise AttributeError(f"ray.exceptions.{name} is not there: `ray` is sparkray here, and it lacks that yet")
