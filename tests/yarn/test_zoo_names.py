"""The first program of RayOnSpark's users on a real YARN, with its own imports."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from process.helpers import run_driver
from sparkray.spark.environment import pack_environment
from support.compat import importable
from support.minicluster import MiniCluster, wait_until

PROGRAM = """
    import json
    from zoo import init_spark_on_yarn

    workers = 2
    sc = init_spark_on_yarn(
        hadoop_conf={conf_dir!r},
        conda_name="zoo",  # this machine has no conda: penv_archive goes before it
        penv_archive={archive!r},
        num_executor=workers,
        executor_cores=1,
        executor_memory="512m",
        driver_memory="700m",
        driver_cores=1,
        extra_executor_memory_for_ray="512m",
        conf={conf!r},
    )

    import ray
    from zoo.ray.util.raycontext import RayContext

    ray_ctx = RayContext(sc=sc, object_store_memory="64m")
    ray_ctx.init()

    @ray.remote
    class Reporter():
        def host(self):
            import socket
            return socket.gethostname()

        def address(self):
            import ray.services as rservices
            return rservices.get_node_ip_address()

        def container(self):
            import os
            return os.environ.get("CONTAINER_ID")

    reporters = [Reporter.remote() for _ in range(workers)]
    hosts = [ray.get(reporter.host.remote()) for reporter in reporters]
    addresses = [ray.get(reporter.address.remote()) for reporter in reporters]
    containers = [ray.get(reporter.container.remote()) for reporter in reporters]
    nodes = {{node["container_id"]: node["address"] for node in ray_ctx.nodes()}}
    ray_ctx.stop()
    print("REPORT", json.dumps([hosts, addresses, containers, nodes]))
"""


@pytest.mark.filterwarnings("ignore:the virtual environment")
def test_the_first_articles_program_runs_in_yarns_containers(mini_cluster: MiniCluster) -> None:
    settings: dict[str, Any] = {"spark.ui.enabled": "false", "spark.ray.init.timeout": "120s"}
    program = PROGRAM.format(
        conf_dir=mini_cluster.conf_dir, archive=pack_environment(), conf={**mini_cluster.spark_conf(), **settings}
    )
    with importable("ray", "zoo"):
        done = run_driver(program, timeout=600)
    assert done.returncode == 0, done.stderr
    (report,) = [line for line in done.stdout.splitlines() if line.startswith("REPORT ")]
    hosts, addresses, containers, nodes = json.loads(report.removeprefix("REPORT "))
    assert len(hosts) == 2 and all(hosts)
    # Each actor ran in a container that YARN granted, and has its node's address.
    ips = {container: socket.gethostbyname(address.rpartition(":")[0]) for container, address in nodes.items()}
    assert len(ips) == 2 and addresses == [ips[container] for container in containers]
    # The program said nothing of the end of Spark.
    wait_until(lambda: not mini_cluster.container_processes(), 120, "the containers end")
