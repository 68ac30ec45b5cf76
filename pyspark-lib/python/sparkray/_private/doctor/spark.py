"""Spark and the Java that it runs on. sparkray works without them on one machine, by `sparkray.init()`."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import re
from collections.abc import Mapping

from sparkray._private.doctor.finding import Finding, error, ok, warning
from sparkray.spark import java

_VERSION = re.compile(r"""__version__[^=]*=\s*["']([^"']+)["']""")
_CORE_JAR = re.compile(r"spark-core_[\d.]+-(.+)\.jar")
_OLDEST = (3, 5)
# Which Spark Java is held against when there is none.
_USUAL = "3.5.0"
_INSTALL = "pip install 'pyspark==3.5.*'"


def examine(environ: Mapping[str, str]) -> list[Finding]:
    """Looks at Spark and Java."""
    pyspark = version_of_pyspark()
    home = environ.get("SPARK_HOME")
    version = (version_of_home(pathlib.Path(home)) if home else None) or pyspark
    return [check_java(version, environ), check_spark(pyspark, home)]


def version_of_pyspark() -> str | None:
    """Of the pyspark that would be imported, without importing it; None: there is none."""
    spec = importlib.util.find_spec("pyspark")
    if spec is None or not spec.submodule_search_locations:
        return None
    for directory in spec.submodule_search_locations:
        file = pathlib.Path(directory, "version.py")
        found = _VERSION.search(file.read_text(errors="replace")) if file.is_file() else None
        if found is not None:
            return found[1]
    return None


def version_of_home(home: pathlib.Path) -> str | None:
    """Of the Spark in a directory; None: there is none."""
    for path in sorted(home.glob("jars/spark-core_*.jar")):
        found = _CORE_JAR.fullmatch(path.name)
        if found is not None:
            return found[1]
    return None


def check_java(spark: str | None, environ: Mapping[str, str] = os.environ) -> Finding:
    """Java against what Spark needs.

    Args:
        spark: version of Spark; None: there is none, so that nothing needs Java yet.
        environ: where JAVA_HOME and PATH are looked for.
    """
    try:
        version = java.check_java(spark or _USUAL, environ)
    except java.JavaError as problem:
        return Finding("java", "error" if spark else "warning", problem.problem, problem.fix)
    fits = f", which Spark {spark} takes" if spark else ""
    return ok("java", f"Java {version} at {java.find_java(environ)}{fits}")


def check_spark(pyspark: str | None, home: str | None) -> Finding:
    """Spark's versions.

    Args:
        pyspark: of the module that Python imports; None: there is none.
        home: SPARK_HOME, whose Spark pyspark would start in place of its own; None: it is not set.
    """
    if pyspark is None:
        return warning("spark", "no pyspark: only sparkray.init() on one machine works", _INSTALL)
    started, whose = pyspark, f"pyspark {pyspark}"
    if home:
        found = version_of_home(pathlib.Path(home))
        if found is None:
            advice = "unset SPARK_HOME, or set it to the directory that has Spark's bin and jars"
            return error("spark", f"SPARK_HOME is {home}, and there is no Spark in it", advice)
        if _minor(found) != _minor(pyspark):
            advice = f"unset SPARK_HOME, or pip install 'pyspark=={found}'"
            return error("spark", f"pyspark {pyspark} would start the Spark {found} of SPARK_HOME={home}", advice)
        started, whose = found, f"pyspark {pyspark} with SPARK_HOME={home}"
    if _minor(started) < _OLDEST:
        return error("spark", f"{whose}: sparkray needs Spark 3.5", _INSTALL)
    if _minor(started) != _OLDEST:
        return warning("spark", f"{whose}: sparkray is tested with Spark 3.5, with newer ones only in part", _INSTALL)
    return ok("spark", whose)


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
