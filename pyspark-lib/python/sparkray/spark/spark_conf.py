"""The Spark configuration of an application that carries sparkray. Decides only: no files, no processes."""

from __future__ import annotations

import difflib
import inspect
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sparkray._private.memory import MEBIBYTE, parse_memory, to_mebibytes, to_spark
from sparkray.spark.errors import SparkSetupError

PLUGIN_CLASS = "org.sparkray.RayPlugin"
# Bytes in which the object store and the workers of one executor must fit.
MEMORY_BUDGET = "spark.ray.memory.budget"
OVERHEAD = "spark.executor.memoryOverhead"
# Since Spark 4.0; what the user asks for holds on Spark 3 too.
LEAST_OVERHEAD = "spark.executor.minMemoryOverhead"
# How long an application may wait in YARN's queue; RayConf.java declares it.
START_TIMEOUT = "spark.ray.start.timeout"
# Where packed environments are kept on the cluster; RayConf.java declares it.
ENVIRONMENT_CACHE = "spark.ray.environment.cache"
# The folder in a container's working directory where the environment is unpacked.
ENVIRONMENT_NAME = "python_env"
ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".zip")

_MIN_OVERHEAD = 384 * MEBIBYTE
_OVERHEAD_FACTOR = 0.10
# Spark refuses less: 1.5 times the memory that it reserves for itself.
_MIN_HEAP = 450 * MEBIBYTE
# A container starts when the environment is unpacked on its host, which takes longer than Spark's 30 s at times.
_WAIT_FOR_EXECUTORS = {
    "spark.scheduler.minRegisteredResourcesRatio": "1.0",
    "spark.scheduler.maxRegisteredResourcesWaitingTime": "120s",
}
# On YARN Spark would count the time in the queue too, and say nothing: yarn_start.py waits instead.
_WAIT_ON_YARN = {**_WAIT_FOR_EXECUTORS, "spark.scheduler.minRegisteredResourcesRatio": "0"}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1, "": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
# What an argument of ours says already, by the argument.
_KEYS_OF_ARGUMENTS = {
    "spark.executor.instances": "num_executors",
    "spark.executor.cores": "executor_cores",
    "spark.executor.memory": "executor_memory",
    "spark.driver.cores": "driver_cores",
    "spark.driver.memory": "driver_memory",
}
# Lists that the user's conf may have already: ours are added.
_LIST_KEYS = frozenset({"spark.archives", "spark.jars", "spark.plugins", "spark.submit.pyFiles"})
# The same lists by the names that YARN's client has for them.
_YARN_LIST_KEYS = {
    "spark.yarn.dist.archives": "spark.archives",
    "spark.yarn.dist.jars": "spark.jars",
    "spark.yarn.dist.pyFiles": "spark.submit.pyFiles",
}

Files = str | Iterable[str] | None


