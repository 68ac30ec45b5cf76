"""`sparkray.init` and `shutdown` in a program whose cluster RayContext started: every program for Ray has that line."""

# mypy: disable-error-code="attr-defined"
from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sparkray
from process.helpers import alive, run_driver, wait_until
from sparkray import exceptions
from sparkray._private import log_output, worker
from sparkray.spark import RayContext, RayContextError, init_spark_on_local
from support.ray_processes import Recorded, Traces

STORE = "64m"
CONF = {"spark.ui.enabled": "false"}


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    context = init_spark_on_local(cores=2, conf=CONF)
    yield context
    context.stop()


@pytest.fixture
def context(spark: Any) -> Iterator[RayContext]:
    """A cluster that this program is connected to; nothing of it is left afterwards."""
    context = RayContext(spark, object_store_memory=STORE)
    context.init()
    recorded = Recorded(context)
    yield context
    context.stop()
    recorded.assert_gone()
    assert not sparkray.is_initialized()


@sparkray.remote
def identity(value: Any) -> Any:
    return value


@sparkray.remote
class Named:
    def ping(self) -> str:
        return "pong"


def init_quietly(**arguments: Any) -> sparkray.ClusterInfo:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return sparkray.init(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"address": "auto"},
        {"ignore_reinit_error": True},
        {"num_gpus": 0, "resources": {}, "log_to_driver": True},
    ],
    ids=str,
)
def test_init_returns_the_cluster_that_runs(context: RayContext, arguments: dict[str, Any]) -> None:
    kept = sparkray.put("kept")
    for _ in range(2):
        info = init_quietly(**arguments)
        assert info["cluster_id"] == context.cluster_id
        assert info["node_id"] == context.address_info["node_id"]
    assert sparkray.get(identity.remote(kept), timeout=60) == "kept"
    for address in (info["address"], context.address_info["address"]):
        assert init_quietly(address=address)["cluster_id"] == context.cluster_id


def test_what_it_cannot_meet_is_named_in_one_warning(context: RayContext) -> None:
    with pytest.warns(UserWarning) as caught:
        info = sparkray.init(
            "192.0.2.1:6379", num_cpus=64, num_gpus=0, resources={"slot": 2}, object_store_memory="1g", namespace="mine"
        )
    assert info["cluster_id"] == context.cluster_id and info["namespace"] == "mine"
    (warning,) = caught
    text = str(warning.message)
    assert warning.filename == __file__
    for words in (
        "address='192.0.2.1:6379'",
        "num_cpus=64",
        "resources={'slot': 2}",
        "object_store_memory='1g'",
        "ray_node_cpu_cores",
    ):
        assert words in text
    assert "num_gpus" not in text and "namespace" not in text
    assert "slot" not in sparkray.cluster_resources()


@pytest.mark.parametrize("left", [False, True])
def test_no_other_cluster_is_started_beside_it(
    context: RayContext, monkeypatch: pytest.MonkeyPatch, left: bool
) -> None:
    if left:
        sparkray.shutdown()
    with pytest.warns(UserWarning, match="address='local'"):
        assert sparkray.init("local")["cluster_id"] == context.cluster_id
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    with pytest.warns(UserWarning, match=r"192\.0\.2\.1"):
        assert sparkray.init()["cluster_id"] == context.cluster_id


