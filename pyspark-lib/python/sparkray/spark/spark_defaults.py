"""conf/spark-defaults.conf of this machine's Spark, and settings written in its form."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Mapping

_LINE = re.compile(r"([^\s=:#!][^\s=:]*)\s*[=:\s]\s*(.*)")


def read_text() -> str:
    """The file as it is, ending with a new line; empty when there is none."""
    directory = os.environ.get("SPARK_CONF_DIR")
    if not directory:
        from pyspark.find_spark_home import _find_spark_home

        directory = os.path.join(_find_spark_home(), "conf")
    path = pathlib.Path(directory) / "spark-defaults.conf"
    return path.read_text(encoding="utf-8", errors="replace") + "\n" if path.is_file() else ""


def read() -> dict[str, str]:
    """The settings in it."""
    lines = (_LINE.fullmatch(line.strip()) for line in read_text().splitlines())
    return {match[1]: match[2].strip() for match in lines if match is not None}


def to_properties(settings: Mapping[str, str]) -> str:
    """Settings as Java reads properties: one line each."""
    return "".join(f"{_escaped(key, key=True)}={_escaped(value)}\n" for key, value in settings.items())


def _escaped(text: str, key: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    if key:
        return re.sub(r"([ =:#!])", r"\\\1", text)
    return re.sub(r"^ ", r"\\ ", text)
