"""The head is lost, with its executor or alone; or the driver's own raylet: a clear error everywhere, never a hang."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sparkray
from process.helpers import alive, wait_until
from sparkray import exceptions
from sparkray.spark import RayContext, RayContextError
from support.ray_processes import Recorded

pytestmark = pytest.mark.filterwarnings("ignore:the virtual environment")

# Nothing that needs the head takes longer to say that it is gone.
SECONDS = 60.0


@sparkray.remote(num_cpus=0, resources={"slot": 1}, max_retries=0)
def hold(directory: str) -> str:
    """Says where it runs; ends when the file `go` is there."""
    node = sparkray.get_runtime_context().get_node_id()
    place = pathlib.Path(directory)
    (place / node).touch()
    while not (place / "go").exists():
        time.sleep(0.01)
    return node


@sparkray.remote
def one() -> int:
    return 1


@sparkray.remote(num_cpus=0)
class Actor:
    def two(self) -> int:
        return 2


class Pending:
    """A get() that began before the loss, in a thread of its own."""

    def __init__(self, reference: Any) -> None:
        self.outcome: Any = None
        self._reference = reference
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.outcome = sparkray.get(self._reference, timeout=60)
        except Exception as error:
            self.outcome = error

    def wait(self, seconds: float) -> Any:
        """The value, or the exception."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"a get that began before the loss hangs for {seconds} s"
        return self.outcome


def in_time(action: Callable[[], Any]) -> Any:
    """What it returns, or the exception that it raises."""
    started = time.monotonic()
    try:
        outcome = action()
    except Exception as error:
        outcome = error
    seconds = time.monotonic() - started
    assert seconds < SECONDS, f"took {seconds:.1f} s: {outcome!r}"
    assert not isinstance(outcome, exceptions.GetTimeoutError), outcome
    return outcome


def says(outcome: Any, word: str) -> bool:
    return isinstance(outcome, (exceptions.RayError, RayContextError)) and word in str(outcome)


def lost(context: RayContext) -> RayContextError | None:
    try:
        context.check()
    except RayContextError as error:
        return error
    return None


@pytest.fixture
def context(shared_spark: Any, tmp_path: pathlib.Path) -> Iterator[RayContext]:
    """A cluster that the test ends itself."""
    context = RayContext(shared_spark.sparkContext, object_store_memory="64m", extra_params={"resources": {"slot": 1}})
    context.init()
    yield context
    (tmp_path / "go").touch()
    context.stop()


def calls(spark: Any, blocks: list[Any]) -> dict[str, Callable[[], Any]]:
    """What a program may do with a cluster."""
    return {
        "nodes": sparkray.nodes,
        "cluster_resources": sparkray.cluster_resources,
        "available_resources": sparkray.available_resources,
        "an actor": lambda: sparkray.get(Actor.remote().two.remote(), timeout=60),
        "a named actor": lambda: Actor.options(name="other").remote(),
        "get_actor": lambda: sparkray.get_actor("named"),
        "from_spark": lambda: sparkray.from_spark(spark.range(1000)),
        "to_spark": lambda: sparkray.to_spark(blocks, spark),
    }


@pytest.mark.trouble("head", "raylet ended", "cannot reach the driver's manager")
@pytest.mark.parametrize("what", ["executor", "process"])
def test_the_loss_of_the_head_is_said_by_everything_that_needs_it(
    shared_spark: Any, context: RayContext, tmp_path: pathlib.Path, what: str
) -> None:
    info = context._running()
    executor = next(node for node in context.nodes() if node["executor_id"] == info["head_executor_id"])
    other = next(node for node in context.nodes() if node["executor_id"] != info["head_executor_id"])
    actor = Actor.options(name="named").remote()
    assert sparkray.get(actor.two.remote(), timeout=60) == 2
    blocks = sparkray.from_spark(shared_spark.range(0, 1000, 1, 4))
    pending = [Pending(hold.remote(str(tmp_path))) for _ in range(2)]
    # One on each node.
    for node in (executor, other):
        wait_until((tmp_path / node["node_id"]).exists, 60, "the tasks run")
    recorded = Recorded(context)

    victim = executor["executor_pid"] if what == "executor" else info["head_pid"]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not alive(victim), 60, "it is gone")
    if what == "executor":
        wait_until(lambda: not any(map(alive, (info["head_pid"], executor["pid"]))), 60, "so is what ran in it")
    wait_until(lambda: lost(context), 60, "the loss is seen")
    assert "head" in str(lost(context)) and f"executor {executor['executor_id']} on" in str(lost(context))

    for name, call in calls(shared_spark, blocks).items():
        outcome = in_time(call)
        assert says(outcome, "head"), f"{name} says {outcome!r}"
    listed = in_time(context.nodes)
    assert (
        says(listed, "head") or what == "process" or executor["executor_id"] not in {n["executor_id"] for n in listed}
    )
    # What does not need it goes on, or says why it does not.
    assert in_time(lambda: sparkray.get(sparkray.put(b"1" * 200_000))) == b"1" * 200_000
    for call, right in (
        (lambda: sparkray.get(one.remote(), timeout=60), 1),
        (lambda: sparkray.get(actor.two.remote()), 2),
    ):
        outcome = in_time(call)
        assert outcome == right or says(outcome, "head") or isinstance(outcome, exceptions.ActorDiedError), outcome
    (tmp_path / "go").touch()
    outcomes = [one_pending.wait(SECONDS) for one_pending in pending]
    nodes = {outcome for outcome in outcomes if isinstance(outcome, str)}
    assert other["node_id"] in nodes
    if what == "executor":
        (error,) = (outcome for outcome in outcomes if not isinstance(outcome, str))
        assert isinstance(error, exceptions.RayError) and not isinstance(error, exceptions.GetTimeoutError), error
    else:
        assert executor["node_id"] in nodes

    context.stop()
    recorded.assert_gone()
    with pytest.raises(RayContextError, match="was stopped"):
        context.check()
    context.init()
    assert sparkray.get([one.remote() for _ in range(4)], timeout=60) == [1] * 4


@pytest.mark.trouble("raylet ended")
def test_the_loss_of_the_drivers_own_raylet_is_said_by_everything(
    shared_spark: Any, context: RayContext, tmp_path: pathlib.Path
) -> None:
    actor = Actor.options(name="named").remote()
    assert sparkray.get(actor.two.remote(), timeout=60) == 2
    blocks = sparkray.from_spark(shared_spark.range(0, 1000, 1, 4))
    pending = Pending(hold.remote(str(tmp_path)))
    recorded = Recorded(context)
    raylet = context._running()["driver_node"]["pid"]
    os.kill(raylet, signal.SIGKILL)
    said = pending.wait(2)
    assert says(said, "the raylet of this node is gone"), said
    wait_until(lambda: lost(context), 60, "the loss is seen")
    assert "its own raylet ended" in str(lost(context))
    more = {
        "a task": lambda: sparkray.get(one.remote(), timeout=60),
        "a call": lambda: sparkray.get(actor.two.remote(), timeout=60),
        "put": lambda: sparkray.put(1),
    }
    for name, call in {**calls(shared_spark, blocks), **more}.items():
        outcome = in_time(call)
        assert says(outcome, "raylet"), f"{name} says {outcome!r}"
    context.stop()
    recorded.assert_gone()
    context.init()
    assert sparkray.get([one.remote() for _ in range(4)], timeout=60) == [1] * 4
