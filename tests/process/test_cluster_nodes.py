"""Several raylets on one machine: placement, objects that move, deaths of nodes."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

import sparkray
from process.helpers import alive, wait_until
from sparkray import exceptions
from sparkray.cluster_utils import Cluster


@sparkray.remote
def where():
    return sparkray.get_runtime_context().get_node_id()


@sparkray.remote
def make(n):
    return np.full(n, 3.0)


@sparkray.remote
def total(array):
    return float(array.sum()), sparkray.get_runtime_context().get_node_id()


@pytest.fixture
def three():
    """Three nodes of one CPU; each has a resource of its own: n0, n1, n2."""
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"n0": 10}}) as cluster:
        for n in (1, 2):
            cluster.add_node(num_cpus=1, resources={f"n{n}": 10})
        sparkray.init(address=cluster.address)
        cluster.wait_for_nodes()
        yield cluster


def on(n):
    return {"resources": {f"n{n}": 1}}


def test_custom_resources_choose_the_node(three):
    ids = [node.node_id for node in three.list_all_nodes()]
    assert sparkray.get([where.options(**on(n)).remote() for n in range(3)], timeout=60) == ids


def test_resources_of_all_nodes_are_summed(three):
    resources = sparkray.cluster_resources()
    assert resources["CPU"] == 3.0
    assert resources["n1"] == 10.0
    assert len([node for node in sparkray.nodes() if node["Alive"]]) == 3


def test_tasks_spread_when_one_node_is_busy(three):
    @sparkray.remote
    def hold():
        time.sleep(0.5)
        return sparkray.get_runtime_context().get_node_id()

    assert len(set(sparkray.get([hold.remote() for _ in range(6)], timeout=60))) == 3


def test_objects_move_between_nodes(three):
    reference = make.options(**on(1)).remote(500_000)
    value, node = sparkray.get(total.options(**on(2)).remote(reference), timeout=60)
    assert value == 1_500_000.0
    assert node == three.list_all_nodes()[2].node_id
    assert float(sparkray.get(reference, timeout=60).sum()) == 1_500_000.0
    put = sparkray.put(np.ones(400_000))
    assert sparkray.get([total.options(**on(n)).remote(put) for n in range(3)], timeout=60)[2][0] == 400_000.0


def test_references_and_handles_travel_between_nodes(three):
    @sparkray.remote
    class Keeper:
        def __init__(self):
            self.references = []

        def keep(self, references):
            self.references += references

        def sums(self):
            return [float(array.sum()) for array in sparkray.get(self.references)]

    @sparkray.remote
    def produce(keeper):
        reference = sparkray.put(np.ones(200_000))
        sparkray.get(keeper.keep.remote([reference]))
        return [reference]

    keeper = Keeper.options(**on(2)).remote()
    inner = sparkray.get(produce.options(**on(1)).remote(keeper), timeout=60)
    assert sparkray.get(keeper.sums.remote(), timeout=60) == [200_000.0]
    assert float(sparkray.get(inner[0], timeout=60).sum()) == 200_000.0


def test_a_node_can_be_added_while_tasks_wait_for_it(three):
    reference = where.options(resources={"late": 1}).remote()
    assert sparkray.wait([reference], timeout=0.3)[0] == []
    node = three.add_node(num_cpus=1, resources={"late": 1})
    assert sparkray.get(reference, timeout=60) == node.node_id


@pytest.mark.trouble
def test_an_object_of_a_dead_node_is_lost(three):
    reference = make.options(max_retries=0, **on(1)).remote(500_000)
    sparkray.wait([reference], timeout=60, fetch_local=False)
    three.remove_node(three.list_all_nodes()[1], allow_graceful=False)
    with pytest.raises(exceptions.ObjectLostError):
        sparkray.get(reference, timeout=60)


@pytest.mark.trouble
def test_a_task_on_a_dead_node_is_run_again_elsewhere(three, tmp_path):
    three.add_node(num_cpus=1, resources={"special": 1})
    marker = tmp_path / "started"

    @sparkray.remote(resources={"special": 1}, max_retries=3)
    def work(path):
        if not os.path.exists(path):
            open(path, "w").close()
            time.sleep(60)
        return sparkray.get_runtime_context().get_node_id()

    reference = work.remote(str(marker))
    wait_until(marker.exists, 60)
    three.remove_node(three.list_all_nodes()[3], allow_graceful=False)
    replacement = three.add_node(num_cpus=1, resources={"special": 1})
    assert sparkray.get(reference, timeout=60) == replacement.node_id


@pytest.mark.trouble
def test_an_actor_of_a_dead_node_restarts_elsewhere_or_dies(three):
    @sparkray.remote
    class Actor:
        def node(self):
            return sparkray.get_runtime_context().get_node_id()

    three.add_node(num_cpus=2, resources={"special": 2})
    restartable = Actor.options(max_restarts=1, resources={"special": 1}).remote()
    mortal = Actor.options(resources={"special": 1}).remote()
    first = sparkray.get([restartable.node.remote(), mortal.node.remote()], timeout=60)[0]
    assert first == three.list_all_nodes()[3].node_id
    three.remove_node(three.list_all_nodes()[3], allow_graceful=False)
    replacement = three.add_node(num_cpus=2, resources={"special": 2})

    def back():
        try:
            return sparkray.get(restartable.node.remote(), timeout=60) == replacement.node_id
        except exceptions.ActorUnavailableError:
            return False

    wait_until(back, 60, "the actor is back")
    with pytest.raises(exceptions.ActorDiedError):
        sparkray.get(mortal.node.remote(), timeout=60)


@pytest.mark.trouble
def test_the_death_of_a_node_is_seen(three):
    node = three.list_all_nodes()[2]
    os.kill(node.pid, signal.SIGKILL)
    wait_until(lambda: sum(n["Alive"] for n in sparkray.nodes()) == 2, 60, "the node is dead for the head")
    three.remove_node(node)
    assert sparkray.get(where.options(**on(1)).remote(), timeout=60)


def test_a_removed_node_takes_its_workers_along(three):
    @sparkray.remote
    def pid():
        return os.getpid()

    worker = sparkray.get(pid.options(**on(2)).remote(), timeout=60)
    three.remove_node(three.list_all_nodes()[2])
    wait_until(lambda: not alive(worker), 60, "the worker ended with its raylet")
    three.wait_for_nodes()


def test_the_head_gives_every_driver_a_job_id_of_its_own():
    def job_id():
        return sparkray.get_runtime_context().get_job_id()

    with Cluster(initialize_head=True, head_node_args={"num_cpus": 1}) as cluster:
        sparkray.init(address=cluster.address)
        first = job_id()
        assert int(first, 16) == 1
        assert sparkray.get(sparkray.remote(job_id).remote()) == first
        sparkray.shutdown()
        sparkray.init(address=cluster.address)
        assert int(job_id(), 16) == 2, "an id does not come again"


def test_a_detached_actor_outlives_its_driver_and_others_do_not():
    @sparkray.remote
    class Counter:
        def __init__(self):
            self.value = 0

        def add(self):
            self.value += 1
            return self.value, os.getpid()

    with Cluster(initialize_head=True, head_node_args={"num_cpus": 2}) as cluster:
        sparkray.init(address=cluster.address, namespace="shared")
        detached = Counter.options(name="detached", lifetime="detached").remote()
        mortal = Counter.options(name="mortal").remote()
        assert sparkray.get([detached.add.remote(), mortal.add.remote()])[0][0] == 1
        mortal_pid = sparkray.get(mortal.add.remote())[1]
        sparkray.shutdown()
        wait_until(lambda: not alive(mortal_pid), 60, "the driver's actor ended with it")
        sparkray.init(address=cluster.address, namespace="shared")
        assert sparkray.get(sparkray.get_actor("detached").add.remote(), timeout=60)[0] == 2
        with pytest.raises(ValueError, match="mortal"):
            sparkray.get_actor("mortal")
        assert sparkray.util.list_named_actors() == ["detached"]
        sparkray.kill(sparkray.get_actor("detached"))


def test_tasks_of_a_detached_actor_go_on_when_its_driver_ends(tmp_path):
    @sparkray.remote
    def work(begun, go_on):
        begun.touch()
        while not go_on.exists():
            time.sleep(0.01)
        return os.getpid()

    @sparkray.remote(num_cpus=0)
    class Boss:
        def begin(self, path):
            # One CPU: the first holds it, the second waits for it.
            self.refs = [work.remote(path / name, path / "go_on") for name in ("first", "second")]

        def results(self):
            return sparkray.get(self.refs, timeout=60)

    @sparkray.remote(num_cpus=0)
    def own_pid():
        return os.getpid()

    with Cluster(initialize_head=True, head_node_args={"num_cpus": 1}) as cluster:
        sparkray.init(address=cluster.address, namespace="shared")
        boss = Boss.options(name="boss", lifetime="detached").remote()
        sparkray.get(boss.begin.remote(tmp_path))
        wait_until(lambda: (tmp_path / "first").exists(), 60, "the first task runs")
        of_driver = sparkray.get(own_pid.remote())
        sparkray.shutdown()
        wait_until(lambda: not alive(of_driver), 60, "the driver's job ended")
        sparkray.init(address=cluster.address, namespace="shared")
        (tmp_path / "go_on").touch()
        boss = sparkray.get_actor("boss")
        assert len(sparkray.get(boss.results.remote(), timeout=60)) == 2
        sparkray.kill(boss)


def test_tasks_of_a_driver_end_with_it(tmp_path):
    @sparkray.remote
    def busy(path):
        with open(path, "w") as file:
            file.write(str(os.getpid()))
        time.sleep(60)

    with Cluster(initialize_head=True, head_node_args={"num_cpus": 2}) as cluster:
        sparkray.init(address=cluster.address)
        marker = tmp_path / "pid"
        reference = busy.remote(str(marker))
        wait_until(lambda: marker.exists() and marker.read_text(), 60)
        sparkray.shutdown()
        wait_until(lambda: not alive(int(marker.read_text())), 60, "the driver's task ended with it")
        del reference
        sparkray.init(address=cluster.address)
        assert sparkray.get(where.remote(), timeout=60)


def test_arguments_of_add_node_are_checked():
    with Cluster() as cluster:
        with pytest.raises(TypeError, match="num_cpus"):
            cluster.add_node(num_cpu=1)
        with pytest.raises(RuntimeError, match="add_node"):
            assert cluster.address
