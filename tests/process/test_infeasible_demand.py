"""Demand that no node can meet: the driver is told who waits for what, what there is, and what to do."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

from collections.abc import Callable

import pytest

import sparkray
from process.helpers import PATIENCE, wait_until
from sparkray._private import infeasible
from sparkray.cluster_utils import Cluster
from sparkray.util import placement_group, remove_placement_group

START = "(sparkray) Warning: "
Told = Callable[[], list[str]]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """The warnings that this driver has printed."""
    lines: list[str] = []

    def read() -> list[str]:
        lines.extend(line for line in capsys.readouterr().err.splitlines() if line.startswith(START))
        return list(lines)

    return read


@sparkray.remote
def large():
    return "done"


@sparkray.remote(num_cpus=64)
class Trainer:
    pass


def test_placement_groups_that_have_no_room_say_why(cluster, told):
    # The fixture's node has four CPUs.
    groups = [
        placement_group([{"CPU": 64}], name="large"),
        placement_group([{"CPU": 4}, {"CPU": 1}], strategy="STRICT_PACK"),
        placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD"),
        placement_group([{"CPU": 4}, {"CPU": 4}], strategy="SPREAD"),
    ]
    wait_until(lambda: len(told()) >= 4, what="four lines")
    lines = told()
    assert len(lines) == 4, lines
    large = only(lines, "placement group 'large' (1 waiting) cannot be scheduled", "'CPU': 64}")
    assert "no node has more than 4 CPU" in large and "init(num_cpus=64)" in large
    assert "no node has more than 4 CPU" in only(lines, "'CPU': 5}")
    spread = only(lines, "STRICT_SPREAD")
    assert f"placement group {groups[2].id.hex()[:8]} (1 waiting)" in spread
    assert "have more or larger nodes" in spread
    assert "'CPU': 8}: its 2 bundles have no room" in only(lines, "no room on all nodes together")
    for group in groups:
        remove_placement_group(group)


def only(lines: list[str], *words: str) -> str:
    """The one line that has all of these words."""
    found = [line for line in lines if all(word in line for word in words)]
    assert len(found) == 1, (words, lines)
    return found[0]


def test_each_kind_of_demand_is_told_in_a_line_with_who_waits_and_what_there_is(cluster, told):
    waiting = [large.options(num_cpus=64).remote() for _ in range(100)]
    actors = [Trainer.remote() for _ in range(3)]
    waiting += [
        large.options(num_gpus=1).remote(),
        large.options(name="slotted", resources={"slot": 2}).remote(),
        large.options(label_selector={"zone": "b"}).remote(),
        large.options(memory=1 << 45).remote(),
    ]
    wait_until(lambda: len(told()) >= 5, what="five lines")
    lines = told()
    assert len(lines) == 5, lines
    cpus = only(lines, "'CPU': 64}")
    assert "task large (32+ waiting)" in cpus and "actor Trainer (3 waiting)" in cpus
    assert "no node has more than 4 CPU" in cpus and "All nodes together have {'CPU': 4, " in cpus
    assert "init(num_cpus=64)" in cpus
    gpus = only(lines, "'GPU': 1}", "task large (1 waiting)", "no node has more than 0 GPU")
    assert "custom resource" in gpus
    only(lines, "task slotted (1 waiting)", "no node has more than 0 slot", "init(resources={'slot': 2})")
    only(lines, "{zone: in(b)}", "those of the nodes are none", "init(labels=...)")
    only(lines, "{'CPU': 1, 'memory': 32768.00 GiB}", "no node has more than", f"init(_memory={1 << 45})")
    # What can run does, beside all that.
    assert sparkray.get(large.remote(), timeout=PATIENCE) == "done"
    assert told() == lines, "nothing is told twice so soon"
    del waiting, actors


def test_a_flood_of_kinds_is_counted(cluster, told):
    waiting = [large.options(resources={f"r{number}": 1}).remote() for number in range(15)]
    wait_until(lambda: any("more kinds of demand wait" in line for line in told()), what="the count")
    lines = told()
    assert len(lines) == 11, lines
    assert "5 more kinds" in lines[-1]
    del waiting


def test_what_a_task_submits_is_told_to_the_driver(cluster, told):
    @sparkray.remote
    def outer():
        return [large.options(num_cpus=64).remote()]

    inner = sparkray.get(outer.remote(), timeout=PATIENCE)
    wait_until(lambda: told(), what="a line")
    only(told(), "task large (1 waiting)", "'CPU': 64}")
    del inner


def test_the_warning_ends_and_what_waited_runs_when_a_node_joins_that_can_meet_it(told):
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 1}) as nodes:
        sparkray.init(address=nodes.address)
        task = large.options(num_cpus=4, resources={"slot": 1}).remote()
        labelled = large.options(label_selector={"zone": "b"}).remote()
        actor = Trainer.options(num_cpus=4).remote()
        wait_until(lambda: len(told()) >= 3, what="three lines")
        line = only(told(), "'slot': 1}")
        assert "no node has more than 1 CPU; no node has more than 0 slot" in line
        assert "add_node(num_cpus=4), and add a node by add_node(resources={'slot': 1})" in line
        before = told()
        nodes.add_node(num_cpus=8, resources={"slot": 1}, labels={"zone": "b"})
        assert sparkray.get([task, labelled], timeout=PATIENCE) == ["done", "done"]
        assert actor is not None and told() == before
        sparkray.shutdown()


def test_ray_scheduler_events_0_keeps_the_warnings_away(told, monkeypatch):
    def report() -> None:
        infeasible.report([({"CPU": 2.0}, "", [("task", "f", 1)], 0, "")], 0, ({"CPU": 1.0}, {"CPU": 1.0}, []))

    monkeypatch.setenv("RAY_SCHEDULER_EVENTS", "0")
    report()
    assert not told()
    monkeypatch.delenv("RAY_SCHEDULER_EVENTS")
    report()
    assert len(told()) == 1


def test_what_no_single_node_has_together_and_long_lists_fit_a_line():
    nodes = infeasible.Nodes(
        total={"CPU": 4.0, "slot": 1.0, "memory": float(3 << 30), **{f"r{number:02}": 1.0 for number in range(20)}},
        largest={"CPU": 4.0, "slot": 1.0},
        labels=[],
    )
    shape = infeasible.Shape({"CPU": 1.0, "slot": 0.5}, "", [("task", "f", 2), ("actor", "A", 40)], others=7)
    text = infeasible.describe(shape, nodes, infeasible.LOCAL)
    assert text.startswith("task f (2 waiting), actor A (40 waiting), 7 more cannot be scheduled: ")
    assert "no single node has all of it together" in text and "have one node with all of it" in text
    assert "{'CPU': 4, 'slot': 1, 'memory': 3.00 GiB, 'r00': 1, " in text and "'r08': 1, 11 more}" in text
