"""The configuration that init_spark_on_yarn and init_spark_on_local give to Spark."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from sparkray.spark import spark_defaults
from sparkray.spark.errors import SparkSetupError
from sparkray.spark.gateway import submit_arguments
from sparkray.spark.spark_conf import build_local_conf, build_spark_conf, parse_seconds, with_driver_java_option

MEBI = 1024**2


def yarn_conf(**changed: Any) -> dict[str, str]:
    arguments: dict[str, Any] = {
        "num_executors": 3,
        "executor_cores": 4,
        "executor_memory": "2g",
        "driver_cores": 4,
        "driver_memory": "2g",
        "extra_executor_memory_for_ray": "3g",
        "environment_archive": "/cache/abc.tar.gz",
        "driver_python": "/venv/bin/python",
        "plugin_jar": "/lib/sparkray.jar",
    }
    return build_spark_conf(**{**arguments, **changed})


def test_the_seed_s_call() -> None:
    assert yarn_conf() == {
        "spark.app.name": "sparkray",
        "spark.archives": "/cache/abc.tar.gz#python_env",
        "spark.authenticate": "true",
        "spark.driver.cores": "4",
        "spark.driver.memory": "2048m",
        "spark.dynamicAllocation.enabled": "false",
        "spark.executor.cores": "4",
        "spark.executor.instances": "3",
        "spark.executor.memory": "2048m",
        "spark.executor.memoryOverhead": "3456m",
        "spark.jars": "/lib/sparkray.jar",
        "spark.master": "yarn",
        "spark.network.crypto.enabled": "true",
        "spark.plugins": "org.sparkray.RayPlugin",
        "spark.pyspark.driver.python": "/venv/bin/python",
        "spark.pyspark.python": "python_env/bin/python",
        "spark.ray.memory.budget": str(3 * 1024 * MEBI),
        "spark.scheduler.maxRegisteredResourcesWaitingTime": "120s",
        "spark.scheduler.minRegisteredResourcesRatio": "0",
        "spark.shuffle.service.enabled": "false",
        "spark.submit.deployMode": "client",
    }


@pytest.mark.parametrize(
    ("heap", "extra", "conf", "overhead"),
    [
        ("2g", None, {}, 384),
        ("2g", "1g", {}, 384 + 1024),
        ("10g", "1g", {}, 1024 + 1024),
        ("10g", "1g", {"spark.executor.memoryOverheadFactor": "0.2"}, 2048 + 1024),
        ("2g", "1g", {"spark.executor.minMemoryOverhead": "2g"}, 2048 + 1024),
        ("2g", "1g", {"spark.executor.minMemoryOverhead": 100}, 204 + 1024),
        ("40g", "1g", {"spark.executor.minMemoryOverhead": "2g"}, 4096 + 1024),
        ("10g", "1g", {"spark.executor.memoryOverhead": "512m"}, 512 + 1024),
        ("10g", "1g", {"spark.executor.memoryOverhead": 600}, 600 + 1024),
        ("2g", "100k", {}, 384 + 1),
    ],
)
def test_memory_for_ray_is_added_to_the_overhead(
    heap: str, extra: str | None, conf: dict[str, Any], overhead: int
) -> None:
    result = yarn_conf(executor_memory=heap, extra_executor_memory_for_ray=extra, conf=conf)
    assert result["spark.executor.memoryOverhead"] == f"{overhead}m"
    assert ("spark.ray.memory.budget" in result) == (extra is not None)


def test_lists_of_the_user_are_added_to() -> None:
    result = yarn_conf(
        additional_archive="/a.zip#a,hdfs:///b.tar.gz",
        jars=["/one.jar", "/two.jar"],
        py_files="/first.py",
        extra_python_lib="/second.zip, /third.py",
        conf={
            "spark.jars": "/user.jar",
            "spark.plugins": "org.user.Plugin",
            "spark.yarn.dist.archives": "/user.zip",
            "spark.submit.pyFiles": "/user.py",
        },
    )
    assert result["spark.archives"] == "/user.zip,/cache/abc.tar.gz#python_env,/a.zip#a,hdfs:///b.tar.gz"
    assert result["spark.jars"] == "/user.jar,/lib/sparkray.jar,/one.jar,/two.jar"
    assert result["spark.plugins"] == "org.user.Plugin,org.sparkray.RayPlugin"
    assert result["spark.submit.pyFiles"] == "/user.py,/first.py,/second.zip,/third.py"


def test_what_holds_unless_the_user_says_otherwise() -> None:
    result = yarn_conf(
        conf={"spark.authenticate": False, "spark.dynamicAllocation.enabled": "true", "spark.app.name": "mine"}
    )
    assert result["spark.authenticate"] == "false"
    assert result["spark.network.crypto.enabled"] == "false"
    assert result["spark.dynamicAllocation.enabled"] == "true"
    assert result["spark.app.name"] == "mine"
    assert yarn_conf(conf={"spark.network.crypto.enabled": "false"})["spark.authenticate"] == "true"


def test_the_same_said_twice_is_no_contradiction() -> None:
    conf = {"spark.executor.memory": "2048m", "spark.executor.instances": 3, "spark.driver.memory": "2g"}
    assert yarn_conf(conf=conf) == yarn_conf()


@pytest.mark.parametrize(
    "conf",
    [
        {"spark.executor.instances": "2"},
        {"spark.executor.cores": 1},
        {"spark.driver.memory": "1g"},
        {"spark.submit.deployMode": "cluster"},
        {"spark.executorEnv.PYTHONHOME": "python_env"},
        {"spark.executor.cores": None},
    ],
)
def test_contradictions_are_refused(conf: dict[str, Any]) -> None:
    with pytest.raises(SparkSetupError, match="conf "):
        yarn_conf(conf=conf)


def test_environment_name_in_the_archive_s_address() -> None:
    expected = "hdfs:///env.tgz#python_env"
    assert yarn_conf(environment_archive="hdfs:///env.tgz#python_env")["spark.archives"] == expected
    assert yarn_conf(environment_archive="hdfs:///env.tgz")["spark.archives"] == expected
    with pytest.raises(SparkSetupError, match="leave out '#environment'"):
        yarn_conf(environment_archive="/env.tgz#environment")


def test_yarn_archive_of_spark() -> None:
    assert yarn_conf(spark_yarn_archive="hdfs:///spark.zip")["spark.yarn.archive"] == "hdfs:///spark.zip"


def test_driver_java_options_are_added() -> None:
    key = "spark.driver.defaultJavaOptions"
    assert with_driver_java_option(yarn_conf(conf={key: "-Da=b"}), "-Dc=d")[key] == "-Da=b -Dc=d"
    # Those of spark-defaults.conf stay: the same key by being added to, the other one by not being set.
    result = with_driver_java_option(yarn_conf(), "-Dc=d", {key: "-De=f", "spark.driver.extraJavaOptions": "-Dg=h"})
    assert result[key] == "-De=f -Dc=d"
    assert "spark.driver.extraJavaOptions" not in result


def test_shuffle_service_of_a_distribution_is_off_unless_it_is_asked_for() -> None:
    key = "spark.shuffle.service.enabled"
    assert yarn_conf()[key] == "false" and local_conf()[key] == "false"
    assert yarn_conf(conf={key: True})[key] == "true"
    assert key not in yarn_conf(conf={"spark.dynamicAllocation.enabled": True})


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("2 min", 120), ("1500ms", 1.5), ("1h", 3600), ("0", 0)]
)
def test_times_as_spark_writes_them(text: str, seconds: float) -> None:
    assert parse_seconds(text, "k") == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1s", "1.5m", "5 weeks"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(SparkSetupError, match="spark.ray.start.timeout=.* is not a time"):
        yarn_conf(conf={"spark.ray.start.timeout": text})


def test_settings_as_java_reads_properties(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"spark.a": " x=1: \\d\tü", "spark.hadoop.k=v": "two\nlines", "spark.e": ""}
    text = spark_defaults.to_properties(settings)
    assert text.count("\n") == 3
    assert "spark.hadoop.k\\=v=two\\nlines\n" in text and "spark.a=\\ x=1: \\\\d\\tü\n" in text
    (tmp_path / "spark-defaults.conf").write_text("# no\n\nspark.b  -Dx=y\n spark.c=d e \nspark.f : g")
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    assert spark_defaults.read() == {"spark.b": "-Dx=y", "spark.c": "d e", "spark.f": "g"}
    assert spark_defaults.read_text().endswith("g\n")


def test_files_go_to_spark_submit_as_options() -> None:
    conf = {"spark.jars": "/a b.jar", "spark.archives": "/e.tar.gz#python_env", "spark.master": "yarn"}
    assert submit_arguments(conf) == "--jars '/a b.jar' --archives '/e.tar.gz#python_env' pyspark-shell"
    assert submit_arguments({}) == "pyspark-shell"


def local_conf(**changed: Any) -> dict[str, str]:
    arguments: dict[str, Any] = {"cores": 2, "memory": "2g", "driver_python": "/venv/python", "plugin_jar": "/s.jar"}
    return build_local_conf(**{**arguments, **changed})


def test_local() -> None:
    result = local_conf(cores=4, memory="3g")
    assert result["spark.master"] == "local[4]"
    assert result["spark.driver.memory"] == "3072m"
    assert result["spark.plugins"] == "org.sparkray.RayPlugin"
    assert result["spark.authenticate"] == "true"
    assert local_conf(cores="*")["spark.master"] == "local[*]"


def test_local_cluster() -> None:
    result = local_conf(conf={"spark.master": "local-cluster[2,1,1024]"})
    assert result["spark.master"] == "local-cluster[2,1,1024]"
    assert result["spark.authenticate"] == result["spark.network.crypto.enabled"] == "true"
    assert len(result["spark.authenticate.secret"]) == 64
    again = local_conf(conf={"spark.master": "local-cluster[2,1,1024]"})
    assert again["spark.authenticate.secret"] != result["spark.authenticate.secret"]
    chosen = {"spark.master": "local-cluster[2,1,1024]", "spark.authenticate.secret": "mine"}
    assert local_conf(conf=chosen)["spark.authenticate.secret"] == "mine"
    off = local_conf(conf={"spark.master": "local-cluster[2,1,1024]", "spark.authenticate": False})
    assert off["spark.authenticate"] == "false" and "spark.authenticate.secret" not in off


@pytest.mark.parametrize(
    "changed", [{"cores": 0}, {"cores": "two"}, {"memory": "2"}, {"conf": {"spark.master": "yarn"}}]
)
def test_local_bad_input(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        local_conf(**changed)
