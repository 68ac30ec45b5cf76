"""pyspark's Java gateway: started for one SparkContext, ended with it.

A gateway outlives the SparkContext that it was started for, and what is set for the next one (memory, jars, the
Hadoop configuration, Java's options) is read only when a gateway starts. So a gateway left behind is ended first.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from sparkray.spark.errors import SparkSetupError, SparkStartError

END_SECONDS = 10.0
# These go to spark-submit as options. As settings, SparkContext would read them a second time and send the files to
# the executors through the driver too, over what YARN has already put into the containers.
_OPTIONS = {"spark.jars": "--jars", "spark.archives": "--archives", "spark.submit.pyFiles": "--py-files"}


def check_no_context() -> None:
    """Raises SparkSetupError when this process has a SparkContext, or a gateway that is not its own."""
    from pyspark import SparkContext

    active: Any = SparkContext._active_spark_context
    if active is not None:
        raise SparkSetupError(
            f"this process has a SparkContext already ({active.applicationId} on {active.master}): "
            "stop it first, or pass it to RayContext"
        )
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        raise SparkSetupError(
            "Spark's Java was started before this program (by spark-submit or pyspark), so its settings cannot be "
            "changed any more: run the program with plain python, or restart the notebook's kernel with a Python kernel"
        )


def end_gateway() -> None:
    """Ends the Java process that an earlier SparkContext left behind, if there is one."""
    from pyspark import SparkContext

    gateway: Any = SparkContext._gateway
    if gateway is None:
        return
    SparkContext._gateway = None
    SparkContext._jvm = None
    with contextlib.suppress(Exception):  # py4j has many ways to say that the other side is gone.
        gateway.shutdown()
    process: Any = getattr(gateway, "proc", None)
    if process is None:
        return
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def start_context(conf: Mapping[str, str], environment: Mapping[str, str | None]) -> Any:
    """Starts a gateway and a SparkContext, or leaves neither behind.

    Arguments:
        conf: the whole Spark configuration.
        environment: variables for Spark's Java and for the start of the context; None removes one. Those of this
            process are as before when the call ends.

    Returns:
        The SparkContext.

    Raises:
        SparkSetupError: there is a SparkContext already.
        SparkStartError: Spark did not start, with its reason.
    """
    from pyspark import SparkConf, SparkContext

    check_no_context()
    end_gateway()
    spark_conf = SparkConf(loadDefaults=False)
    for key, value in conf.items():
        if key not in _OPTIONS:
            spark_conf.set(key, value)
    with changed_environment({**environment, "PYSPARK_SUBMIT_ARGS": submit_arguments(conf)}):
        try:
            return SparkContext(conf=spark_conf)
        except Exception as error:
            # The text of a Java exception is fetched from Java when it is asked for: before the gateway ends.
            reason, trace = _java_reason(error), traceback.format_exc()
            end_gateway()
            raise SparkStartError(f"Spark did not start: {reason}") from RuntimeError(trace)
        except BaseException:
            end_gateway()
            raise


def _java_reason(error: Exception) -> str:
    java_exception: Any = getattr(error, "java_exception", None)
    try:
        text = str(error) if java_exception is None else str(java_exception.getMessage())
    except Exception:  # Java is gone: its own last words are in its log.
        text = "its Java process ended, see its log"
    return " ".join(text.split())


def submit_arguments(conf: Mapping[str, str]) -> str:
    """The value of PYSPARK_SUBMIT_ARGS: the files to ship, quoted for a shell."""
    options = [part for key, option in _OPTIONS.items() if conf.get(key) for part in (option, conf[key])]
    return shlex.join([*options, "pyspark-shell"])


@contextlib.contextmanager
def changed_environment(environment: Mapping[str, str | None]) -> Iterator[None]:
    """Sets or removes (None) environment variables inside a with statement."""
    before = {name: os.environ.get(name) for name in environment}
    _apply(environment)
    try:
        yield
    finally:
        _apply(before)


def _apply(environment: Mapping[str, str | None]) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
