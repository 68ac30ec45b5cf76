"""A Spark that died is no obstacle to the next one, nor is Ctrl-C while one starts; spark-defaults.conf holds."""

from __future__ import annotations

import os
import pathlib
import signal
import threading
from typing import Any

import pytest
from pyspark import SparkContext
from pyspark.sql import SparkSession

from process.helpers import children_of
from sparkray.spark import gateway, init_spark_on_local
from support.minicluster import wait_until

CONF = {"spark.ui.enabled": "false"}


def java_children() -> list[int]:
    found = []
    for pid in children_of(os.getpid()):
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if b"SparkSubmit" in file.read():
                found.append(pid)
    return found


def test_java_that_was_killed_and_an_interrupted_start_do_not_stand_in_the_way(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.end_gateway()  # of a module before this one
    assert not java_children()
    first = init_spark_on_local(1, CONF)
    assert SparkSession(first).range(3).count() == 3
    process: Any = first._gateway.proc
    process.kill()
    process.wait()

    def interrupt() -> None:
        wait_until(java_children, 60, "Java")
        os.kill(os.getpid(), signal.SIGINT)

    # Java is being launched, and pyspark's handler of SIGINT is still that of the dead context.
    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        init_spark_on_local(1, CONF)
    interrupter.join()
    assert not java_children()
    assert SparkContext._gateway is None and SparkContext._active_spark_context is None

    defaults = "spark.driver.extraJavaOptions -Dhdp.version=7\nspark.night=long\nspark.ui.enabled true\n"
    (tmp_path / "spark-defaults.conf").write_text(defaults)
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    second = init_spark_on_local(1, {**CONF, "spark.day": "a=b c\\d"})
    try:
        assert second._jvm.System.getProperty("hdp.version") == "7"
        settings = [second.getConf().get(key) for key in ("spark.night", "spark.day", "spark.ui.enabled")]
        assert settings == ["long", "a=b c\\d", "false"]
        assert SparkSession.builder.getOrCreate().range(5).count() == 5
    finally:
        second.stop()
        gateway.end_gateway()
    assert not java_children()
