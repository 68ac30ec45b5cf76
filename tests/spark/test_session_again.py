"""A Spark that died is no obstacle to the next one, nor is Ctrl-C while one starts."""

from __future__ import annotations

import os
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


def test_java_that_was_killed_and_an_interrupted_start_do_not_stand_in_the_way() -> None:
    assert not java_children()
    first = init_spark_on_local(1, CONF)
    assert SparkSession(first).range(3).count() == 3
    process: Any = first._gateway.proc
    process.kill()
    process.wait()

    def interrupt() -> None:
        wait_until(java_children, 30, "Java")
        os.kill(os.getpid(), signal.SIGINT)

    # Java is being launched, and pyspark's handler of SIGINT is still that of the dead context.
    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        init_spark_on_local(1, CONF)
    interrupter.join()
    assert not java_children()
    assert SparkContext._gateway is None and SparkContext._active_spark_context is None

    second = init_spark_on_local(1, CONF)
    try:
        assert SparkSession.builder.getOrCreate().range(5).count() == 5
    finally:
        second.stop()
        gateway.end_gateway()
    assert not java_children()
