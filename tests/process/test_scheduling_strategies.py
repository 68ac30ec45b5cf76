"""On which nodes tasks and actors run: spread, affinity, labels; for tasks and actors alike where that can be."""

# mypy: disable-error-code="attr-defined,union-attr,no-any-return,arg-type,dict-item"
from __future__ import annotations

import contextlib
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import sparkray
from process.helpers import wait_until
from sparkray import exceptions
from sparkray._private.worker import core_worker
from sparkray.cluster_utils import Cluster
from sparkray.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
)


@contextlib.contextmanager
def three_nodes() -> Iterator[Cluster]:
    """With two CPUs each, of the zones a, b and b; the last has a label more."""
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "labels": {"zone": "a"}}) as cluster:
        cluster.add_node(num_cpus=2, labels={"zone": "b"})
        cluster.add_node(num_cpus=2, labels={"zone": "b", "disk": "ssd"})
        sparkray.init(address=cluster.address)
        cluster.wait_for_nodes()
        yield cluster
        sparkray.shutdown()


@pytest.fixture(scope="module")
def zones() -> Iterator[Cluster]:
    with three_nodes() as cluster:
        yield cluster


@sparkray.remote
def node_id() -> str:
    return sparkray.get_runtime_context().get_node_id()


@sparkray.remote
class Home:
    def node_id(self) -> str:
        return sparkray.get_runtime_context().get_node_id()


@sparkray.remote
def meet(directory: Path, count: int) -> str:
    """Keeps its CPU until so many have come."""
    (directory / uuid.uuid4().hex).touch()
    wait_until(lambda: len(list(directory.iterdir())) >= count)
    return sparkray.get_runtime_context().get_node_id()


def of_task(**options) -> str:
    return sparkray.get(node_id.options(**options).remote(), timeout=60)


def of_actor(**options) -> str:
    home = Home.options(**options).remote()
    return sparkray.get(home.node_id.remote(), timeout=60)


WHERE = pytest.mark.parametrize("where", [of_task, of_actor])


def affinity(node, soft: bool = False) -> dict[str, object]:
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(getattr(node, "node_id", node), soft)}


@WHERE
@pytest.mark.parametrize("soft", [False, True])
def test_an_affinity_runs_on_its_node(zones, where, soft):
    for node in zones.list_all_nodes():
        assert where(**affinity(node, soft)) == node.node_id


def test_an_affinity_waits_for_a_busy_node(zones, tmp_path):
    """Others are idle; it does not go there."""
    busy = zones.list_all_nodes()[1]
    blockers = [meet.options(**affinity(busy)).remote(tmp_path, 3) for _ in range(2)]
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    waiting = [node_id.options(**affinity(busy, soft)).remote() for soft in (False, True)]
    assert sparkray.wait(waiting, timeout=1) == ([], waiting)
    (tmp_path / "go").touch()
    assert sparkray.get(blockers + waiting, timeout=60) == [busy.node_id] * 4


@WHERE
def test_a_soft_affinity_to_a_node_that_is_not_there_runs_anywhere(zones, where):
    assert where(**affinity("0" * 32, soft=True)) in {node.node_id for node in zones.list_all_nodes()}


@WHERE
@pytest.mark.parametrize("why", ["unknown", "too small"])
def test_a_hard_affinity_that_cannot_be_kept_is_an_error(zones, where, why):
    node = "0" * 32 if why == "unknown" else zones.list_all_nodes()[2].node_id
    error = exceptions.TaskUnschedulableError if where is of_task else exceptions.ActorUnschedulableError
    with pytest.raises(error, match=f"{node}.*soft=True"):
        where(num_cpus=1 if why == "unknown" else 3, **affinity(node))


def test_spread_tasks_use_all_nodes(zones, tmp_path):
    places = [meet.options(scheduling_strategy="SPREAD").remote(tmp_path, 6) for _ in range(6)]
    expected = {node.node_id: 2 for node in zones.list_all_nodes()}
    assert Counter(sparkray.get(places, timeout=60)) == expected


def test_spread_tasks_take_turns_though_one_node_has_room_for_all(zones, tmp_path):
    spread = meet.options(scheduling_strategy="SPREAD", num_cpus=0)
    places = [spread.remote(tmp_path, 3) for _ in range(3)]
    assert set(sparkray.get(places, timeout=60)) == {node.node_id for node in zones.list_all_nodes()}


