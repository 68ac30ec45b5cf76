"""What becomes of tasks and actors in placement groups that are removed, or whose nodes die."""

# mypy: disable-error-code="attr-defined,union-attr,no-any-return,arg-type,call-arg"
from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sparkray
from process.helpers import wait_until
from sparkray import exceptions
from sparkray.cluster_utils import Cluster
from sparkray.util import get_placement_group, placement_group, placement_group_table, remove_placement_group
from sparkray.util.placement_group import PlacementGroup
from sparkray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

PATIENCE = 60

pytestmark = pytest.mark.trouble


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    """Three nodes of two CPUs."""
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 2}) as cluster:
        for _ in range(2):
            cluster.add_node(num_cpus=2)
        sparkray.init(address=cluster.address)
        cluster.wait_for_nodes()
        yield cluster


def within(group: PlacementGroup, index: int = -1) -> dict[str, Any]:
    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, index)}


@sparkray.remote
def node_id() -> str:
    return sparkray.get_runtime_context().get_node_id()


@sparkray.remote
def stay(begun: Path) -> None:
    """Runs until it is killed."""
    begun.touch()
    time.sleep(10 * PATIENCE)


@sparkray.remote
class Home:
    def node_id(self) -> str:
        return sparkray.get_runtime_context().get_node_id()


def error_of(ref: Any) -> BaseException:
    with pytest.raises(exceptions.RayError) as caught:
        sparkray.get(ref, timeout=PATIENCE)
    return caught.value


def test_removal_ends_all_that_is_in_a_group_and_frees_its_resources(nodes, tmp_path):
    group = placement_group([{"CPU": 2}, {"CPU": 2}], strategy="STRICT_SPREAD")
    assert group.wait(PATIENCE)
    home = Home.options(num_cpus=1, max_restarts=-1, **within(group, 0)).remote()
    sparkray.get(home.node_id.remote(), timeout=PATIENCE)
    once = stay.options(max_retries=0, **within(group, 0)).remote(tmp_path / "once")
    again = stay.options(num_cpus=2, max_retries=-1, **within(group, 1)).remote(tmp_path / "again")
    wait_until(lambda: (tmp_path / "once").exists() and (tmp_path / "again").exists())
    queued = node_id.options(**within(group, 1)).remote()
    waiting = Home.options(num_cpus=1, **within(group, 1)).remote()
    ready = group.ready()
    sparkray.get(ready, timeout=PATIENCE)

    remove_placement_group(group)
    assert type(error_of(home.node_id.remote())) is exceptions.ActorDiedError
    assert type(error_of(once)) is exceptions.WorkerCrashedError
    assert type(error_of(again)) is exceptions.TaskPlacementGroupRemoved, "it is tried again"
    assert type(error_of(queued)) is exceptions.TaskPlacementGroupRemoved
    assert isinstance(error_of(waiting.node_id.remote()), exceptions.RayActorError | exceptions.ActorUnschedulableError)
    assert type(error_of(node_id.options(**within(group)).remote())) is exceptions.TaskPlacementGroupRemoved
    assert type(error_of(group.ready())) is exceptions.TaskPlacementGroupRemoved
    late = Home.options(num_cpus=1, **within(group)).remote()
    assert type(error_of(late.node_id.remote())) is exceptions.ActorPlacementGroupRemoved
    with pytest.raises(ValueError, match="does not exist"):
        group.wait(1)
    assert placement_group_table(group)["state"] == "REMOVED"
    remove_placement_group(group)

    # All CPUs are free, and nodes offer nothing of the group.
    assert len(sparkray.get([node_id.options(num_cpus=2).remote() for _ in range(6)], timeout=PATIENCE)) == 6
    wait_until(lambda: sparkray.available_resources().get("CPU") == 6.0)
    wait_until(lambda: not any("_group_" in name for name in sparkray.cluster_resources()))


def test_a_group_that_waits_can_be_removed(nodes):
    group = placement_group([{"CPU": 64}])
    ready, task = group.ready(), node_id.options(**within(group)).remote()
    actor = Home.options(num_cpus=1, **within(group)).remote()
    method = actor.node_id.remote()
    assert not group.wait(0.2)
    remove_placement_group(group)
    assert type(error_of(ready)) is exceptions.TaskPlacementGroupRemoved
    assert type(error_of(task)) is exceptions.TaskPlacementGroupRemoved
    assert type(error_of(method)) is exceptions.ActorUnschedulableError
    with pytest.raises(ValueError, match="does not exist"):
        group.wait(1)


def test_the_bundles_of_a_dead_node_go_elsewhere_and_so_does_what_ran_there(nodes):
    group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    assert group.wait(PATIENCE)
    before = placement_group_table(group)["bundles_to_node_id"]
    head = nodes.head_node.node_id
    [moving] = [index for index, node in before.items() if node != head][:1]
    home = Home.options(num_cpus=1, max_restarts=-1, max_task_retries=0, **within(group, moving)).remote()
    assert sparkray.get(home.node_id.remote(), timeout=PATIENCE) == before[moving]
    victim = next(node for node in nodes.list_all_nodes() if node.node_id == before[moving])
    nodes.remove_node(victim, allow_graceful=False)

    def moved() -> bool:
        table = placement_group_table(group)
        return table["state"] == "CREATED" and table["bundles_to_node_id"][moving] != before[moving]

    wait_until(moved)
    after = placement_group_table(group)["bundles_to_node_id"]
    assert after[1 - moving] == before[1 - moving], "the other bundle has stayed"
    assert (
        sparkray.get(node_id.options(num_cpus=0, **within(group, moving)).remote(), timeout=PATIENCE) == after[moving]
    )

    def restarted() -> bool:
        try:
            return sparkray.get(home.node_id.remote(), timeout=PATIENCE) == after[moving]
        except exceptions.RayActorError:
            return False

    wait_until(restarted)
    assert group.wait(PATIENCE)


def test_a_group_that_lost_its_only_place_waits_for_another(nodes):
    nodes.add_node(num_cpus=1, resources={"disk": 1})
    group = placement_group([{"disk": 1}])
    assert group.wait(PATIENCE)
    place = placement_group_table(group)["bundles_to_node_id"][0]
    nodes.remove_node(next(node for node in nodes.list_all_nodes() if node.node_id == place), allow_graceful=False)
    wait_until(lambda: placement_group_table(group)["state"] == "RESCHEDULING")
    waiting = node_id.options(num_cpus=0, **within(group)).remote()
    assert not group.wait(0.2)
    fresh = nodes.add_node(num_cpus=1, resources={"disk": 1})
    assert group.wait(PATIENCE)
    assert sparkray.get(waiting, timeout=PATIENCE) == fresh.node_id


def test_groups_end_with_their_program_but_for_detached_ones(nodes):
    sparkray.shutdown()
    sparkray.init(address=nodes.address, namespace="here")
    for lifetime in (None, "detached"):
        assert placement_group([{"CPU": 1}], name=str(lifetime), lifetime=lifetime).wait(PATIENCE)
    sparkray.shutdown()
    sparkray.init(address=nodes.address, namespace="here")
    states = {row["name"]: row["state"] for row in placement_group_table().values()}
    assert states == {"None": "REMOVED", "detached": "CREATED"}
    group = get_placement_group("detached")
    assert sparkray.get(node_id.options(**within(group)).remote(), timeout=PATIENCE)
    remove_placement_group(group)
