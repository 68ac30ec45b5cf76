"""What the driver imports, its workers import: on Spark's masters of one machine. tests/process has the same for
`init()`, and what holds on machines that lack the driver's directories."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator

import pyspark
import pytest

from process.helpers import wait_until
from support import modules_program

HOME = pathlib.Path(pyspark.__path__[0])


@pytest.mark.parametrize("master", ["local[2]", "local-cluster[2,1,1024]"])
def test_modules_come_from_where_the_driver_has_them(master: str, tmp_path: pathlib.Path) -> None:
    program = modules_program.lay_out(tmp_path)
    modules_program.run(program, tmp_path, master)


@contextlib.contextmanager
def daemon(directory: pathlib.Path, name: str, *words: str) -> Iterator[pathlib.Path]:
    """One process of Spark standalone, and its log."""
    log = directory / f"{name}.log"
    environment = {**os.environ, "SPARK_HOME": str(HOME), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "128m"}
    command = [str(HOME / "bin" / "spark-class"), *words, "--properties-file", str(directory / "daemons.conf")]
    with open(log, "w") as file, subprocess.Popen(command, stdout=file, stderr=file, env=environment) as process:
        try:
            yield log
        finally:
            process.terminate()


def test_modules_come_from_where_the_driver_has_them_on_standalone(tmp_path: pathlib.Path) -> None:
    program = modules_program.lay_out(tmp_path)
    authentication = {"spark.authenticate": "true", "spark.authenticate.secret": secrets.token_hex(16)}
    (tmp_path / "daemons.conf").write_text("".join(f"{key} {value}\n" for key, value in authentication.items()))
    here = ("--host", "127.0.0.1", "--port", "0", "--webui-port", "0")
    with daemon(tmp_path, "master", "org.apache.spark.deploy.master.Master", *here) as log:
        wait_until(lambda: re.search(r"Starting Spark master at spark://\S+", log.read_text()), 90, "the master runs")
        found = re.search(r"spark://[\d.]+:\d+", log.read_text())
        assert found is not None
        size = ("--cores", "2", "--memory", "1g", "--work-dir", str(tmp_path / "executors"), found.group())
        with daemon(tmp_path, "worker", "org.apache.spark.deploy.worker.Worker", *here, *size):
            conf = {
                **authentication,
                "spark.driver.host": "127.0.0.1",
                "spark.executor.memory": "512m",
                "spark.executor.cores": "2",
                "spark.cores.max": "2",
            }
            modules_program.run(
                program,
                tmp_path,
                found.group(),
                MORE_CONF=json.dumps(conf),
                PYSPARK_PYTHON=sys.executable,
                SPARK_LOCAL_IP="127.0.0.1",
            )