def build_spark_conf(
    *,
    num_executors: int,
    executor_cores: int,
    executor_memory: str,
    driver_cores: int,
    driver_memory: str,
    extra_executor_memory_for_ray: str | None,
    environment_archive: str,
    driver_python: str,
    plugin_jar: str | None,
    additional_archive: Files = None,
    extra_python_lib: Files = None,
    py_files: Files = None,
    jars: Files = None,
    spark_yarn_archive: str | None = None,
    conf: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """The configuration for YARN's client mode.

    Arguments: those of ``init_spark_on_yarn``, and
        environment_archive: archive that is unpacked as ``python_env``, with or without ``#python_env``.
        driver_python: path of the driver's interpreter.
        plugin_jar: path of sparkray.jar; None leaves the plugin out.

    Returns:
        Every key to set, in the order of their names.

    Raises:
        SparkSetupError: a value is impossible, or ``conf`` says otherwise than an argument.
        ValueError: a memory size cannot be read.
    """
    heap = parse_heap(executor_memory, "executor_memory")
    user = user_conf(conf)
    result = {
        "spark.master": "yarn",
        "spark.submit.deployMode": "client",
        "spark.executor.instances": str(positive(num_executors, "num_executors")),
        "spark.executor.cores": str(positive(executor_cores, "executor_cores")),
        "spark.executor.memory": to_spark(heap),
        "spark.driver.cores": str(positive(driver_cores, "driver_cores")),
        "spark.driver.memory": to_spark(parse_heap(driver_memory, "driver_memory")),
        "spark.pyspark.python": f"{ENVIRONMENT_NAME}/bin/python",
        "spark.pyspark.driver.python": driver_python,
        "spark.archives": ",".join([_named_archive(environment_archive), *split_files(additional_archive)]),
        "spark.submit.pyFiles": ",".join([*split_files(py_files), *split_files(extra_python_lib)]),
        "spark.jars": ",".join([*([plugin_jar] if plugin_jar else []), *split_files(jars)]),
        "spark.plugins": PLUGIN_CLASS if plugin_jar else "",
        OVERHEAD: f"{_overhead_mebibytes(heap, extra_executor_memory_for_ray, user)}m",
    }
    if extra_executor_memory_for_ray is not None:
        budget = parse_memory(extra_executor_memory_for_ray, "extra_executor_memory_for_ray")
        result[MEMORY_BUDGET] = str(budget)
    if ENVIRONMENT_CACHE in user:
        # Empty is off; what has no value is not handed on to Spark.
        result[ENVIRONMENT_CACHE] = user[ENVIRONMENT_CACHE].strip() or "false"
    if spark_yarn_archive:
        result["spark.yarn.archive"] = spark_yarn_archive
    _check_same(user, result, _KEYS_OF_ARGUMENTS)
    for key in ("spark.master", "spark.submit.deployMode"):
        if user.get(key, result[key]) != result[key]:
            raise SparkSetupError(
                f"conf sets {key}={user[key]}, but init_spark_on_yarn makes it {result[key]}: leave it out of conf"
            )
    if "spark.executorEnv.PYTHONHOME" in user:
        raise SparkSetupError(
            "conf sets spark.executorEnv.PYTHONHOME, with which the shipped environment does not find its packages: "
            "leave it out"
        )
    for key in (START_TIMEOUT, "spark.scheduler.maxRegisteredResourcesWaitingTime"):
        parse_seconds(user.get(key, "0"), key)
    return _merge(result, user, _WAIT_ON_YARN)


def build_local_conf(
    *,
    cores: int | str,
    memory: str,
    driver_python: str,
    plugin_jar: str | None,
    extra_python_lib: Files = None,
    py_files: Files = None,
    jars: Files = None,
    conf: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """The configuration for one machine: driver and executor in one JVM.

    Arguments: those of ``init_spark_on_local`` and of ``build_spark_conf``. ``conf`` may name another local master,
    such as ``local-cluster[2,1,1024]``.

    Returns:
        Every key to set, in the order of their names.

    Raises:
        SparkSetupError, ValueError: as ``build_spark_conf``.
    """
    user = user_conf(conf)
    master = user.get("spark.master", f"local[{cores if cores == '*' else positive(cores, 'cores')}]")
    if not master.startswith("local"):
        raise SparkSetupError(f"conf sets spark.master={master}, which is not local: use init_spark_on_yarn")
    result = {
        "spark.master": master,
        "spark.driver.memory": to_spark(parse_heap(memory, "memory")),
        "spark.pyspark.python": driver_python,
        "spark.pyspark.driver.python": driver_python,
        "spark.submit.pyFiles": ",".join([*split_files(py_files), *split_files(extra_python_lib)]),
        "spark.jars": ",".join([*([plugin_jar] if plugin_jar else []), *split_files(jars)]),
        "spark.plugins": PLUGIN_CLASS if plugin_jar else "",
    }
    _check_same(user, result, {"spark.driver.memory": "memory"})
    defaults: dict[str, str] = {}
    if master.startswith("local-cluster"):
        defaults = dict(_WAIT_FOR_EXECUTORS)
        if user.get("spark.authenticate", "true").lower() == "true":
            # Spark makes a secret of its own for YARN and local[n] only.
            defaults["spark.authenticate.secret"] = secrets.token_hex(32)
    return _merge(result, user, defaults)


def _merge(ours: Mapping[str, str], user: Mapping[str, str], defaults: Mapping[str, str]) -> dict[str, str]:
    """Our keys over the user's, lists of both added up, and what holds unless the user says otherwise."""
    result = {
        "spark.app.name": "sparkray",
        "spark.authenticate": "true",
        "spark.dynamicAllocation.enabled": "false",
        **defaults,
        **user,
    }
    if result["spark.dynamicAllocation.enabled"].lower() != "true":
        # Distributions turn it on in spark-defaults.conf, and it refuses executors that authenticate.
        result.setdefault("spark.shuffle.service.enabled", "false")
    for key, value in ours.items():
        if key in _LIST_KEYS:
            value = ",".join(part for part in (user.get(key, ""), value) if part)
        result[key] = value
    result.setdefault("spark.network.crypto.enabled", result["spark.authenticate"].lower())
    return {key: value for key, value in sorted(result.items()) if value != ""}


def accept_arguments(
    function: Callable[..., Any], unknown: Mapping[str, Any], old_spellings: Mapping[str, str]
) -> dict[str, Any]:
    """What to make of the keywords that a function does not have.

    Arguments:
        function: the public function, for its name and for the keywords that it has.
        unknown: the keywords that were left over.
        old_spellings: earlier names of keywords, with today's.

    Returns:
        The values of keywords in their old spelling, under today's.

    Raises:
        TypeError: a keyword is not known; the message names the one that was probably meant.
    """
    parameters = inspect.signature(function).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
    accepted = {}
    for name, value in unknown.items():
        if name not in old_spellings:
            close = difflib.get_close_matches(name, [*known, *old_spellings], n=1)
            hint = f"; did you mean {old_spellings.get(close[0], close[0])!r}?" if close else ""
            raise TypeError(f"{function.__name__}() has no argument {name!r}{hint}")
        accepted[old_spellings[name]] = value
    return accepted


def user_conf(conf: Mapping[str, Any] | None) -> dict[str, str]:
    """The user's settings as Spark reads them: booleans in lower case, the rest as text, lists under one name."""
    result: dict[str, str] = {}
    for key, value in (conf or {}).items():
        if not isinstance(key, str) or value is None:
            raise SparkSetupError(f"conf has {key!r}: {value!r}; names are text and values are not None")
        text = str(value).lower() if isinstance(value, bool) else str(value)
        key = _YARN_LIST_KEYS.get(key, key)
        if key in _LIST_KEYS and result.get(key):
            text = f"{result[key]},{text}"
        result[key] = text
    return result


def with_driver_java_option(
    conf: Mapping[str, str], option: str, defaults: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The same configuration with one more option for the driver's Java.

    It is added to the setting that Spark puts ahead of ``spark.driver.extraJavaOptions``, which distributions set in
    spark-defaults.conf (``defaults``), so that those options stay.
    """
    key = "spark.driver.defaultJavaOptions"
    before = conf.get(key, (defaults or {}).get(key, ""))
    return {**conf, key: f"{before} {option}".strip()}


def parse_seconds(text: str, key: str) -> float:
    """Seconds from a time as Spark writes it, such as ``120s``, ``10min`` or a number of seconds."""
    match = re.fullmatch(r"(\d+)\s*([a-z]*)", text.strip().lower())
    if match is None or match[2] not in _SECONDS:
        raise SparkSetupError(f'{key}={text!r} is not a time: write a whole number and a unit, such as "120s" or "10m"')
    return int(match[1]) * _SECONDS[match[2]]


def positive(value: object, name: str) -> int:
    """The value when it is a whole number above zero; SparkSetupError when not."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SparkSetupError(f"{name} is a whole number above 0, not {value!r}")
    return value


def parse_heap(text: str, name: str) -> int:
    """A memory size, in bytes, that Spark accepts for a JVM's heap."""
    size = parse_memory(text, name)
    if size < _MIN_HEAP:
        raise SparkSetupError(f"{name}={text!r} is less than Spark runs with: at least {to_spark(_MIN_HEAP)}")
    return size


def split_files(files: Files) -> list[str]:
    """Paths from text with commas between them, or from a list."""
    if files is None:
        return []
    parts = files.split(",") if isinstance(files, str) else [str(file) for file in files]
    return [part.strip() for part in parts if part.strip()]


def _named_archive(archive: str) -> str:
    path, _, name = archive.partition("#")
    if name not in ("", ENVIRONMENT_NAME):
        raise SparkSetupError(f"penv_archive={archive!r}: it is unpacked as {ENVIRONMENT_NAME}, leave out '#{name}'")
    if not path.endswith(ARCHIVE_SUFFIXES):
        raise SparkSetupError(f"penv_archive={archive!r}: YARN unpacks only {', '.join(ARCHIVE_SUFFIXES)}")
    return f"{path}#{ENVIRONMENT_NAME}"


def _overhead_mebibytes(heap: int, extra: str | None, user: Mapping[str, str]) -> int:
    """Spark's own overhead, or what the user's conf says it is, and the memory for Ray on top."""
    if OVERHEAD in user:
        base = spark_memory(user, OVERHEAD)
    else:
        factor = float(user.get("spark.executor.memoryOverheadFactor", _OVERHEAD_FACTOR))
        least = spark_memory(user, LEAST_OVERHEAD) if LEAST_OVERHEAD in user else _MIN_OVERHEAD
        base = max(least, int(factor * to_mebibytes(heap)) * MEBIBYTE)
    added = parse_memory(extra, "extra_executor_memory_for_ray") if extra is not None else 0
    return to_mebibytes(base) + to_mebibytes(added)


def _check_same(user: Mapping[str, str], ours: Mapping[str, str], arguments: Mapping[str, str]) -> None:
    for key, argument in arguments.items():
        if key not in user:
            continue
        value = to_spark(spark_memory(user, key)) if key.endswith(".memory") else user[key]
        if value != ours[key]:
            raise SparkSetupError(
                f"conf sets {key}={user[key]}, but {argument} makes it {ours[key]}: "
                f"pass {argument}= and leave it out of conf"
            )


def spark_memory(user: Mapping[str, str], key: str) -> int:
    """A memory size of Spark's own settings, where digits alone are mebibytes."""
    text = user[key].strip()
    return int(text) * MEBIBYTE if text.isdigit() else parse_memory(text, key)
