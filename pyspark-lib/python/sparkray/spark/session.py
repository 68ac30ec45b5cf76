"""Starts Spark with sparkray attached: ``init_spark_on_yarn`` and ``init_spark_on_local``.

Everything that can be wrong is looked for before anything is started.
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sparkray.spark import (
    cluster_cache,
    conda_environment,
    driver_log,
    environment,
    gateway,
    hadoop,
    java,
    packaging,
    spark_defaults,
)
from sparkray.spark.errors import SparkSetupError
from sparkray.spark.spark_conf import (
    ENVIRONMENT_NAME,
    Files,
    accept_arguments,
    build_local_conf,
    build_spark_conf,
    split_files,
    with_driver_java_option,
)

if TYPE_CHECKING:
    from pyspark import SparkContext


def init_spark_on_yarn(
    hadoop_conf: str | os.PathLike[str] | None,
    conda_name: str | None = None,
    num_executors: int | None = None,
    executor_cores: int | None = None,
    executor_memory: str = "2g",
    driver_cores: int = 4,
    driver_memory: str = "2g",
    extra_executor_memory_for_ray: str | None = None,
    extra_python_lib: Files = None,
    penv_archive: str | None = None,
    additional_archive: Files = None,
    hadoop_user_name: str | None = None,
    spark_yarn_archive: str | None = None,
    spark_log_level: str = "WARN",
    redirect_spark_log: bool = True,
    jars: Files = None,
    conf: Mapping[str, Any] | None = None,
    py_files: Files = None,
    **unknown: Any,
) -> SparkContext:
    """Starts Spark on YARN in client mode, with sparkray's plugin on every executor.

    The Python environment of the executors is ``penv_archive``, or else the conda environment ``conda_name``, or else
    the running virtual or conda environment, which is packed and shipped. What was packed is kept on the cluster's file
    system, in ``spark.ray.environment.cache``, so that a second start uploads nothing. Between Spark's processes
    authentication and encryption are on, unless ``conf`` says ``spark.authenticate`` or
    ``spark.network.crypto.enabled`` is false. Dynamic allocation is off unless ``conf`` turns it on.

    Where the application is, is shown on standard error while it starts. Returns when all executors are there. Without
    a place in the queue for ``spark.ray.start.timeout`` (600 s) the application is ended. Executors are waited for
    during ``spark.scheduler.maxRegisteredResourcesWaitingTime`` (120 s) from when it runs: with some of them the call
    returns with a warning, with none the application is ended. When the call raises, also on Ctrl-C, no application is
    left.

    Arguments:
        hadoop_conf: directory of the Hadoop client configuration; None for that in HADOOP_CONF_DIR.
        conda_name: name of a conda environment with the Python and the sparkray of this program; needs conda-pack
            (``pip install sparkray[conda]``). Not looked at when there is a penv_archive.
        num_executors: number of executors; the old spelling ``num_executor`` is accepted.
        executor_cores: cores of one executor.
        executor_memory: heap of one executor, with a unit: ``"2g"`` is 2 GiB (so for all memory here).
        driver_cores: cores of the driver.
        driver_memory: heap of the driver's JVM.
        extra_executor_memory_for_ray: memory of one executor's container for the object store and the workers. It is
            added to the memory overhead, which is Spark's own or ``spark.executor.memoryOverhead`` of ``conf``.
        extra_python_lib: Python files or archives for driver and executors: a list, or text with commas.
        penv_archive: packed environment (.tar.gz, .tgz or .zip; local or ``hdfs://``) with bin/python at its top.
        additional_archive: more archives to unpack on executors, each ``path`` or ``path#name``.
        hadoop_user_name: the user on a cluster without Kerberos; None leaves it to HADOOP_USER_NAME or the system.
        spark_yarn_archive: archive with Spark's jars in HDFS, ``spark.yarn.archive``: spares their upload.
        spark_log_level: level of Spark's log in the driver.
        redirect_spark_log: whether the log of the driver's JVM goes to a file, whose name is printed, and not to the
            console.
        jars: more jars for driver and executors.
        conf: more Spark settings. ``spark.archives``, ``spark.jars``, ``spark.plugins`` and ``spark.submit.pyFiles``
            are added to; what an argument says may not be said otherwise here.
        py_files: more Python files or archives, ahead of extra_python_lib.
        unknown: old spellings; anything else is refused with what may have been meant.

    Returns:
        The SparkContext, for ``RayContext(sc)``.

    Raises:
        SparkSetupError: something is wrong with the arguments, the environment or this machine.
        ClusterUnreachableError: the ResourceManager or the NameNode does not answer.
        SparkStartError: Spark did not start, or not in time, with its reason.
        ValueError: a memory size cannot be read.
        TypeError: an argument is missing or not known.

    Upstream name: ``zoo.init_spark_on_yarn``, ``bigdl.dllib.nncontext.init_spark_on_yarn``.
    """
    accepted = accept_arguments(init_spark_on_yarn, unknown, {"num_executor": "num_executors"})
    if "num_executors" in accepted:
        if num_executors is not None:
            raise TypeError("init_spark_on_yarn() got num_executors and num_executor, its old spelling: pass one")
        num_executors = accepted["num_executors"]
    if num_executors is None or executor_cores is None:
        missing = "num_executors" if num_executors is None else "executor_cores"
        raise TypeError(f"init_spark_on_yarn() needs {missing}")
    _check_log_level(spark_log_level)
    _check_files(penv_archive=penv_archive, additional_archive=additional_archive, jars=jars)
    _check_files(py_files=py_files, extra_python_lib=extra_python_lib)
    build = functools.partial(
        build_spark_conf,
        num_executors=num_executors,
        executor_cores=executor_cores,
        executor_memory=executor_memory,
        driver_cores=driver_cores,
        driver_memory=driver_memory,
        extra_executor_memory_for_ray=extra_executor_memory_for_ray,
        driver_python=sys.executable,
        plugin_jar=packaging.jar_path(),
        additional_archive=additional_archive,
        extra_python_lib=extra_python_lib,
        py_files=py_files,
        jars=jars,
        spark_yarn_archive=spark_yarn_archive,
        conf=conf,
    )
    # Says what is wrong with the arguments before the environment is packed.
    build(environment_archive=penv_archive or f"{ENVIRONMENT_NAME}.tar.gz")
    conf_dir = hadoop.find_conf_dir(hadoop_conf)
    prefix = conda_environment.find_prefix(conda_name) if conda_name and not penv_archive else None
    _check_machine()
    hadoop.check_reachable(conf_dir)
    archive, prepare = penv_archive, None
    if not archive:
        archive = environment.pack_environment(prefix)
        prepare = functools.partial(cluster_cache.place, archive=archive)
    variables: dict[str, str | None] = {
        "HADOOP_CONF_DIR": conf_dir,
        "YARN_CONF_DIR": None,
        "PYSPARK_PYTHON": f"{ENVIRONMENT_NAME}/bin/python",
    }
    if hadoop_user_name:
        variables["HADOOP_USER_NAME"] = hadoop_user_name
    context = _start(build(environment_archive=archive), variables, spark_log_level, redirect_spark_log, prepare)
    # As upstream does: the program's own Hadoop tools find the same cluster.
    os.environ["HADOOP_CONF_DIR"] = conf_dir
    return context


def init_spark_on_local(
    cores: int | str = 2,
    conf: Mapping[str, Any] | None = None,
    python_location: str | None = None,
    spark_log_level: str = "WARN",
    redirect_spark_log: bool = True,
    memory: str = "2g",
    jars: Files = None,
    py_files: Files = None,
    extra_python_lib: Files = None,
    **unknown: Any,
) -> SparkContext:
    """Starts Spark on this machine, driver and executor in one JVM, with sparkray's plugin.

    Arguments:
        cores: cores of the executor; ``"*"`` for all of the machine.
        conf: more Spark settings; ``spark.master`` may be another local one, such as ``local-cluster[2,1,1024]``.
        python_location: only None, or the running interpreter: the workers run what the program runs.
        spark_log_level: level of Spark's log.
        redirect_spark_log: whether Spark's log goes to a file, whose name is printed, and not to the console.
        memory: heap of the JVM, with a unit: ``"2g"`` is 2 GiB.
        jars: more jars.
        py_files: more Python files or archives.
        extra_python_lib: as py_files, after them.
        unknown: refused, with what may have been meant.

    Returns:
        The SparkContext, for ``RayContext(sc)``.

    Raises:
        SparkSetupError: something is wrong with the arguments or this machine.
        SparkStartError: Spark did not start, with its reason.
        ValueError: a memory size cannot be read.
        TypeError: an argument is not known.

    Upstream name: ``zoo.init_spark_on_local``, ``bigdl.dllib.nncontext.init_spark_on_local``.
    """
    accept_arguments(init_spark_on_local, unknown, {})
    if conf is not None and not isinstance(conf, Mapping):
        raise TypeError(f"conf is a dictionary of Spark settings, not {conf!r}; memory= has to be named")
    if python_location is not None and os.path.abspath(python_location) != sys.executable:
        raise SparkSetupError(
            f"python_location={python_location!r}: the workers run the interpreter of this program, {sys.executable}; "
            "start the program with the other one"
        )
    _check_log_level(spark_log_level)
    _check_files(jars=jars, py_files=py_files, extra_python_lib=extra_python_lib)
    spark_conf = build_local_conf(
        cores=cores,
        memory=memory,
        driver_python=sys.executable,
        plugin_jar=packaging.jar_path(),
        extra_python_lib=extra_python_lib,
        py_files=py_files,
        jars=jars,
        conf=conf,
    )
    _check_machine()
    variables: dict[str, str | None] = {"PYSPARK_PYTHON": sys.executable}
    return _start(spark_conf, variables, spark_log_level, redirect_spark_log)


def _start(
    conf: Mapping[str, str],
    variables: Mapping[str, str | None],
    spark_log_level: str,
    redirect_spark_log: bool,
    prepare: Callable[[Any], Mapping[str, str]] | None = None,
) -> SparkContext:
    if os.environ.get("PYSPARK_SUBMIT_ARGS"):
        warnings.warn("PYSPARK_SUBMIT_ARGS is not used: pass conf=, jars= and py_files= instead", stacklevel=3)
    if redirect_spark_log:
        log, option = driver_log.redirect_driver_log(spark_log_level)
        conf = with_driver_java_option(conf, option, spark_defaults.read())
        print(f"Spark's log is {log}", file=sys.stderr, flush=True)
    context: SparkContext = gateway.start_context(conf, variables, prepare)
    context.setLogLevel(spark_log_level.upper())
    return context


def _check_machine() -> None:
    """What must be so before any Spark is started here."""
    try:
        import pyspark
    except ImportError as error:
        raise SparkSetupError(f"pyspark cannot be imported ({error}): pip install 'pyspark>=3.5,<3.6'") from error
    java.check_java(pyspark.__version__)
    gateway.check_no_context()


def _check_log_level(level: str) -> None:
    if level.upper() not in driver_log.LEVELS:
        raise SparkSetupError(f"spark_log_level={level!r} is not one of {', '.join(driver_log.LEVELS)}")


def _check_files(**arguments: Files) -> None:
    """Local files must exist; what has another scheme than file: is Spark's to find."""
    for name, files in arguments.items():
        for file in split_files(files):
            scheme, separator, rest = file.partition(":")
            if separator and scheme != "file":
                continue
            path = (rest if separator else file).partition("#")[0]
            if not os.path.exists(path) and "*" not in path:
                raise SparkSetupError(f"{name}: there is no file {path}")
