"""Placement groups: where their bundles are, and what runs in them."""

# mypy: disable-error-code="attr-defined,union-attr,no-any-return,arg-type,call-arg"
from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

import sparkray
from process.helpers import wait_until
from sparkray import exceptions
from sparkray.cluster_utils import Cluster
from sparkray.util import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from sparkray.util.placement_group import PlacementGroup
from sparkray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

PATIENCE = 60


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[Cluster]:
    """With two CPUs each."""
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 2}) as cluster:
        for _ in range(2):
            cluster.add_node(num_cpus=2)
        sparkray.init(address=cluster.address)
        cluster.wait_for_nodes()
        yield cluster
        sparkray.shutdown()


@contextlib.contextmanager
def reserved(bundles: list[dict[str, float]], **options: Any) -> Iterator[PlacementGroup]:
    """A group, while it is needed."""
    group = placement_group(bundles, **options)
    try:
        yield group
    finally:
        remove_placement_group(group)
        # The next test has all CPUs.
        wait_until(lambda: sparkray.available_resources().get("CPU") == 6.0)


def within(group: PlacementGroup | None, index: int = -1, capture: bool | None = None) -> dict[str, Any]:
    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, index, capture)}


@sparkray.remote
def node_id() -> str:
    return sparkray.get_runtime_context().get_node_id()


@sparkray.remote
class Home:
    def node_id(self) -> str:
        return sparkray.get_runtime_context().get_node_id()

    def facts(self) -> tuple[PlacementGroup | None, dict[str, float]]:
        return get_current_placement_group(), sparkray.get_runtime_context().get_assigned_resources()


@pytest.mark.parametrize(
    ("strategy", "bundles", "nodes"),
    [
        ("PACK", [{"CPU": 1}, {"CPU": 1}], 1),
        ("PACK", [{"CPU": 1}] * 3, 2),
        ("STRICT_PACK", [{"CPU": 1}, {"CPU": 1}], 1),
        ("SPREAD", [{"CPU": 1}] * 3, 3),
        ("SPREAD", [{"CPU": 1}] * 4, 3),
        ("STRICT_SPREAD", [{"CPU": 2}] * 3, 3),
    ],
)
def test_bundles_are_where_the_strategy_wants_them_and_tasks_run_there(three_nodes, strategy, bundles, nodes):
    with reserved(bundles, strategy=strategy) as group:
        assert sparkray.get(group.ready(), timeout=PATIENCE) == group
        places = placement_group_table(group)["bundles_to_node_id"]
        assert len(set(places.values())) == nodes
        for index, place in places.items():
            assert sparkray.get(node_id.options(**within(group, index)).remote(), timeout=PATIENCE) == place
            home = Home.options(num_cpus=1, **within(group, index)).remote()
            assert sparkray.get(home.node_id.remote(), timeout=PATIENCE) == place
        assert group.bundle_specs == bundles
        assert group.bundle_count == len(bundles)


@pytest.mark.parametrize(
    ("strategy", "bundles"), [("STRICT_PACK", [{"CPU": 1}] * 3), ("STRICT_SPREAD", [{"CPU": 1}] * 4)]
)
def test_a_group_that_fits_on_no_node_says_so(three_nodes, strategy, bundles):
    with reserved(bundles, strategy=strategy) as group:
        assert not group.wait(timeout_seconds=0.2)
        table = placement_group_table(group)
        assert table["state"] == "PENDING"
        assert set(table["bundles_to_node_id"].values()) == {""}
        assert table["stats"]["scheduling_state"] == "INFEASIBLE"
        with pytest.raises(exceptions.GetTimeoutError):
            sparkray.get(group.ready(), timeout=0.1)


def test_a_group_waits_for_room_for_all_its_bundles(three_nodes):
    with reserved([{"CPU": 2}] * 2, strategy="STRICT_SPREAD") as first:
        assert first.wait(PATIENCE)
        with reserved([{"CPU": 1}] * 2, strategy="STRICT_SPREAD") as second:
            assert not second.wait(0.2)
            assert placement_group_table(second)["stats"]["scheduling_state"] == "NO_RESOURCES"
            assert sparkray.available_resources()["CPU"] == 2.0, "nothing is reserved for a part of it"
            remove_placement_group(first)
            assert second.wait(PATIENCE)


def test_the_resources_of_nodes_have_rays_names(three_nodes):
    with reserved([{"CPU": 2}, {"CPU": 1}]) as group:
        assert group.wait(PATIENCE)
        name = group.id.hex()
        # Two nodes report it.
        wait_until(lambda: sparkray.cluster_resources().get(f"CPU_group_{name}") == 3.0)
        resources = sparkray.cluster_resources()
        assert resources[f"CPU_group_0_{name}"] == 2.0
        assert resources[f"CPU_group_1_{name}"] == 1.0
        assert resources[f"bundle_group_{name}"] == 2000.0
        wait_until(lambda: sparkray.available_resources()["CPU"] == 3.0)
    wait_until(lambda: not any("_group_" in resource for resource in sparkray.cluster_resources()))


def test_who_runs_in_a_group_knows_it_and_holds_plain_resources(three_nodes):
    @sparkray.remote
    def current() -> PlacementGroup | None:
        return get_current_placement_group()

    with reserved([{"CPU": 1}, {"CPU": 1}]) as group:
        home = Home.options(num_cpus=1, **within(group, 0)).remote()
        assert sparkray.get(home.facts.remote(), timeout=PATIENCE) == (group, {"CPU": 1.0})
        assert sparkray.get(current.options(**within(group, 1)).remote(), timeout=PATIENCE) == group
        assert sparkray.get(current.remote(), timeout=PATIENCE) is None
        assert get_current_placement_group() is None


