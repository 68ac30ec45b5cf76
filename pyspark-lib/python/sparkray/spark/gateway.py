"""pyspark's Java gateway: started for one SparkContext, ended with it.

A gateway outlives the SparkContext that it was started for, and what is set for the next one (memory, jars, the
Hadoop configuration, Java's options) is read only when a gateway starts. So a gateway left behind is ended first.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sparkray.spark import interruptible, spark_defaults, yarn_start
from sparkray.spark.errors import SparkSetupError, SparkStartError
from sparkray.spark.java_errors import one_line

END_SECONDS = 10.0
LAUNCH_SECONDS = 30.0
# These go to spark-submit as options. As settings, SparkContext would read them a second time and send the files to
# the executors through the driver too, over what YARN has already put into the containers.
_OPTIONS = {"spark.jars": "--jars", "spark.archives": "--archives", "spark.submit.pyFiles": "--py-files"}


def check_no_context() -> None:
    """Raises SparkSetupError when this process has a SparkContext, or a gateway that is not its own."""
    from pyspark import SparkContext

    active: Any = SparkContext._active_spark_context
    process: Any = getattr(SparkContext._gateway, "proc", None)
    if active is not None and process is not None and process.poll() is not None:
        # Its Java is gone, and nothing but this process still calls it a SparkContext.
        _forget_context(active)
        active = None
    if active is not None:
        raise SparkSetupError(
            f"this process has a SparkContext already ({active.applicationId} on {active.master}): "
            "stop it first, or pass it to RayContext"
        )
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        raise SparkSetupError(
            "Spark's Java was started before this program (by spark-submit or pyspark), so its settings cannot be "
            "changed any more: pass its session to RayContext, RayContext(SparkSession.builder.getOrCreate()); or run "
            "the program with plain python, or restart the notebook's kernel with a Python kernel"
        )


def end_gateway() -> None:
    """Ends the Java process that an earlier SparkContext left behind, if there is one."""
    from pyspark import SparkContext

    gateway: Any = SparkContext._gateway
    SparkContext._gateway = None
    SparkContext._jvm = None
    if gateway is not None:
        _end(gateway)


def _end(gateway: Any) -> None:
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


def start_context(
    conf: Mapping[str, str],
    environment: Mapping[str, str | None],
    prepare: Callable[[Any], Mapping[str, str]] | None = None,
) -> Any:
    """Starts a gateway and a SparkContext, or leaves neither behind, nor an application on YARN.

    On YARN it returns when the executors are there, and shows where the application is meanwhile.

    Arguments:
        conf: the whole Spark configuration.
        environment: variables for Spark's Java and for the start of the context; None removes one. Those of this
            process are as before when the call ends.
        prepare: called with Spark's Java before there is a SparkContext; returns settings that hold over conf.

    Returns:
        The SparkContext.

    Raises:
        SparkSetupError: there is a SparkContext already.
        SparkStartError: Spark did not start, with its reason.
    """
    from pyspark import SparkConf, SparkContext

    check_no_context()
    end_gateway()
    _forget_interrupt_handler()
    tag = None
    if conf.get("spark.master") == "yarn":
        conf, tag = yarn_start.with_tag(conf)
    spark_conf = SparkConf(loadDefaults=False)
    for key, value in conf.items():
        if key not in _OPTIONS:
            spark_conf.set(key, value)
    with changed_environment(environment):
        watch = None
        try:
            gateway = _launch(conf)
            SparkContext._gateway, SparkContext._jvm = gateway, gateway.jvm
            if prepare is not None:
                for key, value in prepare(gateway.jvm).items():
                    spark_conf.set(key, value)
            if tag is not None:
                watch = yarn_start.StartWatch(gateway.jvm, conf, tag)
                watch.begin()
            context = SparkContext(conf=spark_conf, gateway=gateway)
            if watch is not None:
                watch.end()
                watch.wait_for_executors(context)
                watch.close()
            return context
        except Exception as error:
            # The text of a Java exception is fetched from Java when it is asked for: before the gateway ends.
            reason, trace = one_line(error), traceback.format_exc()
            _abandon(watch)
            if watch is not None and watch.failure is not None:
                reason = watch.failure
            raise SparkStartError(f"Spark did not start: {reason}") from RuntimeError(trace)
        except BaseException:
            _abandon(watch)
            raise


def _launch(conf: Mapping[str, str]) -> Any:
    """Starts Spark's Java; also when it is interrupted, none is left.

    The settings are in a file that only this user can read, and only until Java runs: a command line can be read by
    everyone on this machine, and settings may be secrets.
    """
    from pyspark.java_gateway import launch_gateway

    with tempfile.TemporaryDirectory(prefix="sparkray-conf-") as directory:
        path = os.path.join(directory, "spark.conf")
        with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
            file.write(spark_defaults.read_text())
            file.write(spark_defaults.to_properties({k: v for k, v in conf.items() if k not in _OPTIONS}))
        arguments = shlex.join(["--properties-file", path]) + " " + submit_arguments(conf)
        with changed_environment({"PYSPARK_SUBMIT_ARGS": arguments}):
            launching = interruptible.Call(launch_gateway, "sparkray-launch")
            try:
                return launching.result()
            except BaseException:
                if launching.join(LAUNCH_SECONDS):
                    with contextlib.suppress(Exception):
                        _end(launching.result())
                raise


def _abandon(watch: yarn_start.StartWatch | None) -> None:
    from pyspark import SparkContext

    try:
        if watch is not None:
            watch.abort()
    finally:
        _forget_context(SparkContext._active_spark_context)
        end_gateway()


def _forget_context(context: Any) -> None:
    """What SparkContext.stop() does on Python's side, without Java."""
    from pyspark import SparkContext

    SparkContext._active_spark_context = None
    if context is None:
        return
    context._jsc = None
    server = getattr(context, "_accumulatorServer", None)
    if server is not None:
        server.shutdown()


def _forget_interrupt_handler() -> None:
    """pyspark's handler of SIGINT stays when its SparkContext goes, and then raises something else than it should."""
    handler = signal.getsignal(signal.SIGINT)
    is_pyspark = getattr(handler, "__module__", "") == "pyspark.context"
    if is_pyspark and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
