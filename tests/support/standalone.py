"""Spark standalone on several hosts: the master beside the driver, one worker on each of the others."""

from __future__ import annotations

import pathlib
import secrets
import socket
import sys
from typing import Any

import pyspark

from process.helpers import wait_until
from sparkray.spark import gateway, packaging
from support.network import Host, Network
from support.ray_processes import executors_of_spark

START_SECONDS = 120.0
MASTER_PORT = 7077
WORKER_PORT = 7078
_HOME = pathlib.Path(pyspark.__path__[0])


class Standalone:
    """The daemons of a Spark standalone cluster. The driver is the first host."""

    def __init__(self, network: Network, directory: pathlib.Path) -> None:
        self.network = network
        self.driver, *self.workers = network.hosts
        self.directory = directory
        self._secret = secrets.token_hex(16)
        self.master = f"spark://{self.driver.address}:{MASTER_PORT}"
        self._start(
            self.driver,
            "master",
            *("org.apache.spark.deploy.master.Master", "--host", self.driver.address),
            *("--port", str(MASTER_PORT), "--webui-port", "0"),
        )
        _wait_for_port(self.driver, MASTER_PORT)
        for host in self.workers:
            self._start(
                host,
                f"worker-{host.name}",
                *("org.apache.spark.deploy.worker.Worker", "--host", host.address, "--port", str(WORKER_PORT)),
                *("--webui-port", "0", "--cores", "4", "--memory", "2g"),
                *("--work-dir", str(directory / f"work-{host.name}"), self.master),
            )

    def _start(self, host: Host, name: str, *words: str) -> None:
        properties = self.directory / "daemons.conf"
        properties.write_text("".join(f"{key} {value}\n" for key, value in self._authentication().items()))
        with open(self.directory / f"{name}.log", "w") as log:
            host.start(
                str(_HOME / "bin" / "spark-class"),
                *words,
                *("--properties-file", str(properties)),
                environment={
                    "SPARK_HOME": str(_HOME),
                    "SPARK_LOCAL_IP": host.address,
                    "SPARK_DAEMON_MEMORY": "128m",
                    "SPARK_NO_DAEMONIZE": "1",
                },
                stdout=log,
                stderr=log,
            )

    def _authentication(self) -> dict[str, str]:
        return {
            "spark.authenticate": "true",
            "spark.authenticate.secret": self._secret,
            "spark.network.crypto.enabled": "true",
        }

    def conf(self) -> dict[str, str]:
        """Settings of an application with one executor on each worker."""
        return {
            **self._authentication(),
            "spark.app.name": "hosts",
            "spark.master": self.master,
            "spark.driver.host": self.driver.address,
            "spark.driver.bindAddress": self.driver.address,
            "spark.driver.memory": "512m",
            "spark.executor.memory": "512m",
            "spark.executor.cores": "2",
            "spark.executor.instances": str(len(self.workers)),
            "spark.cores.max": str(2 * len(self.workers)),
            "spark.ui.enabled": "false",
            "spark.plugins": "org.sparkray.RayPlugin",
            "spark.jars": packaging.jar_path() or "",
            "spark.ray.memory.budget": "1g",
            "spark.ray.init.timeout": "120s",
            "spark.ray.worker.prestart": "0",
        }

    def context(self, **settings: str) -> Any:
        """A SparkContext of this program, which must be on the driver's host, with all executors there."""
        variables = {"SPARK_LOCAL_IP": self.driver.address, "PYSPARK_PYTHON": sys.executable}
        context = gateway.start_context({**self.conf(), **settings}, variables)
        context.setLogLevel("ERROR")
        try:
            wait_until(
                lambda: executors_of_spark(context) == len(self.workers), START_SECONDS, "Spark has its executors"
            )
        except BaseException:
            context.stop()
            gateway.end_gateway()
            raise
        return context

    def logs(self) -> list[pathlib.Path]:
        """Logs of the daemons and of what the executors' managers started."""
        return [path for path in self.directory.rglob("*") if path.suffix == ".log" or path.name == "stderr"]


def _wait_for_port(host: Host, port: int) -> None:
    def answers() -> bool:
        with host.entered():
            try:
                socket.create_connection((host.address, port), 1).close()
            except OSError:
                return False
        return True

    wait_until(answers, START_SECONDS, f"{host.name} listens on port {port}")


__all__ = ["Standalone"]
