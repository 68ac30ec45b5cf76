"""The Java that Spark will run on, checked before Spark is started."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping

from sparkray.spark.errors import SparkSetupError

VERSION_SECONDS = 20.0
# Oldest and newest Java for each major version of Spark: Spark 3's Hadoop client needs what Java 24 took away.
_SUPPORTED = {3: (8, 23, "8, 11 or 17"), 4: (17, 99, "17 or 21")}
_VERSION = re.compile(r'version "(?:1\.)?(\d+)')


def check_java(spark_version: str, environ: Mapping[str, str] = os.environ) -> int:
    """Finds Java as Spark's scripts do and asks it for its version.

    Arguments:
        spark_version: the version of pyspark, such as ``"3.5.9"``.
        environ: where JAVA_HOME and PATH are looked for.

    Returns:
        Java's major version.

    Raises:
        SparkSetupError: there is no Java, it does not run, or it is too old or too new for this Spark.
    """
    java = _find(environ)
    oldest, newest, recommended = _SUPPORTED.get(int(spark_version.split(".")[0]), _SUPPORTED[4])
    version = _version(java)
    if not oldest <= version <= newest:
        age = "old" if version < oldest else "new"
        raise SparkSetupError(
            f"{java} is Java {version}, too {age} for Spark {spark_version}: set JAVA_HOME to a JDK {recommended}"
        )
    return version


def _find(environ: Mapping[str, str]) -> str:
    home = environ.get("JAVA_HOME")
    if home:
        java = os.path.join(home, "bin", "java")
        if not os.access(java, os.X_OK):
            raise SparkSetupError(f"JAVA_HOME is {home}, but there is no {java}: set JAVA_HOME to a JDK 8, 11 or 17")
        return java
    found = shutil.which("java", path=environ.get("PATH"))
    if found is None:
        raise SparkSetupError("no Java: install a JDK 8, 11 or 17 and set JAVA_HOME, or put java on PATH")
    return found


def _version(java: str) -> int:
    try:
        answer = subprocess.run(
            [java, "-version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=VERSION_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SparkSetupError(f"{java} does not run: {error}") from error
    match = _VERSION.search(answer.stdout)
    if answer.returncode != 0 or match is None:
        lines = answer.stdout.strip().splitlines() or ["no output"]
        raise SparkSetupError(f"{java} -version does not say its version: {lines[0]}")
    return int(match[1])