def test_spread_actors_use_all_nodes(zones):
    # Those of other tests count as long as they live.
    wait_until(lambda: all(actor["state"] == "DEAD" for actor in core_worker().actors()))
    homes = [Home.options(scheduling_strategy="SPREAD").remote() for _ in range(6)]
    places = sparkray.get([home.node_id.remote() for home in homes], timeout=60)
    assert Counter(places) == {node.node_id: 2 for node in zones.list_all_nodes()}


LABELS = [
    ({"label_selector": {"zone": "a"}}, {0}),
    ({"label_selector": {"zone": "!a"}}, {1, 2}),
    ({"label_selector": {"zone": "in(b, c)"}}, {1, 2}),
    ({"label_selector": {"zone": "!in(a,c)"}}, {1, 2}),
    ({"label_selector": {"zone": "b", "disk": "ssd"}}, {2}),
    ({"label_selector": {"disk": "!ssd"}}, {0, 1}),
    ({"scheduling_strategy": NodeLabelSchedulingStrategy({"disk": Exists()})}, {2}),
    ({"scheduling_strategy": NodeLabelSchedulingStrategy({"zone": In("b"), "disk": DoesNotExist()})}, {1}),
    ({"scheduling_strategy": NodeLabelSchedulingStrategy({"zone": NotIn("b", "c")})}, {0}),
    ({"scheduling_strategy": NodeLabelSchedulingStrategy(soft={"disk": In("ssd")})}, {2}),
    ({"scheduling_strategy": NodeLabelSchedulingStrategy({"zone": In("b")}, soft={"zone": In("a")})}, {1, 2}),
    ({"scheduling_strategy": NodeLabelSchedulingStrategy({"zone": In("b")}, soft={"disk": Exists()})}, {2}),
    ({"scheduling_strategy": "DEFAULT", "label_selector": None}, {0, 1, 2}),
]


@WHERE
@pytest.mark.parametrize("options, allowed", LABELS)
def test_labels_say_where(zones, where, options, allowed):
    # What asks for nothing has room everywhere, whatever ran before.
    assert where(num_cpus=0, **options) in {zones.list_all_nodes()[index].node_id for index in allowed}


@WHERE
def test_every_node_has_its_id_as_a_label(zones, where):
    for node in zones.list_all_nodes():
        assert where(label_selector={"ray.io/node-id": node.node_id}) == node.node_id


@pytest.mark.parametrize(
    "options, error",
    [
        ({"scheduling_strategy": "FOO"}, ValueError),
        ({"scheduling_strategy": 5}, TypeError),
        ({"label_selector": "a"}, TypeError),
        ({"label_selector": {"a": 1}}, TypeError),
        ({"label_selector": {1: "a"}}, TypeError),
        *[
            ({"label_selector": {"a": text}}, ValueError)
            for text in ("in()", "!", "in(a,b", "a b", "IN(a)", "!!a", "a,b", "=a", "in(a,)", "!in()")
        ],
        *[({"label_selector": {key: "a"}}, ValueError) for key in ("", "a b", "a/b", "-a", "a" * 64)],
        ({"label_selector": {"a": "b"}, "scheduling_strategy": "SPREAD"}, NotImplementedError),
    ],
)
@pytest.mark.parametrize("what", [node_id, Home])
def test_what_cannot_be_read_is_refused_at_once(what, options, error):
    with pytest.raises(error):
        what.options(**options)


def test_strategies_check_their_arguments():
    with pytest.raises(ValueError, match="32 hexadecimal digits"):
        NodeAffinitySchedulingStrategy("nobody", soft=False)
    with pytest.raises(TypeError):
        NodeAffinitySchedulingStrategy("0" * 32, soft="no")
    with pytest.raises(NotImplementedError):
        NodeAffinitySchedulingStrategy("0" * 32, False, _spill_on_unavailable=True)
    for operator in (In, NotIn):
        with pytest.raises(ValueError, match="at least one"):
            operator()
        with pytest.raises(TypeError):
            operator(1)
    with pytest.raises(ValueError, match="both"):
        NodeLabelSchedulingStrategy({})
    with pytest.raises(TypeError, match="In"):
        NodeLabelSchedulingStrategy({"a": "b"})
    with pytest.raises(TypeError):
        NodeLabelSchedulingStrategy({1: Exists()})


@pytest.mark.parametrize(
    "labels, error", [({"a": 1}, TypeError), ({"a": "b c"}, ValueError), ({"a/b": "c"}, ValueError)]
)
def test_labels_of_a_node_are_checked_at_once(zones, labels, error):
    with pytest.raises(error):
        zones.add_node(num_cpus=1, labels=labels)
