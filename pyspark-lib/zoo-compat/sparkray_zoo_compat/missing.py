"""Says what is the matter when a program imports a part of Analytics Zoo or BigDL that is not here."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from typing import Any


class _MissingModules(MetaPathFinder):
    """Asked last, when nobody has found a module."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        package = fullname.partition(".")[0]
        if package in ("zoo", "bigdl") and package != fullname:
            # Not a ModuleNotFoundError, which `from zoo import x` would replace by a sentence of its own.
            raise ImportError(
                f"{fullname} is not there: `{package}` is of sparkray-zoo-compat here, which has only what starts Ray "
                "on Spark; docs/migrating.md has its names, and what to use for others",
                name=fullname,
            )


def explain_missing_modules() -> None:
    """Has imports that fail say so. A second call does nothing."""
    if not any(isinstance(finder, _MissingModules) for finder in sys.meta_path):
        sys.meta_path.append(_MissingModules())
