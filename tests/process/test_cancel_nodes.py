"""cancel() of tasks that other nodes run, or would run."""

# mypy: disable-error-code="attr-defined,union-attr,arg-type,misc"
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import sparkray
from process.helpers import PATIENCE, alive, wait_until
from process.test_cancel import add, assert_interrupted, assert_never_ran, run, sleep
from sparkray.cluster_utils import Cluster

# Only the second node has it.
THERE = {"there": 1}


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[None]:
    """With two CPUs each."""
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 2}) as cluster:
        cluster.add_node(num_cpus=2, resources={"there": 2})
        sparkray.init(address=cluster.address)
        cluster.wait_for_nodes()
        yield
        sparkray.shutdown()


pytestmark = pytest.mark.usefixtures("two_nodes")


def there(function):
    return function.options(resources=THERE)


def test_what_runs_there_is_interrupted(tmp_path):
    ref = there(run).remote(tmp_path / "started", sleep, None)
    wait_until((tmp_path / "started").exists)
    sparkray.cancel(ref)
    assert_interrupted(ref)
    assert sparkray.get(there(add).remote(1, 2), timeout=PATIENCE) == 3


def test_what_waits_there_never_runs(tmp_path):
    running = [there(run).remote(tmp_path / f"started{n}", sleep, None) for n in range(2)]
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    waiting = [there(add).remote(n, n) for n in range(10)]
    for ref in waiting[:9]:
        sparkray.cancel(ref)
    for ref in waiting[:9]:
        assert_never_ran(ref)
    for ref in running:
        sparkray.cancel(ref)
        assert_interrupted(ref)
    assert sparkray.get(waiting[9], timeout=PATIENCE) == 18


def test_the_worker_there_is_ended_and_a_large_result_of_another_task_is_not_lost(tmp_path):
    @sparkray.remote(resources=THERE)
    def large():
        return b"x" * 1_000_000

    kept = large.remote()
    assert sparkray.wait([kept], timeout=PATIENCE, fetch_local=False)[0] == [kept]
    ref = there(run).remote(tmp_path / "started", sleep, None)
    wait_until(lambda: (tmp_path / "started").exists() and (tmp_path / "started").read_text())
    pid = int((tmp_path / "started").read_text())
    sparkray.cancel(ref, force=True)
    assert_never_ran(ref)
    wait_until(lambda: not alive(pid))
    assert len(sparkray.get(kept, timeout=PATIENCE)) == 1_000_000


def test_what_a_task_there_has_called_here_ends_with_it(tmp_path):
    @sparkray.remote(resources=THERE)
    def parent(child: Path):
        return sparkray.get(run.options(num_cpus=2).remote(child, sleep, None))

    ref = parent.remote(tmp_path / "child")
    wait_until((tmp_path / "child").exists)
    sparkray.cancel(ref)
    with pytest.raises(sparkray.exceptions.TaskCancelledError):
        sparkray.get(ref, timeout=PATIENCE)
    # It had all CPUs of a node.
    assert sparkray.get([add.options(num_cpus=2).remote(n, n) for n in range(2)], timeout=PATIENCE) == [0, 2]


def test_an_actor_there_does_not_run_what_was_cancelled(tmp_path):
    @sparkray.remote(resources=THERE)
    class Slow:
        def hold(self):
            (tmp_path / "started").touch()
            wait_until((tmp_path / "go").exists)

        def ran(self):
            (tmp_path / "ran").touch()

    actor = Slow.remote()
    held, call = actor.hold.remote(), actor.ran.remote()
    wait_until((tmp_path / "started").exists)
    sparkray.cancel(call)
    assert_never_ran(call)
    (tmp_path / "go").touch()
    sparkray.get(held, timeout=PATIENCE)
    assert not (tmp_path / "ran").exists()
