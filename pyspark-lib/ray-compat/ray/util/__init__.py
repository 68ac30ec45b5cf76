"""Helpers, which are sparkray's."""

from typing import Any

# The module comes before the function of the same name, which is what `ray.util.placement_group` means.
import ray.util.placement_group  # noqa: F401
import sparkray.util
from sparkray.util import *  # noqa: F403
from sparkray.util import __all__ as __all__


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module 'ray.util' has no attribute {name!r}")
    return getattr(sparkray.util, name)
