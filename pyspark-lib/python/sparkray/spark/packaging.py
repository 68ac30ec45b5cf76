"""Where the files of the sparkray package are."""

from __future__ import annotations

import importlib.resources
import pathlib

from sparkray.spark.errors import SparkSetupError


def jar_path() -> str:
    """The jar with the Spark plugin that the wheel carries.

    Returns:
        Absolute path of ``sparkray.jar``.

    Raises:
        SparkSetupError: the package was installed without its jar.
    """
    path = pathlib.Path(str(importlib.resources.files("sparkray"))) / "_lib" / "sparkray.jar"
    if not path.is_file():
        raise SparkSetupError(
            f"{path} is missing: this sparkray was installed without its jar; install the wheel that `make wheel` makes"
        )
    return str(path)
