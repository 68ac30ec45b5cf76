"""Starts Spark with sparkray attached: ``init_spark_on_yarn`` and ``init_spark_on_local``.

Everything that can be wrong is looked for before anything is started.
"""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sparkray.spark import driver_log, environment, gateway, hadoop, java, packaging
from sparkray.spark.errors import SparkSetupError
from sparkray.spark.spark_conf import Files, accept_arguments, build_local_conf, build_spark_conf, split_files

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

    The Python environment of the executors is ``penv_archive``, or else the running virtual environment, which is
    packed and shipped. Between Spark's processes authentication and encryption are on, unless ``conf`` says
    ``spark.authenticate`` or ``spark.network.crypto.enabled`` is false. Dynamic allocation is off unless ``conf`` turns
    it on. Returns when all executors are there, or when Spark gives up waiting for them
    (``spark.scheduler.maxRegisteredResourcesWaitingTime``).

    Arguments:
        hadoop_conf: directory of the Hadoop client configuration; None for that in HADOOP_CONF_DIR.
        conda_name: name of a conda environment. Not there yet (docs/STATUS.md): None, or anything with penv_archive.
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

    Returns:
        The SparkContext, for ``RayContext(sc)``.

    Raises:
        SparkSetupError: something is wrong with the arguments, the environment or this machine.
        ClusterUnreachableError: the ResourceManager or the NameNode does not answer.
        ValueError: a memory size cannot be read.
        TypeError: an argument is missing or not known.

    Upstream name: ``zoo.init_spark_on_yarn``, ``bigdl.dllib.nncontext.init_spark_on_yarn``.
    """
    accepted = accept_arguments(init_spark_on_yarn, unknown, {"num_executor": "num_executors"})
    if "num_executors" in accepted:
        if num_executors is not None:
            raise TypeError("init_spark_on_yarn() got num_executors and its old spelling num_executor: pass one of them")
        num_executors = accepted["num_executors"]
    if num_executors is None or executor_cores is None:
        missing = "num_executors" if num_executors is None else "executor_cores"
        raise TypeError(f"init_spark_on_yarn() needs {missing}")
    _check_log_level(spark_log_level)
    _check_conda_name(conda_name, penv_archive)
    _check_files(penv_archive=penv_archive, additional_archive=additional_archive, jars=jars)
    _check_files(py_files=py_files, extra_python_lib=extra_python_lib)

    def build(archive: str, log_options: str | None) -> dict[str, str]:
        return build_spark_conf(
            num_executors=num_executors,
            executor_cores=executor_cores,
            executor_memory=executor_memory,
            driver_cores=driver_cores,
            driver_memory=driver_memory,
            extra_executor_memory_for_ray=extra_executor_memory_for_ray,
            environment_archive=archive,
            driver_python=sys.executable,
            plugin_jar=packaging.jar_path(),
            additional_archive=additional_archive,
            extra_python_lib=extra_python_lib,
            py_files=py_files,
            jars=jars,
            spark_yarn_archive=spark_yarn_archive,
            log_options=log_options,
            conf=conf,
        )

    build(penv_archive or "checked-first.tar.gz", None)
    conf_dir = hadoop.find_conf_dir(hadoop_conf)
    _check_machine()
    hadoop.check_reachable(conf_dir)
    archive = penv_archive or environment.pack_environment()
    return _start(
        lambda log_options: build(archive, log_options),
        spark_log_level,
        redirect_spark_log,
        {**_yarn_environment(conf_dir, hadoop_user_name)},
    )
