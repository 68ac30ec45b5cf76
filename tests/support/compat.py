"""The packages with the names of others (`ray`, `zoo`, `bigdl`) for the tests: installed, or from the source tree."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

_PACKAGES = Path(__file__).parents[2] / "pyspark-lib"
_FOLDERS = {"ray": _PACKAGES / "ray-compat", "zoo": _PACKAGES / "zoo-compat"}


@contextlib.contextmanager
def importable(*names: str) -> Iterator[None]:
    """Puts those on the module path that are not installed: here, and in drivers that are started meanwhile.

    Arguments:
        names: ``"ray"``; ``"zoo"`` for `zoo` and `bigdl`.
    """
    added = [
        str(_FOLDERS[name]) for name in names if not any((Path(entry) / name).is_dir() for entry in sys.path if entry)
    ]
    sys.path.extend(added)
    try:
        yield
    finally:
        for entry in added:
            sys.path.remove(entry)