@pytest.mark.parametrize(("capture", "follows"), [(True, True), (False, False), (None, False)])
def test_child_tasks_follow_into_the_group_when_they_are_to(three_nodes, capture, follows):
    @sparkray.remote(num_cpus=0)
    def current() -> tuple[PlacementGroup | None, bool]:
        context = sparkray.get_runtime_context()
        return get_current_placement_group(), context.should_capture_child_tasks_in_placement_group

    @sparkray.remote(num_cpus=0)
    class Child:
        def current(self) -> PlacementGroup | None:
            return get_current_placement_group()

    @sparkray.remote(num_cpus=0)
    def parent() -> list[Any]:
        plain = current.options(scheduling_strategy="DEFAULT").remote()
        child = Child.remote()
        return sparkray.get([current.remote(), child.current.remote(), plain], timeout=PATIENCE)

    with reserved([{"CPU": 1}]) as group:
        found = sparkray.get(parent.options(**within(group, 0, capture)).remote(), timeout=PATIENCE)
        expected = group if follows else None
        assert found == [(expected, follows), expected, (None, False)]
        # The same worker serves both, or another one: what was called before is not remembered.
        found = sparkray.get(parent.remote(), timeout=PATIENCE)
        assert found == [(None, False), None, (None, False)]


def test_a_full_bundle_is_waited_for_although_nodes_are_idle(three_nodes):
    with reserved([{"CPU": 1}]) as group:
        home = Home.options(num_cpus=1, **within(group)).remote()
        sparkray.get(home.node_id.remote(), timeout=PATIENCE)
        late = node_id.options(**within(group)).remote()
        assert sparkray.wait([late], timeout=0.5) == ([], [late])
        sparkray.kill(home)
        assert sparkray.get(late, timeout=PATIENCE) == placement_group_table(group)["bundles_to_node_id"][0]
        # A full bundle has room for those that ask for nothing.
        sparkray.get(group.ready(), timeout=PATIENCE)


def test_rays_older_options_work_too(three_nodes):
    with reserved([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD") as group:
        assert group.wait(PATIENCE)
        places = placement_group_table(group)["bundles_to_node_id"]
        old = node_id.options(placement_group=group, placement_group_bundle_index=1).remote()
        assert sparkray.get(old, timeout=PATIENCE) == places[1]
        with pytest.raises(ValueError, match="scheduling_strategy"):
            node_id.options(placement_group=group, scheduling_strategy="SPREAD")


def test_a_named_group_is_found_by_its_name_until_it_is_removed(three_nodes):
    with reserved([{"CPU": 1}], name="known") as group:
        found = get_placement_group("known")
        assert (found, found.bundle_specs) == (group, [{"CPU": 1.0}])
        assert placement_group_table()[group.id.hex()]["name"] == "known"
        with pytest.raises(ValueError, match=r"known.*taken"):
            placement_group([{"CPU": 1}], name="known")
    with pytest.raises(ValueError, match="Failed to look up placement group with name: known"):
        get_placement_group("known")


def test_handles_travel_and_ready_can_be_awaited(three_nodes):
    @sparkray.remote(num_cpus=0)
    def reserve() -> tuple[PlacementGroup, list[Any]]:
        group = placement_group([{"CPU": 1}])
        return group, [group.ready()]

    async def awaited(ref: Any) -> PlacementGroup:
        return await ref

    group, [ready] = sparkray.get(reserve.remote(), timeout=PATIENCE)
    assert asyncio.run(awaited(group.ready())) == group == sparkray.get(ready, timeout=PATIENCE)
    assert group.bundle_specs == [{"CPU": 1}]
    remove_placement_group(group)


@pytest.mark.parametrize(
    "bundles",
    [[], {"CPU": 1}, [{}], [{"CPU": 0}], [{"CPU": "1"}], [{1: 1}], [{"CPU": 1}, {}], [{"bundle": 1}], [{"CPU": -1}]],
)
def test_bundles_that_cannot_be_are_refused(three_nodes, bundles):
    with pytest.raises(ValueError):
        placement_group(bundles)


def test_wrong_arguments_are_refused(three_nodes):
    with pytest.raises(ValueError, match="STRICT_PACK"):
        placement_group([{"CPU": 1}], strategy="TIGHT")
    with pytest.raises(ValueError, match="detached"):
        placement_group([{"CPU": 1}], lifetime="long")
    with pytest.raises(NotImplementedError, match="bundle_label_selector"):
        placement_group([{"CPU": 1}], bundle_label_selector=[{"zone": "a"}])
    with pytest.raises(ValueError):
        get_placement_group("")
    with pytest.raises(TypeError):
        remove_placement_group("group")
    with pytest.raises(ValueError, match="no placement group"):
        node_id.options(**within(None, 0)).remote()
    with pytest.raises(TypeError, match="placement_group"):
        node_id.options(**within("group"))
    with reserved([{"CPU": 1}, {"CPU": 1}]) as group:
        for index in (2, -2):
            with pytest.raises(ValueError, match=f"bundle index {index} is invalid"):
                node_id.options(**within(group, index)).remote()


def test_what_fits_into_no_bundle_is_refused(three_nodes):
    with reserved([{"CPU": 1}]) as group:
        with pytest.raises(ValueError, match="cannot fit"):
            node_id.options(num_cpus=2, **within(group)).remote()
        with pytest.raises(ValueError, match="cannot fit"):
            Home.options(resources={"disk": 1}, **within(group)).remote()
    with reserved([{"memory": 1000}]) as group, pytest.raises(ValueError, match="num_cpus=0"):
        Home.options(**within(group)).remote()
