"""Programs with RayOnSpark's own imports, with Spark and the cluster's only node in one JVM."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import textwrap

from process.helpers import driver_environment, run_driver
from sparkray.spark import packaging
from support.compat import importable


def test_the_first_articles_program_and_orcas_run_with_their_own_imports() -> None:
    with importable("ray", "zoo"):
        done = run_driver(
            """
            from zoo import init_spark_on_local
            sc = init_spark_on_local(cores=2, conf={"spark.ui.enabled": "false"})

            import ray
            from zoo.ray.util.raycontext import RayContext
            ray_ctx = RayContext(sc=sc, object_store_memory="64m")
            ray_ctx.init()

            @ray.remote
            class TestRay():
                def hostname(self):
                    import socket
                    return socket.gethostname()

                def ip(self):
                    import ray.services as rservices
                    return rservices.get_node_ip_address()

            actors = [TestRay.remote() for i in range(0, 2)]
            print([ray.get(actor.hostname.remote()) for actor in actors])
            print([ray.get(actor.ip.remote()) for actor in actors])
            ray_ctx.stop()

            # The same Spark, by Orca's names.
            from bigdl.orca import OrcaContext, init_orca_context, stop_orca_context
            from bigdl.orca.ray import OrcaRayContext
            assert init_orca_context(object_store_memory="64m", init_ray_on_spark=True) is sc
            assert ray.get(ray.remote(lambda: 6 * 7).remote()) == 42
            orca = OrcaRayContext.get()
            assert orca.initialized and orca.is_local and orca.total_cores == 2
            assert OrcaContext.get_ray_context() is orca and OrcaContext.get_spark_context() is sc
            assert OrcaContext.get_spark_session().range(3).count() == 3
            # As many Ray programs do: it joins what runs, and leaves it.
            assert ray.init()["cluster_id"] == orca.cluster_id
            ray.shutdown()
            assert not orca.initialized
            assert OrcaContext.get_ray_context().initialized
            stop_orca_context()
            assert not ray.is_initialized() and not orca.initialized
            print("done")
            """,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "done"
    assert sum(line.startswith("['") for line in lines) == 2


def test_a_program_that_spark_submit_started_says_what_orca_ignores(tmp_path: pathlib.Path) -> None:
    import pyspark

    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            from zoo.orca import OrcaContext, init_orca_context, stop_orca_context

            init_orca_context("spark-submit", cores=4, memory="10g", object_store_memory="64m", init_ray_on_spark=True)
            import ray
            print("SUM", sum(ray.get([ray.remote(lambda i: i * i).remote(i) for i in range(4)])))
            print("CORES", OrcaContext.get_ray_context().total_cores)
            stop_orca_context()
            """
        )
    )
    settings = {"spark.ui.enabled": "false", "spark.plugins": "org.sparkray.RayPlugin", "spark.authenticate": "true"}
    command = [os.path.join(os.path.dirname(pyspark.__file__), "bin", "spark-submit"), "--master", "local[2]"]
    command += [word for key, value in settings.items() for word in ("--conf", f"{key}={value}")]
    with importable("ray", "zoo"):
        done = subprocess.run(
            [*command, "--jars", packaging.jar_path(), str(program)],
            env=driver_environment(PYSPARK_PYTHON=sys.executable),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "SUM 14" in lines and "CORES 2.0" in lines
    said = done.stdout + done.stderr
    assert "cores is ignored: spark-submit has --executor-cores" in said
    assert "memory is ignored: spark-submit has --executor-memory" in said
