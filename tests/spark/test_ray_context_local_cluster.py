"""RayContext on local-cluster: a driver and two executors in JVMs of their own, without YARN."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import pathlib
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sparkray
from process.helpers import alive, run_driver, start_driver, wait_until
from sparkray.spark import RayContext, RayContextError, init_spark_on_local
from sparkray.spark.manager import Manager
from support.ray_processes import Recorded, Traces, allowed_troubles, executors_of_spark, look_at

MASTER = "local-cluster[2,1,1024]"
STORE = "64m"
CONF = {
    "spark.master": MASTER,
    "spark.ui.enabled": "false",
    "spark.ray.memory.budget": "1g",
    # Executors take long to start on a loaded machine.
    "spark.ray.init.timeout": "120s",
    "spark.ray.worker.prestart": "0",
}


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    context = init_spark_on_local(memory="1g", conf=CONF)
    yield context
    context.stop()


@pytest.fixture
def context(spark: Any, request: pytest.FixtureRequest) -> Iterator[RayContext]:
    """A cluster on both executors; nothing of it is left afterwards, and its logs are quiet."""
    context = RayContext(spark, object_store_memory=STORE)
    context.init()
    recorded = Recorded(context)
    yield context
    context.stop()
    recorded.assert_gone()
    recorded.assert_quiet(allowed_troubles(request))


@sparkray.remote
def where() -> tuple[str, int]:
    return sparkray.get_runtime_context().get_node_id(), os.getpid()


def executors(context: RayContext) -> dict[str, dict[str, Any]]:
    return {node["executor_id"]: node for node in context.nodes()}


def test_init_starts_one_node_on_each_executor_and_is_quick(spark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    first = RayContext(spark, object_store_memory=STORE)
    with pytest.raises(RayContextError, match="call init"):
        _ = first.cluster_id
    # The very first start of this SparkContext, once its executors are up.
    wait_until(lambda: executors_of_spark(spark) == 2, 90, "Spark has its executors")
    capsys.readouterr()
    started = time.monotonic()
    info = first.init()
    seconds = time.monotonic() - started
    printed = capsys.readouterr().out
    with capsys.disabled():
        print(f"\nRayContext.init() on two executors: {seconds:.2f} s")
    assert "2 nodes with 2 cores" in printed and "0.06 GiB of 1.00 GiB set aside for Ray" in printed
    assert info == first.address_info
    nodes = {node["NodeID"]: node for node in sparkray.nodes()}
    assert {node["Labels"]["executor_id"] for node in nodes.values()} == {*executors(first), "driver"}
    for executor_id, node in executors(first).items():
        assert nodes[node["node_id"]]["Labels"]["executor_id"] == executor_id
        assert nodes[node["node_id"]]["Resources"]["CPU"] == 1.0
    assert "CPU" not in nodes[info["node_id"]]["Resources"] or nodes[info["node_id"]]["Resources"]["CPU"] == 0
    resources = sparkray.cluster_resources()
    assert resources["CPU"] == 2.0
    assert resources[f"node:{sparkray.util.get_node_ip_address()}"] == len(nodes)
    assert resources["object_store_memory"] == sum(node["object_store_bytes"] for node in first.nodes()) * 3 / 2
    recorded = Recorded(first)
    first.stop()
    recorded.assert_gone()
    with pytest.raises(RayContextError, match="was stopped"):
        _ = first.address_info
    with pytest.raises(sparkray.exceptions.RaySystemError, match="was stopped"):
        sparkray.put(1)
    first.stop()


def test_every_process_is_its_executors_child_and_in_its_group(context: RayContext) -> None:
    info = context._running()
    head = look_at(info["head_pid"])
    nodes = executors(context)
    assert head.parent_pid == nodes[info["head_executor_id"]]["executor_pid"]
    for node in nodes.values():
        raylet = look_at(node["pid"])
        assert look_at(raylet.parent_pid).parent_pid == node["executor_pid"], "between them is the raylet's guardian"
        assert raylet.group == look_at(node["executor_pid"]).group
    guardian = look_at(look_at(info["driver_node"]["pid"]).parent_pid)
    assert guardian.parent_pid == info["driver_node"]["executor_pid"]
    # Both executors run workers, and each worker is its raylet's.
    seen = dict(sparkray.get([where.remote() for _ in range(20)]))
    raylets = {node["node_id"]: node["pid"] for node in nodes.values()}
    assert seen and set(seen) <= set(raylets)
    for node_id, pid in seen.items():
        assert look_at(pid).parent_pid == raylets[node_id]


def test_no_token_is_in_arguments_environment_or_spark_settings(context: RayContext, spark: Any) -> None:
    from sparkray._private import worker

    assert worker.state.core is not None
    info = context._running()
    assert "token" not in info
    for pid in Recorded(context).pids:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
        assert not [word for word in words if re.search(rb"[0-9a-fA-F]{64}", word)]
        hidden = {"SPARKRAY_TOKEN", "RAY_AUTH_TOKEN"} & set(look_at(pid).environment)
        assert not hidden
    assert not [key for key, _ in spark.getConf().getAll() if "token" in key.lower()]


def test_the_same_arguments_twice_do_nothing_and_others_are_refused(context: RayContext, spark: Any) -> None:
    assert context.init() == context.address_info
    again = RayContext(spark, object_store_memory=STORE)
    assert again.init() == context.address_info
    with pytest.raises(RayContextError, match="other arguments"):
        context.init(driver_cores=1)
    with pytest.raises(RayContextError, match="other arguments"):
        RayContext(spark, object_store_memory="65m").init()
    assert RayContext.get() is again
    assert "executor_id" in again._repr_html_()
    assert context.cluster_id in repr(context)


def test_a_context_ends_no_cluster_but_its_own(
    spark: Any, context: RayContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = RayContext(spark, object_store_memory=STORE)
    other.init()
    other.stop()
    assert not context.initialized and not other.initialized
    context.init()
    other.stop()
    context.check()
    # As another interpreter on the same JVM would: it knows of no cluster, and its start is refused.
    stranger = RayContext(spark, object_store_memory=STORE)
    with monkeypatch.context() as patch:
        patch.setattr(RayContext, "_active", None)
        patch.setattr(sparkray._private.worker.state, "core", None)
        with pytest.raises(RayContextError, match="is there already"):
            stranger.init()
    context.check()
    child = os.fork()
    if child == 0:
        try:
            context.stop()
            os._exit(0 if refused(context.init) and refused(context.check) else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    context.check()


def refused(call: Callable[[], Any]) -> bool:
    try:
        call()
    except RayContextError as error:
        return "forked" in str(error)
    return False


def test_secrets_are_not_in_the_log_of_the_gateway(
    spark: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens: list[str] = []
    init = Manager.init

    def spy(self: Manager, request: dict[str, Any]) -> dict[str, Any]:
        result = init(self, request)
        tokens.append(result["token"])
        return result

    monkeypatch.setattr(Manager, "init", spy)
    caplog.set_level(logging.DEBUG)
    with RayContext(spark, object_store_memory=STORE, env={"PASSWORD": "hunter2"}):
        reveal = sparkray.remote(lambda: os.environ["PASSWORD"])
        assert sparkray.get(reveal.remote(), timeout=60) == "hunter2"
    assert "initWithFiles" in caplog.text
    assert len(tokens[0]) == 64 and tokens[0] not in caplog.text
    assert "hunter2" not in caplog.text
    directory = pathlib.Path(Manager.find(spark)._java.workDirectory())
    assert not list(directory.glob("init-*"))


def test_node_addresses_are_ip_addresses(context: RayContext) -> None:
    mine = context.address_info["node_ip_address"]
    assert mine == sparkray.util.get_node_ip_address()
    theirs = sparkray.get(sparkray.remote(sparkray.util.get_node_ip_address).remote(), timeout=60)
    for address in (mine, theirs):
        ipaddress.ip_address(address)


def test_stop_names_executors_that_do_not_answer(spark: Any) -> None:
    context = RayContext(spark, object_store_memory=STORE)
    context.init()
    recorded = Recorded(context)
    frozen = next(n for n in context.nodes() if n["executor_id"] != context._running()["head_executor_id"])
    os.kill(frozen["executor_pid"], signal.SIGSTOP)
    try:
        with pytest.warns(RuntimeWarning, match=f"have not said.*executor {frozen['executor_id']} on "):
            context.stop()
    finally:
        os.kill(frozen["executor_pid"], signal.SIGCONT)
    recorded.assert_gone()


def test_the_death_of_the_drivers_raylet_is_one_clear_sentence(spark: Any) -> None:
    context = RayContext(spark, object_store_memory=STORE)
    context.init()
    recorded = Recorded(context)
    os.kill(context._running()["driver_node"]["pid"], signal.SIGKILL)
    wait_until(lambda: lost(context), 60, "the loss is seen")
    with pytest.raises(RayContextError, match=r"its own raylet ended; call stop\(\) and then init\(\)"):
        context.init()
    for call in (lambda: sparkray.get_actor("nobody"), lambda: sparkray.get(where.remote(), timeout=60)):
        with pytest.raises(sparkray.exceptions.RayError, match="raylet|connection"):
            call()
    context.stop()
    recorded.assert_gone()
    with context:
        assert len(sparkray.get([where.remote() for _ in range(4)], timeout=60)) == 4


def lost(context: RayContext) -> bool:
    try:
        context.check()
    except RayContextError:
        return True
    return False


def test_as_a_context_manager_with_tasks_beside_the_driver(spark: Any) -> None:
    with RayContext(spark, object_store_memory=STORE) as entered:
        entered.check()
        recorded = Recorded(entered)
    assert not entered.initialized
    recorded.assert_gone()
    entered.init(driver_cores=1)
    recorded = Recorded(entered)
    assert sparkray.cluster_resources()["CPU"] == 3.0
    entered.stop()
    recorded.assert_gone()


def test_a_killed_raylets_node_is_back_in_two_seconds(context: RayContext) -> None:
    victim = next(node for node in context.nodes() if node["executor_id"] != context._running()["head_executor_id"])
    os.kill(victim["pid"], signal.SIGKILL)
    started = time.monotonic()
    wait_until(lambda: executors(context)[victim["executor_id"]]["start_count"] == 2, 60, "the raylet is back")
    back = executors(context)[victim["executor_id"]]
    print(f"the node was back after {time.monotonic() - started:.2f} s")
    assert back["state"] == "up"
    assert back["node_id"] != victim["node_id"]
    assert back["address"] == victim["address"]
    alive_nodes = {node["NodeID"] for node in sparkray.nodes() if node["Alive"]}
    assert back["node_id"] in alive_nodes and victim["node_id"] not in alive_nodes
    assert len(sparkray.get([where.remote() for _ in range(10)], timeout=60)) == 10


def test_the_raylet_beside_the_head_comes_back_too(context: RayContext) -> None:
    head_executor = context._running()["head_executor_id"]
    victim = executors(context)[head_executor]
    os.kill(victim["pid"], signal.SIGKILL)
    wait_until(lambda: executors(context)[head_executor]["start_count"] == 2, 60, "the raylet is back")
    context.check()
    assert executors(context)[head_executor]["address"] == victim["address"]
    assert len(sparkray.get([where.remote() for _ in range(10)], timeout=60)) == 10


def test_a_killed_executor_is_replaced_and_its_processes_are_gone(context: RayContext) -> None:
    victim = next(node for node in context.nodes() if node["executor_id"] != context._running()["head_executor_id"])
    sparkray.get([where.remote() for _ in range(10)])
    directory = pathlib.Path(os.readlink(f"/proc/{victim['pid']}/exe")).parent
    assert directory.name.startswith("sparkray-jvm-")
    os.kill(victim["executor_pid"], signal.SIGKILL)
    wait_until(lambda: not alive(victim["pid"]), 60, "its raylet is gone")
    wait_until(lambda: not directory.exists(), 60, "its files are gone")
    wait_until(lambda: victim["executor_id"] not in executors(context), 60, "its end is noticed")
    wait_until(lambda: len([n for n in context.nodes() if n["state"] == "up"]) == 2, 60, "Spark replaces it")
    context.check()
    assert len(sparkray.get([where.remote() for _ in range(10)], timeout=60)) == 10


def test_the_death_of_the_heads_executor_is_one_clear_sentence(spark: Any) -> None:
    context = RayContext(spark, object_store_memory=STORE)
    context.init()
    head_executor = context._running()["head_executor_id"]
    recorded = Recorded(context)
    os.kill(executors(context)[head_executor]["executor_pid"], signal.SIGKILL)
    sentence = f"executor {head_executor} on .* which ran its head, is gone.*call stop"
    wait_until(lambda: lost(context), 60, "the loss is seen")
    for use in (context.check, context.check, context.init, RayContext.get, context.__enter__):
        with pytest.raises(RayContextError, match=sentence):
            use()
    assert "is gone" in context._repr_html_()
    # What needs the head says so.
    with pytest.raises(sparkray.exceptions.RayError, match="head"):
        sparkray.get_actor("nobody")
    context.stop()
    recorded.assert_gone()
    context.init()
    assert len(sparkray.get([where.remote() for _ in range(4)], timeout=60)) == 4
    recorded = Recorded(context)
    context.stop()
    recorded.assert_gone()


def test_ctrl_c_and_the_deadline_leave_nothing_half_started(spark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    context = RayContext(spark, object_store_memory=STORE)
    context.init()
    frozen = next(n for n in context.nodes() if n["executor_id"] != context._running()["head_executor_id"])
    context.stop()
    os.kill(frozen["executor_pid"], signal.SIGSTOP)
    try:
        timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            context.init()
        timer.join()
        assert not context.initialized
        wait_until(lambda: not daemons_of(os.getpid()), 60, "the head and raylets that were started are gone")
        request = context._request(0)
        with monkeypatch.context() as patch:
            missing = (
                r"not complete within 10 s.*1 of 2 executors have joined.*"
                rf"missing: executor {frozen['executor_id']} on "
            )
            # Long enough to see that the other side does not answer any more.
            patch.setattr(context, "_request", lambda _: {**request, "deadline_seconds": 10})
            with pytest.raises(RayContextError, match=missing):
                context.init()
        assert not daemons_of(os.getpid())
    finally:
        os.kill(frozen["executor_pid"], signal.SIGCONT)
    # It joins again as if it were new.
    context.init()
    assert len(sparkray.get([where.remote() for _ in range(4)], timeout=60)) == 4
    recorded = Recorded(context)
    context.stop()
    recorded.assert_gone()


def daemons_of(pid: int) -> list[int]:
    """The sparkrayd processes below a process."""
    import psutil

    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if child.name() == "sparkrayd" and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child.pid)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"object_store_memory": "2"}, ValueError, "has no unit"),
        ({"object_store_memory": "2x"}, ValueError, "unknown unit"),
        ({"object_store_memory": "1m"}, ValueError, "too small"),
        ({"num_ray_nodes": 3}, ValueError, "Spark has 2 executors"),
        ({"num_ray_nodes": 0}, ValueError, "whole number above 0"),
        ({"ray_node_cpu_cores": -1}, ValueError, "at least 0"),
        ({"redis_port": 6379}, NotImplementedError, "no Redis"),
        ({"redis_password": "123456"}, NotImplementedError, "no Redis"),
        ({"system_config": {"a": 1}}, NotImplementedError, "no such settings"),
        ({"extra_params": {"temp-dir": "/tmp"}}, NotImplementedError, "ray start"),
        ({"extra_params": {"num-gpus": 1}}, NotImplementedError, "GPUs are not assigned"),
        ({"extra_params": {"resources": {"CPU": 1}}}, ValueError, "argument of its own"),
        ({"env": {"A": 1}}, TypeError, "text"),
        ({"object_store_memry": "1g"}, TypeError, "did you mean 'object_store_memory'"),
    ],
)
def test_bad_arguments_get_one_sentence(
    spark: Any, arguments: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        RayContext(spark, **arguments)


def test_a_store_larger_than_the_budget_starts_nothing(spark: Any) -> None:
    context = RayContext(spark, object_store_memory="2g")
    with pytest.raises(RayContextError, match=r"object_store_memory is 2.0 GiB but executor \d on .* only 1.0 GiB"):
        context.init()
    assert not daemons_of(os.getpid())
    with pytest.raises(ValueError, match="driver_cores"):
        context.init(driver_cores=-1)


def test_a_store_that_leaves_nothing_to_workers_is_refused(spark: Any) -> None:
    with pytest.raises(RayContextError, match=r"executor \d on .* workers need at least 128.0 MiB beside"):
        RayContext(spark, object_store_memory="1g").init()


def test_a_failure_of_native_code_is_a_java_exception(spark: Any) -> None:
    found = Manager.find(spark)
    with pytest.raises(RayContextError, match="cannot read InitRequest: "):
        found._call(found._java.init, b"\x0a\x7f", True)
    assert found.status()["state"] == "idle"


def test_what_is_no_spark_context_is_refused() -> None:
    with pytest.raises(TypeError, match="needs a SparkContext, not str"):
        RayContext("sc")
    connect = type("SparkSession", (), {"__module__": "pyspark.sql.connect.session"})()
    with pytest.raises(RayContextError, match="Spark Connect"):
        RayContext(connect)


def test_environment_and_resources_reach_the_workers(spark: Any) -> None:
    arguments: dict[str, Any] = {
        "env": {"GREETING": "hello", "PYTHONHOME": "/nowhere", "OMP_NUM_THREADS": "64"},
        "extra_params": {"resources": {"slot": 2}},
    }
    with RayContext(spark, object_store_memory=STORE, **arguments):
        assert sparkray.cluster_resources()["slot"] == 4.0
        greeting = sparkray.remote(lambda: (os.environ.get("GREETING"), os.environ.get("PYTHONHOME")))
        assert sparkray.get(greeting.options(resources={"slot": 1}).remote(), timeout=60) == ("hello", None)


def test_spark_stop_ends_the_cluster_and_so_does_the_death_of_python() -> None:
    program = f"""
    import json, sys
    from sparkray.spark import RayContext, init_spark_on_local
    from support.ray_processes import Recorded
    sc = init_spark_on_local(memory="1g", conf={CONF!r})
    context = RayContext(sc, object_store_memory="{STORE}")
    context.init()
    recorded = Recorded(context)
    sc.stop()
    recorded.assert_gone()
    assert not context.initialized
    print("stopped", flush=True)
    sc = init_spark_on_local(memory="1g", conf={CONF!r})
    context = RayContext(sc, object_store_memory="{STORE}")
    context.init()
    recorded = Recorded(context)
    print("recorded", json.dumps(recorded.java_pids), recorded.text(), sep="|", flush=True)
    sys.stdin.read()
    """
    with start_driver(program) as process:
        assert process.stdout is not None
        try:
            lines: list[str] = []
            while not lines or not lines[-1].startswith("recorded"):
                line = process.stdout.readline()
                assert line, process.stderr.read() if process.stderr else ""
                lines.append(line)
            assert "stopped\n" in lines
            _, java_pids, text = lines[-1].split("|", 2)
        finally:
            process.kill()
    # The driver's JVM ends when its Python has, then the executors'.
    Traces.of_text(text).assert_gone_with(json.loads(java_pids))


def test_contexts_that_cannot_carry_a_cluster_are_refused(tmp_path: pathlib.Path) -> None:
    old_python = tmp_path / "old-python"
    old_python.write_text("#!/bin/sh\necho sparkray-probe 3.6.15 1\n")
    old_python.chmod(0o700)
    program = f"""
    import os, pathlib
    from process.helpers import children_of, wait_until
    from pyspark import SparkConf, SparkContext
    from sparkray.spark import RayContext, init_spark_on_local
    from sparkray.spark.packaging import jar_path

    def left(pid):
        found = []
        for child in children_of(pid):
            try:
                command = pathlib.Path(f"/proc/{{child}}/cmdline").read_text().replace(chr(0), " ")
            except OSError:
                continue
            found += [command] if "sparkrayd" in command or "_private.zygote" in command else []
            found += left(child)
        return found

    def refusal(sc):
        try:
            RayContext(sc).init()
        except Exception as error:
            assert chr(10) not in str(error), error
            print(type(error).__name__, error, flush=True)
        # Not because Spark ends: its own life goes on.
        wait_until(lambda: not left(os.getpid()), 60, "head, raylets and zygotes are gone")
        sc.stop()

    jar, plugin, python = jar_path(), "org.sparkray.RayPlugin", "{old_python}"
    plain = SparkConf().setMaster("local[1]").set("spark.ui.enabled", "false").set("spark.jars", jar)
    refusal(SparkContext(conf=plain.set("spark.plugins", plugin).set("spark.pyspark.python", python)))
    refusal(SparkContext(conf=plain.set("spark.pyspark.python", "/nowhere/python")))
    dynamic = {{"spark.dynamicAllocation.enabled": "true", "spark.ui.enabled": "false"}}
    refusal(init_spark_on_local(conf=dynamic))
    refusal(init_spark_on_local(conf={{"spark.ray.memory.bugdet": "1g", "spark.ui.enabled": "false"}}))
    unable = {{**{CONF!r}, "spark.executorEnv.SPARKRAY_NATIVE_DIR": "/nowhere"}}
    refusal(init_spark_on_local(conf=unable))
    sc = init_spark_on_local(conf={{"spark.ui.enabled": "false"}})
    stopped = RayContext(sc)
    sc.stop()
    try:
        stopped.init()
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    os.environ.update(CONTAINER_ID="container_1", LOCAL_DIRS="{tmp_path}", LOG_DIRS="{tmp_path}")
    os.chdir("{tmp_path}")
    refusal(init_spark_on_local(conf={{"spark.ui.enabled": "false"}}))
    sc = init_spark_on_local(conf={{"spark.ui.enabled": "false", "spark.executor.memoryOverhead": "1g"}})
    with RayContext(sc) as context:
        print("budget is", context.nodes()[0]["memory_budget_bytes"] >> 20)
    sc.stop()
    """
    done = run_driver(program, 180)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("RayContextError", "budget"))]
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(lines) == 8, done.stdout + done.stderr
    assert f"its Python {old_python} is 3.6.15, the driver's is 3." in lines[0] and "executor driver on" in lines[0]
    assert "Python /nowhere/python cannot be run" in lines[1] and "PYSPARK_PYTHON" in lines[1]
    assert "dynamic allocation is on" in lines[2]
    assert "no setting spark.ray.memory.bugdet" in lines[3]
    assert "0 of 2 executors have joined" in lines[4] and "executor 1 cannot: " in lines[4] and "/nowhere" in lines[4]
    assert "SparkContext was stopped" in lines[5]
    assert "no memory for Ray" in lines[6] and "extra_executor_memory_for_ray" in lines[6]
    # Spark's own part of the overhead is not Ray's.
    assert lines[7] == f"budget is {1024 - 384}"