@pytest.mark.parametrize(
    ("arguments", "error"),
    [({"namespace": ""}, ValueError), ({"num_cpu": 1}, TypeError), ({"address": 5}, TypeError)],
    ids=str,
)
def test_wrong_arguments_are_refused_as_ever(
    context: RayContext, arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        sparkray.init(**arguments)
    assert context.initialized


def test_a_namespace_holds_from_then_on_in_workers_too(context: RayContext) -> None:
    @sparkray.remote
    def look(name: str) -> tuple[str, bool]:
        try:
            sparkray.get_actor(name)
        except ValueError:
            return sparkray.get_runtime_context().namespace, False
        return sparkray.get_runtime_context().namespace, True

    before = sparkray.get_runtime_context().namespace
    # Workers that have asked for the namespace before hear of the new one.
    assert set(sparkray.get([look.remote("it") for _ in range(8)], timeout=60)) == {(before, False)}
    assert init_quietly(namespace="mine")["namespace"] == "mine"
    actor = Named.options(name="it").remote()
    assert sparkray.get(actor.ping.remote(), timeout=60) == "pong"
    assert set(sparkray.get([look.remote("it") for _ in range(8)], timeout=60)) == {("mine", True)}
    assert sparkray.get_actor("it", namespace="mine") == actor
    assert sparkray.util.list_named_actors() == ["it"]
    # What is not given stays.
    assert init_quietly()["namespace"] == "mine"


def test_log_to_driver_holds_from_then_on(context: RayContext, capsys: pytest.CaptureFixture[str]) -> None:
    @sparkray.remote
    def say(words: str) -> None:
        print(words, flush=True)

    printed = ""

    def heard(words: str) -> bool:
        nonlocal printed
        printed += capsys.readouterr().out
        return words in printed

    def arrives(words: str) -> None:
        seen = log_output._arrivals
        sparkray.get(say.remote(words), timeout=60)
        wait_until(lambda: log_output._arrivals > seen, 60, "the line reached this process")

    init_quietly(log_to_driver=False)
    arrives("not to be seen")
    init_quietly()
    arrives("nor this")
    init_quietly(log_to_driver=True)
    sparkray.get(say.remote("to be seen"), timeout=60)
    wait_until(lambda: heard("to be seen"), 60, "the line is printed")
    assert "not to be seen" not in printed and "nor this" not in printed


def test_init_shows_output_that_the_ray_context_did_not_want(spark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    @sparkray.remote
    def say() -> None:
        print("to be seen", flush=True)

    with RayContext(spark, object_store_memory=STORE, log_to_driver=False):
        init_quietly(log_to_driver=True)
        sparkray.get(say.remote(), timeout=60)
        wait_until(lambda: "to be seen" in capsys.readouterr().out, 60, "the line is printed")


def test_shutdown_ends_the_connection_and_init_joins_again(spark: Any, context: RayContext) -> None:
    sparkray.init(namespace="mine")
    detached = Named.options(name="stays", lifetime="detached").remote()
    assert sparkray.get(detached.ping.remote(), timeout=60) == "pong"
    reference, job = sparkray.put("gone"), sparkray.get_runtime_context().get_job_id()
    raylet = context.nodes()[0]["pid"]
    cluster_id = context.cluster_id

    sparkray.shutdown()
    assert [sparkray.is_initialized(), context.initialized] == [False, False]
    uses: list[Callable[[], Any]] = [
        lambda: sparkray.put(1),
        lambda: sparkray.get(reference),
        lambda: identity.remote(1),
        lambda: detached.ping.remote(),
        lambda: sparkray.nodes(),
        lambda: sparkray.from_spark(None),
    ]
    for use in uses:
        with pytest.raises(exceptions.RaySystemError, match=r"sparkray\.init\(\) to join it again"):
            use()
    # The cluster and the Spark application go on.
    assert alive(raylet) and context.nodes()[0]["state"] == "up"
    context.check()
    assert context.cluster_id == cluster_id in repr(context)
    assert sum(spark.parallelize(range(10), 2).collect()) == 45

    info = init_quietly()
    assert info["cluster_id"] == cluster_id and context.initialized
    assert sparkray.get_runtime_context().get_job_id() != job
    assert sparkray.get(identity.remote(1), timeout=60) == 1
    again = sparkray.get_actor("stays", namespace="mine")
    assert sparkray.get(again.ping.remote(), timeout=60) == "pong"
    # As a context manager it ends the connection, too.
    with init_quietly(namespace="other") as joined:
        assert joined["namespace"] == "other"
    assert not sparkray.is_initialized() and alive(raylet)


def test_the_ray_context_joins_again_too(spark: Any, context: RayContext) -> None:
    from pyspark.sql import SparkSession

    cluster_id = context.cluster_id
    sparkray.shutdown()
    assert RayContext.get(initialize=False) is context
    other = RayContext(spark, object_store_memory="65m")
    with pytest.raises(RayContextError, match="other arguments"):
        other.init()
    assert not sparkray.is_initialized()
    assert context.init()["cluster_id"] == cluster_id
    session = SparkSession(spark)
    blocks = sparkray.from_spark(session.range(100))
    assert sparkray.to_spark(blocks, session).count() == 100
    sparkray.shutdown()
    assert not context._current().kept
    same = RayContext(spark, object_store_memory=STORE)
    assert same.init()["cluster_id"] == cluster_id
    same.stop()
    assert not context.initialized


def _joined() -> None:
    sparkray.init()


def _left() -> None:
    sparkray.shutdown()


def _joined_again() -> None:
    sparkray.shutdown()
    sparkray.init(namespace="again")


@pytest.mark.parametrize("reach", [_joined, _left, _joined_again])
def test_stop_ends_all_of_it_from_each_state(spark: Any, reach: Callable[[], None]) -> None:
    context = RayContext(spark, object_store_memory=STORE)
    context.init()
    recorded = Recorded(context)
    reach()
    context.stop()
    recorded.assert_gone()
    recorded.assert_quiet()
    assert not sparkray.is_initialized() and not context.initialized
    with pytest.raises(exceptions.RaySystemError, match="was stopped"):
        sparkray.put(1)
    with pytest.raises(RayContextError, match="was stopped"):
        _ = context.address_info
    # Spark goes on, and so may Ray.
    assert spark.parallelize(range(10), 2).count() == 10
    with context:
        assert sparkray.get(identity.remote(1), timeout=60) == 1


@pytest.mark.parametrize("end", ["", "context.sc.stop()"])
def test_a_program_that_does_not_stop_its_ray_context_leaves_nothing(end: str) -> None:
    done = run_driver(
        f"""
        import sparkray
        from sparkray.spark import RayContext, init_spark_on_local
        from support.ray_processes import Recorded

        context = RayContext(init_spark_on_local(cores=1, conf={CONF!r}), object_store_memory={STORE!r})
        context.init()
        sparkray.init()
        print("TRACES", Recorded(context).text())
        sparkray.shutdown()
        {end}
        """
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("TRACES ")]
    Traces.of_text(line.removeprefix("TRACES ")).assert_gone()


def test_a_fork_of_a_program_that_left_does_not_join(context: RayContext) -> None:
    sparkray.shutdown()
    child = os.fork()
    if child == 0:
        try:
            sparkray.put(1)
            os._exit(1)
        except exceptions.RaySystemError as error:
            context.stop()
            os._exit(0 if "forked" in str(error) else 2)
        except BaseException:
            os._exit(3)
    assert os.waitpid(child, 0)[1] == 0
    context.check()


def test_init_says_that_the_cluster_is_lost(spark: Any) -> None:
    context = RayContext(spark, object_store_memory=STORE)
    context.init()
    recorded = Recorded(context)
    sparkray.shutdown()
    os.kill(context._running()["head_pid"], signal.SIGKILL)
    wait_until(lambda: context._current().failure() is not None, 60, "the loss is seen")
    with pytest.raises(RayContextError, match=r"call stop\(\)"):
        sparkray.init()
    context.stop()
    recorded.assert_gone()


def test_without_a_ray_context_a_second_init_is_refused_as_before(spark: Any) -> None:
    RayContext(spark, object_store_memory=STORE)
    with sparkray.init(num_cpus=1):
        with pytest.raises(RuntimeError, match="is running in this process already"):
            sparkray.init()
        with pytest.raises(RuntimeError, match="is running in this process already"):
            sparkray.init("auto")


def test_init_changes_the_variables_of_what_is_called_from_now_on(context: RayContext) -> None:
    @sparkray.remote
    def variable() -> str | None:
        return os.environ.get("FRUIT")

    assert sparkray.get(variable.remote(), timeout=60) is None
    sparkray.init(runtime_env={"env_vars": {"FRUIT": "apple"}})
    assert sparkray.get(variable.remote(), timeout=60) == "apple"
    sparkray.init()
    assert sparkray.get(variable.remote(), timeout=60) == "apple"
    sparkray.shutdown()
    sparkray.init()
    assert sparkray.get(variable.remote(), timeout=60) is None


def test_what_is_stopped_while_init_joins_it_is_not_joined(
    context: RayContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, connect = context._cluster, worker.connect_driver
    assert cluster is not None
    sparkray.shutdown()

    def connect_and_stop(*args: Any, **arguments: Any) -> Any:
        core = connect(*args, **arguments)
        # As stop() does in another thread that found no connection.
        cluster._end()
        return core

    monkeypatch.setattr(worker, "connect_driver", connect_and_stop)
    with pytest.raises(RayContextError, match="was stopped while this program joined it"):
        sparkray.init()
    monkeypatch.undo()
    assert not sparkray.is_initialized()
    # A cluster of its own: there is none to join.
    with sparkray.init(num_cpus=1) as own:
        assert own["cluster_id"] != cluster.id
    context.init()
    assert sparkray.get(identity.remote(1), timeout=60) == 1
