"""Several nodes on one machine, by sparkray."""

from typing import Any

import sparkray.cluster_utils
from sparkray.cluster_utils import *  # noqa: F403
from sparkray.cluster_utils import __all__ as __all__


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module 'ray.cluster_utils' has no attribute {name!r}")
    return getattr(sparkray.cluster_utils, name)
