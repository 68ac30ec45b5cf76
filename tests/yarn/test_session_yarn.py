"""The configuration of init_spark_on_yarn on a real YARN: environment, files, memory, log. Without the plugin."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from sparkray.spark import driver_log, environment, gateway
from sparkray.spark.errors import SparkStartError
from sparkray.spark.spark_conf import build_spark_conf, with_driver_java_option
from support.minicluster import MiniCluster, wait_until


def start(cluster: MiniCluster, archive: str, log_option: str, **changed: Any) -> Any:
    arguments: dict[str, Any] = {
        "num_executors": 2,
        "executor_cores": 1,
        "executor_memory": "512m",
        "driver_cores": 1,
        "driver_memory": "600m",
        "extra_executor_memory_for_ray": "500m",
        "environment_archive": archive,
        "driver_python": sys.executable,
        "plugin_jar": None,
        "conf": cluster.spark_conf(),
    }
    conf = with_driver_java_option(build_spark_conf(**{**arguments, **changed}), log_option)
    variables = {"HADOOP_CONF_DIR": cluster.conf_dir, "PYSPARK_PYTHON": "python_env/bin/python"}
    return gateway.start_context(conf, variables)


@pytest.mark.filterwarnings("ignore:the virtual environment")
def test_session_on_yarn(mini_cluster: MiniCluster, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "shipped_module.py").write_text("VALUE = 42\n")
    (tmp_path / "second_module.py").write_text("VALUE = 43\n")
    archive = environment.pack_environment()
    log, option = driver_log.redirect_driver_log("WARN")
    context = start(
        mini_cluster,
        archive,
        option,
        py_files=str(tmp_path / "shipped_module.py"),
        extra_python_lib=[str(tmp_path / "second_module.py")],
    )
    try:

        def look(_: object) -> Iterator[tuple[str, str, bool, int, int]]:
            import second_module  # type: ignore[import-not-found]
            import shipped_module  # type: ignore[import-not-found]

            inside = sys.executable.startswith(os.getcwd() + "/python_env/bin/python")
            link = os.path.islink("python_env")
            values = shipped_module.VALUE, second_module.VALUE
            yield os.environ["CONTAINER_ID"], sys.executable, inside and link, *values

        rows = context.parallelize(range(20), 20).mapPartitions(look).collect()
        assert len({row[0] for row in rows}) == 2
        assert {row[2:] for row in rows} == {(True, 42, 43)}
        # YARN has shipped the environment; Spark does not ship it a second time.
        assert context._jsc.sc().listArchives().isEmpty()
        memory = {row["memory_mb"] for row in mini_cluster.containers() if row["id"] in {row[0] for row in rows}}
        assert memory == {1536}  # 512 + 384 + 500 in units of 256.
        assert "PYSPARK_PYTHON" not in os.environ
        assert pathlib.Path(log).exists()
        assert context._jvm.java.lang.Runtime.getRuntime().maxMemory() > 550 * 1024**2
    finally:
        context.stop()
    # The gateway is left behind; what is set now needs a new one.
    first_gateway = context._gateway
    second = start(mini_cluster, archive, option, driver_memory="900m", num_executors=1)
    try:
        assert second._gateway is not first_gateway
        assert first_gateway.proc.poll() is not None
        assert second._jvm.java.lang.Runtime.getRuntime().maxMemory() > 850 * 1024**2
        assert second.parallelize(range(4), 2).sum() == 6
    finally:
        second.stop()
        gateway.end_gateway()
    wait_until(lambda: not mini_cluster.container_processes(), 60, "the containers end")


def test_failed_start_leaves_no_gateway(mini_cluster: MiniCluster, tmp_path: pathlib.Path) -> None:
    _, option = driver_log.redirect_driver_log("OFF")
    with pytest.raises(
        SparkStartError, match=r"Spark did not start: Required executor memory .* max threshold"
    ) as raised:
        start(mini_cluster, "/dev/null.tar.gz", option, executor_memory="100g")
    assert "\n" not in str(raised.value)
    from pyspark import SparkContext

    assert SparkContext._gateway is None
    assert SparkContext._active_spark_context is None
