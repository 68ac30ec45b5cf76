"""Hosts that are called by names, which need not mean the same everywhere."""

from __future__ import annotations

import json
import pathlib
import subprocess

from hosts.cluster import Hosts
from support.network import python_on

SECONDS = 800
# The name that many systems give to themselves in /etc/hosts.
NAME = "driver-host"
_PROGRAM = """
import json, os, sys
import numpy as np
import sparkray
from sparkray.spark import RayContext, gateway
conf = json.loads(sys.argv[1])
spark = gateway.start_context(conf, {"PYSPARK_PYTHON": sys.executable})
try:
    context = RayContext(spark, object_store_memory="64m")
    try:
        info = context.init()
    except sparkray.spark.RayContextError as error:
        print("RESULT", json.dumps({"error": str(error)}))
    else:
        total = sparkray.remote(lambda array: (float(array.sum()), sparkray.util.get_node_ip_address()))
        large = sparkray.put(np.ones(250_000))
        found = sparkray.get([total.remote(large) for _ in range(8)], timeout=60)
        made = sparkray.get(sparkray.remote(lambda: np.ones(250_000)).remote(), timeout=60)
        result = {"ip": info["node_ip_address"], "sums": [sum for sum, _ in found], "made": float(made.sum())}
        print("RESULT", json.dumps(result))
        context.stop()
finally:
    spark.stop()
    gateway.end_gateway()
"""


def test_a_driver_whose_name_means_itself_on_itself_only_is_reached_all_the_same(
    hosts: Hosts, tmp_path: pathlib.Path
) -> None:
    """spark.driver.host is a name, 127.0.0.1 on the driver and its address elsewhere; Spark binds all addresses."""
    driver, *workers = hosts.network.hosts
    driver.names([f"127.0.0.1 {NAME}"])
    for worker in workers:
        worker.names([f"{driver.address} {NAME}"])
    conf = {
        **hosts.standalone.conf(),
        "spark.app.name": "names",
        "spark.driver.host": NAME,
        "spark.driver.bindAddress": "0.0.0.0",
        "spark.executor.cores": "1",
        "spark.executor.instances": "2",
        "spark.cores.max": "2",
    }
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    process = python_on(
        driver,
        [str(program), json.dumps(conf)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
    )
    try:
        printed, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    results = [json.loads(line.partition(" ")[2]) for line in printed.splitlines() if line.startswith("RESULT ")]
    assert len(results) == 1, printed
    (result,) = results
    if "error" in result:
        # Clear enough: it says what to set.
        assert "spark.driver.host" in result["error"] and "spark.driver.bindAddress" in result["error"], result
    else:
        assert result == {"ip": driver.address, "sums": [250_000.0] * 8, "made": 250_000.0}, printed
