"""Programs with RayOnSpark's own imports, with Spark and the cluster's only node in one JVM."""

from __future__ import annotations

from process.helpers import run_driver
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
            from bigdl.orca import init_orca_context, stop_orca_context
            from bigdl.orca.ray import OrcaRayContext
            assert init_orca_context(object_store_memory="64m", init_ray_on_spark=True) is sc
            assert ray.get(ray.remote(lambda: 6 * 7).remote()) == 42
            orca = OrcaRayContext.get()
            assert orca.initialized and orca.is_local and orca.total_cores == 2
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
