"""Programs that never call `init` get a cluster of their own at their first use, as in Ray; and those that get none."""

from __future__ import annotations

import pytest

from process.helpers import run_driver

USES = {
    "task": "assert sparkray.get(sparkray.remote(lambda: 5).remote(), timeout=60) == 5",
    "actor": "assert sparkray.get(sparkray.remote(type('A', (), {'m': lambda self: 6})).remote().m.remote()) == 6",
    "put": "assert sparkray.get(sparkray.put(7)) == 7",
    "get": "assert sparkray.get([]) == []",
    "get_actor": "\ntry:\n    sparkray.get_actor('nobody')\nexcept ValueError:\n    pass",
    "nodes": "assert len(sparkray.nodes()) == 1",
    "cluster_resources": "assert sparkray.cluster_resources()['CPU'] >= 1",
    "runtime context": "assert len(sparkray.get_runtime_context().get_node_id()) == 32",
}


@pytest.mark.parametrize("use", USES)
def test_the_first_use_starts_what_init_starts(use: str) -> None:
    done = run_driver(
        f"""
import sparkray
assert not sparkray.is_initialized()
{USES[use]}
assert sparkray.is_initialized()
try:
    sparkray.init()
except RuntimeError as error:
    print("a second one is refused:", error)
sparkray.shutdown()
"""
    )
    assert done.returncode == 0, done.stderr
    assert "a second one is refused" in done.stdout


def test_threads_that_are_first_at_once_get_one_cluster() -> None:
    done = run_driver(
        """
        import threading
        from concurrent.futures import ThreadPoolExecutor
        import sparkray

        together = threading.Barrier(8)

        def use(number):
            together.wait(60)
            reference = sparkray.put(number)
            return sparkray.get(reference), sparkray.get_runtime_context().get_node_id()

        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(use, range(8)))
        assert [number for number, _ in outcomes] == list(range(8))
        assert len({node for _, node in outcomes}) == 1
        """
    )
    assert done.returncode == 0, done.stderr


def test_tasks_and_actors_do_not_start_anything() -> None:
    done = run_driver(
        """
        import sparkray

        @sparkray.remote
        def node():
            return sparkray.get(sparkray.put(sparkray.get_runtime_context().get_node_id()))

        assert sparkray.get(node.remote(), timeout=60) == sparkray.get_runtime_context().get_node_id()
        """
    )
    assert done.returncode == 0, done.stderr


def test_an_address_that_the_environment_names_is_joined_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "203.0.113.5:6379")
    done = run_driver(
        """
        import sparkray

        try:
            sparkray.put(1)
        except ConnectionError as error:
            assert "203.0.113.5:6379" in str(error) and "RAY_ADDRESS" in str(error), error
            print("refused")
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "refused\n"


NOTHING_STARTS = """
try:
    sparkray.put(1)
except sparkray.exceptions.RaySystemError as error:
    print(error)
assert not sparkray.is_initialized()
"""


def test_after_shutdown_init_is_called_by_name() -> None:
    done = run_driver("import sparkray\nsparkray.put(1)\nsparkray.shutdown()" + NOTHING_STARTS)
    assert done.returncode == 0, done.stderr
    assert "was stopped in this process: call sparkray.init()" in done.stdout


def test_a_child_that_is_forked_before_the_first_use_has_a_cluster_of_its_own() -> None:
    done = run_driver(
        """
        import os
        import sparkray

        child = os.fork()
        if child == 0:
            assert sparkray.get(sparkray.put(1)) == 1
            sparkray.shutdown()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert not sparkray.is_initialized()
        """
    )
    assert done.returncode == 0, done.stderr


def test_a_program_with_a_spark_context_starts_its_cluster_by_ray_context() -> None:
    pytest.importorskip("pyspark")
    done = run_driver(
        """
        from sparkray.spark import init_spark_on_local
        import sparkray

        sc = init_spark_on_local(cores=1)
        """.replace("\n        ", "\n")
        + NOTHING_STARTS
        + "sc.stop()\n",
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert "RayContext(sc).init() on Spark" in done.stdout
