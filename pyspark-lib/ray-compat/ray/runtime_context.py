"""What a task, actor or driver can ask about itself, by sparkray."""

from typing import Any

from sparkray.runtime_context import *  # noqa: F403
from sparkray.runtime_context import __all__ as __all__


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module 'ray.runtime_context' has no attribute {name!r}")
    raise AttributeError(f"ray.runtime_context.{name} is not there: `ray` is sparkray here, and it lacks that yet")
