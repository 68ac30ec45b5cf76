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
_ANOTHER = "set JAVA_HOME to a JDK that works"
_VERSION = re.compile(r'version "(?:1\.)?(\d+)')


class JavaError(SparkSetupError):
    """There is no Java, or not the one that Spark needs.

    Attributes:
        problem: what is wrong.
        fix: what to do about it.
    """

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem}: {fix}")
        self.problem = problem
        self.fix = fix


def check_java(spark_version: str, environ: Mapping[str, str] = os.environ) -> int:
    """Finds Java as Spark's scripts do and asks it for its version.

    Arguments:
        spark_version: the version of pyspark, such as ``"3.5.9"``.
        environ: where JAVA_HOME and PATH are looked for.

    Returns:
        Java's major version.

    Raises:
        JavaError: there is no Java, it does not run, or it is too old or too new for this Spark.
    """
    java = find_java(environ)
    oldest, newest, recommended = _SUPPORTED.get(int(spark_version.split(".")[0]), _SUPPORTED[4])
    version = _version(java)
    if not oldest <= version <= newest:
        age = "old" if version < oldest else "new"
        raise JavaError(
            f"{java} is Java {version}, too {age} for Spark {spark_version}", f"set JAVA_HOME to a JDK {recommended}"
        )
    return version


def find_java(environ: Mapping[str, str]) -> str:
    """The Java that Spark's scripts take.

    Arguments:
        environ: where JAVA_HOME and PATH are looked for.

    Returns:
        Its path.

    Raises:
        JavaError: there is none.
    """
    home = environ.get("JAVA_HOME")
    if home:
        java = os.path.join(home, "bin", "java")
        if not os.access(java, os.X_OK):
            raise JavaError(f"JAVA_HOME is {home}, but there is no {java}", "set JAVA_HOME to a JDK 8, 11 or 17")
        return java
    found = shutil.which("java", path=environ.get("PATH"))
    if found is None:
        raise JavaError("no Java", "install a JDK 8, 11 or 17 and set JAVA_HOME, or put java on PATH")
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
        raise JavaError(f"{java} does not run ({error})", _ANOTHER) from error
    match = _VERSION.search(answer.stdout)
    if answer.returncode != 0 or match is None:
        lines = answer.stdout.strip().splitlines() or ["no output"]
        raise JavaError(f"{java} -version does not say its version ({lines[0]})", _ANOTHER)
    return int(match[1])
