"""Where tasks and actors run when nodes come and go."""

# mypy: disable-error-code="attr-defined,union-attr,no-any-return"
from __future__ import annotations

from collections.abc import Iterator

import pytest

import sparkray
from process.helpers import wait_until
from process.test_scheduling_strategies import Home, affinity, meet, node_id, three_nodes
from sparkray import exceptions
from sparkray.cluster_utils import Cluster


@pytest.fixture
def zones() -> Iterator[Cluster]:
    with three_nodes() as cluster:
        yield cluster


@pytest.mark.trouble
def test_what_is_bound_to_a_node_ends_with_it(zones, tmp_path):
    node = zones.add_node(num_cpus=2)
    zones.wait_for_nodes()
    home = Home.options(max_restarts=-1, **affinity(node)).remote()
    assert sparkray.get(home.node_id.remote(), timeout=60) == node.node_id
    blockers = [meet.options(max_retries=0, **affinity(node)).remote(tmp_path, 3) for _ in range(2)]
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    waiting = node_id.options(**affinity(node)).remote()
    soft = node_id.options(**affinity(node, soft=True)).remote()
    assert sparkray.wait([waiting, soft], num_returns=2, timeout=0.5)[0] == []
    zones.remove_node(node)
    with pytest.raises(exceptions.TaskUnschedulableError):
        sparkray.get(waiting, timeout=60)
    assert sparkray.get(soft, timeout=60) in {other.node_id for other in zones.list_all_nodes()}
    for blocker in blockers:
        with pytest.raises(exceptions.WorkerCrashedError):
            sparkray.get(blocker, timeout=60)

    def ended() -> bool:
        try:
            sparkray.get(home.node_id.remote(), timeout=60)
        except exceptions.ActorUnschedulableError:
            return True
        except exceptions.ActorUnavailableError:
            return False
        raise AssertionError("an actor of a dead node answers")

    wait_until(ended, what="the actor cannot be restarted")


@pytest.mark.trouble
def test_what_no_node_has_yet_is_waited_for(zones, capfd):
    task = node_id.options(label_selector={"zone": "new"}).remote()
    actor = Home.options(label_selector={"zone": "new"}).remote()
    home = actor.node_id.remote()
    told = ""

    def is_told() -> bool:
        nonlocal told
        told += capfd.readouterr().err
        return told.count("{zone: in(new)}") >= 2

    wait_until(is_told, what="the driver is told of the task and of the actor")
    assert sparkray.wait([task, home], timeout=0) == ([], [task, home])
    node = zones.add_node(num_cpus=2, labels={"zone": "new"})
    assert sparkray.get([task, home], timeout=60) == [node.node_id] * 2
    del actor
    zones.remove_node(node)
