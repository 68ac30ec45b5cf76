"""init and shutdown: what is refused, and that nothing is ever left."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

import sparkray
from process.helpers import (
    alive,
    assert_nothing_left,
    children_of,
    memory_files,
    processes_of,
    run_driver,
    running_cluster,
    start_driver,
    wait_until,
    zygote_of,
)
from sparkray import exceptions
from sparkray._private.worker import state


@sparkray.remote
def identity(value):
    return value


@sparkray.remote
def sleep(seconds):
    time.sleep(seconds)


@sparkray.remote
class Actor:
    def ping(self):
        return os.getpid()


def test_init_says_what_it_started_and_shutdown_ends_it():
    assert not sparkray.is_initialized()
    info = sparkray.init(num_cpus=2, namespace="here", object_store_memory="32m", resources={"special": 3})
    assert sparkray.is_initialized()
    assert info["node_id"] == sparkray.get_runtime_context().get_node_id()
    assert info["namespace"] == "here"
    resources = sparkray.cluster_resources()
    assert (resources["CPU"], resources["special"]) == (2.0, 3.0)
    assert resources["object_store_memory"] == 32 << 20
    cluster = running_cluster()
    sparkray.shutdown()
    sparkray.shutdown()
    assert not sparkray.is_initialized()
    assert_nothing_left(cluster.cluster_id, [cluster.head_pid])


def test_what_is_used_before_init_gets_one_sentence_where_nothing_starts_by_itself(monkeypatch):
    monkeypatch.setenv("RAY_ENABLE_AUTO_CONNECT", "0")
    for use in (
        lambda: identity.remote(1),
        lambda: Actor.remote(),
        lambda: sparkray.put(1),
        lambda: sparkray.get([]),
        lambda: sparkray.get_actor("x"),
        lambda: sparkray.nodes(),
        lambda: sparkray.cluster_resources(),
        lambda: sparkray.get_runtime_context().get_node_id(),
    ):
        with pytest.raises(exceptions.RaySystemError, match=r"sparkray\.init\(\)") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_references_and_handles_of_a_stopped_cluster_say_so():
    sparkray.init(num_cpus=1)
    reference = identity.remote(1)
    actor = Actor.remote()
    sparkray.get(actor.ping.remote())
    sparkray.shutdown()
    with pytest.raises(exceptions.RayError, match="stopped"):
        sparkray.get(reference)
    with pytest.raises(exceptions.RayError, match="stopped"):
        actor.ping.remote()


def test_init_again_after_shutdown_runs_the_same_functions():
    for n in range(3):
        with sparkray.init(num_cpus=1):
            assert sparkray.get(identity.remote(n)) == n


def test_a_second_init_is_refused_or_ignored():
    first = sparkray.init(num_cpus=1)
    with pytest.raises(RuntimeError, match="already"):
        sparkray.init(num_cpus=1)
    with pytest.warns(UserWarning, match="again"):
        assert sparkray.init(num_cpus=1, ignore_reinit_error=True)["node_id"] == first["node_id"]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"num_cpu": 1}, TypeError, "did you mean 'num_cpus'"),
        ({"num_cpus": -1}, ValueError, "num_cpus"),
        ({"object_store_memory": "2"}, ValueError, "unit"),
        ({"object_store_memory": "2x"}, ValueError, "unit"),
        ({"object_store_memory": 10}, ValueError, "at least"),
        ({"object_store_memory": [1]}, TypeError, "object_store_memory"),
        ({"resources": {"CPU": 2}}, ValueError, "num_cpus"),
        ({"runtime_env": {"pip": ["x"]}}, NotImplementedError, "not there yet"),
        ({"local_mode": True}, NotImplementedError, "not there yet"),
        ({"address": "10.0.0.1:6379"}, ConnectionError, "not a cluster of this process"),
        ({"address": "ray://host:10001"}, ConnectionError, "not there yet"),
        ({"namespace": ""}, ValueError, "namespace"),
    ],
    ids=str,
)
def test_arguments_that_cannot_be_used_leave_nothing_half_started(arguments, error, words):
    before = children_of(os.getpid())
    with pytest.raises(error, match=words) as caught:
        sparkray.init(**arguments)
    assert "\n" not in str(caught.value)
    assert not sparkray.is_initialized()
    assert children_of(os.getpid()) == before


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"num_gpus": 1}, NotImplementedError, "CUDA_VISIBLE_DEVICES"),
        ({"logging_config": object()}, NotImplementedError, "logging_config"),
        ({"_enable_object_reconstruction": True}, NotImplementedError, "not there yet"),
        ({"proxy_server_url": "http://x"}, NotImplementedError, "not there yet"),
        ({"cgroup_path": "/x"}, NotImplementedError, "not there yet"),
        ({"_object_spilling_directory": "/x"}, NotImplementedError, "not there yet"),
        ({"address": "auto"}, ConnectionError, "not a cluster of this process"),
    ],
    ids=str,
)
def test_arguments_of_rays_that_are_not_there_yet_say_so(arguments, error, words):
    with pytest.raises(error, match=words):
        sparkray.init(**arguments)
    assert not sparkray.is_initialized()


@pytest.mark.parametrize("address", [None, "auto"])
def test_a_cluster_that_the_environment_names_is_not_replaced_by_another(address, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.1.2.3:6379")
    with pytest.raises(ConnectionError, match=r"10\.1\.2\.3:6379.*RAY_ADDRESS"):
        sparkray.init(address)
    assert not sparkray.is_initialized()
    with sparkray.init("local", num_cpus=1):
        assert sparkray.get(identity.remote(1)) == 1


def test_what_has_no_effect_is_said_and_does_no_harm():
    with pytest.warns(UserWarning, match="no dashboard"):
        sparkray.init(num_cpus=1, num_gpus=0, include_dashboard=True, log_to_driver=None, logging_level=10)
    assert state.log_to_driver is True


def test_facts_that_ray_tells_of_a_cluster():
    with sparkray.init(num_cpus=1) as info:
        assert info["gcs_address"] == info["address"]
        assert info["raylet_ip_address"] == info["node_ip_address"]
        assert info["raylet_socket_name"]
        (node,) = sparkray.nodes()
        assert node["ObjectManagerPort"] == node["NodeManagerPort"] > 0
        assert {"ObjectStoreSocketName", "RayletSocketName", "MetricsExportPort", "DeathReason"} <= node.keys()


def test_a_missing_binary_is_named(monkeypatch):
    monkeypatch.setenv("SPARKRAY_DAEMON", "/nowhere/sparkrayd")
    with pytest.raises(RuntimeError, match="/nowhere/sparkrayd"):
        sparkray.init(num_cpus=1)
    assert not sparkray.is_initialized()


def test_a_binary_that_fails_is_reported_with_what_it_said(monkeypatch, tmp_path):
    broken = tmp_path / "sparkrayd"
    broken.write_text("#!/bin/sh\necho 'out of order' >&2\nexit 7\n")
    broken.chmod(0o755)
    monkeypatch.setenv("SPARKRAY_DAEMON", str(broken))
    with pytest.raises(RuntimeError, match="out of order"):
        sparkray.init(num_cpus=1)
    assert not sparkray.is_initialized()
    assert children_of(os.getpid()) == []


@pytest.mark.trouble
@pytest.mark.parametrize("python", ["/nowhere/python", "/bin/false"])
def test_a_python_that_cannot_run_workers_is_an_error_and_not_a_hang(monkeypatch, python):
    monkeypatch.setattr("sys.executable", python)
    with sparkray.init(num_cpus=1):
        with pytest.raises(exceptions.RaySystemError, match="cannot start Python workers") as caught:
            sparkray.get(identity.remote(1), timeout=60)
    assert "zygote.log" in str(caught.value)


def test_the_session_directory_goes_when_nothing_was_wrong(monkeypatch):
    monkeypatch.delenv("SPARKRAY_KEEP_LOGS")
    with sparkray.init(num_cpus=1) as info:
        directory = Path(info["session_dir"])
        assert directory.stat().st_mode & 0o077 == 0
        assert sparkray.get(identity.remote(1)) == 1
    assert not directory.exists()


def test_secrets_are_nowhere_to_be_seen(cluster):
    token = running_cluster().token
    sparkray.get(identity.remote(1))
    for pid, _ in processes_of(cluster["cluster_id"]):
        # The process between zygote and worker may have ended meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            assert token.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
            assert token.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    for path in running_cluster().session.path.rglob("*"):
        if path.is_file():
            assert token not in path.read_text(errors="replace"), path
    assert token not in repr(cluster)
    assert token not in repr(running_cluster().connection(running_cluster().nodes[0]))


def test_get_can_be_interrupted(cluster):
    reference = sleep.remote(250)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        sparkray.get(reference)
    timer.join()
    assert time.monotonic() - started < 200
    assert sparkray.get(identity.remote(1), timeout=60) == 1


def test_a_fork_of_the_driver_must_not_use_the_cluster(cluster):
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            sparkray.put(1)
            answer = b"no error"
        except exceptions.RaySystemError as error:
            answer = str(error).encode()
        os.write(write_end, answer)
        os._exit(0)
    os.close(write_end)
    os.waitpid(child, 0)
    assert b"forked" in os.read(read_end, 4096)
    os.close(read_end)
    assert sparkray.get(identity.remote(1)) == 1


def test_processes_that_tasks_start_end_with_the_cluster(cluster):
    @sparkray.remote
    def start():
        import subprocess

        plain = subprocess.Popen(["sleep", "300"])
        daemon = subprocess.run(
            ["sh", "-c", "setsid sleep 300 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True, check=True
        )
        return plain.pid, int(daemon.stdout)

    pids = sparkray.get(start.remote(), timeout=60)
    assert all(alive(pid) for pid in pids)
    sparkray.shutdown()
    assert_nothing_left(cluster["cluster_id"], list(pids))


def test_descriptors_do_not_leak_into_processes_of_tasks(cluster):
    @sparkray.remote
    def listing():
        pid = os.spawnvp(os.P_NOWAIT, "sleep", ["sleep", "30"])
        try:
            # While it loads its libraries it has one of them open.
            wait_until(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes() and open_in(pid) == 3, 60)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def open_in(pid):
        return len(os.listdir(f"/proc/{pid}/fd"))

    sparkray.get(listing.remote(), timeout=60)


@pytest.mark.trouble
def test_a_killed_worker_is_replaced(cluster):
    pid = sparkray.get(Actor.remote().ping.remote())
    for worker, _ in processes_of(cluster["cluster_id"]):
        if worker != zygote_of(running_cluster().nodes[0].pid):
            with contextlib.suppress(ProcessLookupError):  # the actor's worker ends by itself, too
                os.kill(worker, signal.SIGKILL)
    assert sparkray.get([identity.remote(n) for n in range(20)], timeout=60) == list(range(20))
    assert not alive(pid)


@pytest.mark.trouble
def test_a_killed_zygote_is_replaced(cluster):
    assert sparkray.get(identity.remote(1)) == 1
    zygote = zygote_of(running_cluster().nodes[0].pid)
    os.kill(zygote, signal.SIGKILL)
    actors = [Actor.remote() for _ in range(6)]
    assert len(set(sparkray.get([actor.ping.remote() for actor in actors], timeout=60))) == 6
    assert zygote_of(running_cluster().nodes[0].pid) != zygote


@pytest.mark.trouble
def test_a_killed_raylet_takes_its_workers_along_and_is_an_error(cluster):
    sparkray.get([Actor.remote().ping.remote() for _ in range(2)])
    raylet = running_cluster().nodes[0].pid
    workers = [pid for pid, _ in processes_of(cluster["cluster_id"])]
    pending = sleep.remote(60)
    os.kill(raylet, signal.SIGKILL)
    wait_until(lambda: not any(alive(pid) for pid in workers), 60, "the workers ended with their raylet")
    with pytest.raises(exceptions.RayError) as caught:
        sparkray.get(pending, timeout=60)
    assert not isinstance(caught.value, exceptions.GetTimeoutError)
    with pytest.raises(exceptions.RayError):
        sparkray.get(identity.remote(1), timeout=60)
    sparkray.shutdown()
    assert_nothing_left(cluster["cluster_id"], [raylet, *workers])


@pytest.mark.trouble
def test_a_killed_head_is_an_error_and_not_a_hang(cluster):
    sparkray.get(identity.remote(1))
    os.kill(running_cluster().head_pid, signal.SIGKILL)

    def lost():
        try:
            sparkray.get_actor("anybody")
        except ValueError:
            return False
        except exceptions.RayError:
            return True
        return False

    wait_until(lost, 60, "the loss of the head is an error")


@pytest.mark.trouble
def test_without_a_head_what_no_node_can_meet_is_an_error(cluster):
    """Before it was asked for as well as later: no node joins any more that could meet it."""
    sparkray.get(identity.remote(1))
    impossible = identity.options(resources={"nobody-has-this": 1})
    waiting = impossible.remote(1)
    os.kill(running_cluster().head_pid, signal.SIGKILL)
    for reference in (waiting, impossible.remote(2)):
        with pytest.raises(exceptions.RayError, match=r"nobody-has-this.*head.* is gone") as caught:
            sparkray.get(reference, timeout=60)
        assert not isinstance(caught.value, exceptions.GetTimeoutError)
    # What is here goes on.
    assert sparkray.get(identity.remote(3), timeout=60) == 3


DRIVER = """
import json, os, sys, time
import sparkray
from process.helpers import processes_of, running_cluster, sockets_of

@sparkray.remote
class Actor:
    def ping(self):
        return os.getpid()

@sparkray.remote
def sleep(seconds):
    time.sleep(seconds)

sparkray.init(num_cpus=2, object_store_memory=32 << 20)
actor = Actor.options(name="detached", lifetime="detached").remote()
sparkray.get(actor.ping.remote())
kept = sparkray.put(bytes(1 << 20))
pending = [sleep.remote(60) for _ in range(4)]
time.sleep(0.2)
cluster = running_cluster()
pids = [cluster.head_pid, cluster.nodes[0].pid] + [pid for pid, _ in processes_of(cluster.cluster_id)]
facts = {"cluster_id": cluster.cluster_id, "pids": pids, "sockets": sockets_of(cluster.cluster_id)}
print(json.dumps(facts), flush=True)
"""


@pytest.mark.parametrize("end", ["kill", "interrupt", "terminate", "return", "exception", "os._exit"])
def test_however_a_driver_ends_nothing_is_left(end):
    ways = {
        "kill": "time.sleep(60)",
        "interrupt": "sparkray.get(pending)",
        "terminate": "time.sleep(60)",
        "return": "",
        "exception": "raise SystemExit('on purpose')",
        "os._exit": "os._exit(3)",
    }
    with start_driver(DRIVER + ways[end]) as driver:
        assert driver.stdout is not None and driver.stderr is not None
        line = driver.stdout.readline()
        if not line:
            raise AssertionError(driver.stderr.read())
        facts = json.loads(line)
        assert len(facts["pids"]) >= 4
        assert len(facts["sockets"]) >= 2
        numbers = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT, "terminate": signal.SIGTERM}
        if end in numbers:
            driver.send_signal(numbers[end])
        code = driver.wait(timeout=60)
        assert_nothing_left(facts["cluster_id"], facts["pids"])
    if end == "return":
        assert code == 0
    if end == "interrupt":
        assert code in (-signal.SIGINT, 130, 1)


def test_a_driver_that_uses_main_classes_and_prints():
    done = run_driver(
        """
        import sparkray

        class Point:
            def __init__(self, x):
                self.x = x
            def __eq__(self, other):
                return type(other) is Point and other.x == self.x

        @sparkray.remote
        def move(point, by):
            return Point(point.x + by)

        with sparkray.init(num_cpus=1):
            assert sparkray.get(move.remote(Point(1), 2)) == Point(3)
            print("fine")
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "fine"
    assert done.stderr == ""


def test_two_drivers_do_not_disturb_each_other():
    script = """
    import sparkray

    @sparkray.remote
    def square(n):
        return n * n

    with sparkray.init(num_cpus=1):
        assert sparkray.get([square.remote(n) for n in range(100)]) == [n * n for n in range(100)]
    """
    import textwrap

    drivers = [start_driver(textwrap.dedent(script)) for _ in range(2)]
    for driver in drivers:
        out, err = driver.communicate(timeout=60)
        assert driver.returncode == 0, out + err


def test_references_that_are_kept_do_not_keep_the_stores_memory():
    info = sparkray.init(num_cpus=1)
    kept = sparkray.put(bytes(1 << 20))
    assert os.getpid() in memory_files(info["cluster_id"], [os.getpid()])
    sparkray.shutdown()
    assert memory_files(info["cluster_id"], [os.getpid()]) == {}
    with pytest.raises(exceptions.RaySystemError, match="was stopped"):
        sparkray.get(kept)


def test_a_signal_handler_may_use_the_cluster_while_its_thread_waits():
    """Drivers save checkpoints when they are told to end. Other threads go on meanwhile, however long that takes."""
    done = run_driver(
        """
        import os, signal, threading, time
        import sparkray

        sparkray.init(num_cpus=2)

        @sparkray.remote(num_cpus=0)
        class Store:
            def save(self):
                return "saved"

        @sparkray.remote
        def wait_for(path):
            while not os.path.exists(path):
                time.sleep(0.01)

        store, found = Store.remote(), []
        sparkray.get(store.save.remote())

        def other():
            found.append(sparkray.get(store.save.remote(), timeout=60))

        def handler(*_):
            found.append(sparkray.get(store.save.remote(), timeout=60))
            ready, _ = sparkray.wait([store.save.remote()], timeout=60)
            found.append(len(ready))
            thread = threading.Thread(target=other)
            thread.start()
            thread.join(60)
            open("finish", "w").close()

        signal.signal(signal.SIGTERM, handler)
        for wait in (sparkray.get, lambda ref: sparkray.wait([ref])):
            if os.path.exists("finish"):
                os.unlink("finish")
            finished = wait_for.remote(os.path.abspath("finish"))
            threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
            wait(finished)
        assert found == ["saved", 1, "saved"] * 2, found
        os.unlink("finish")
        """
    )
    assert done.returncode == 0, done.stderr


def test_threads_that_call_init_at_once_have_one_cluster():
    done = run_driver(
        """
        import threading
        import sparkray

        barrier, found = threading.Barrier(6), []

        def start():
            barrier.wait()
            found.append(sparkray.init(num_cpus=1, ignore_reinit_error=True)["cluster_id"])

        threads = [threading.Thread(target=start) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 6 and len(set(found)) == 1, found
        assert sparkray.get(sparkray.remote(lambda: 1).remote(), timeout=60) == 1
        """
    )
    assert done.returncode == 0, done.stderr


def test_wait_does_not_call_ready_what_ends_with_the_cluster():
    done = run_driver(
        """
        import threading, time
        import sparkray
        from sparkray import exceptions

        sparkray.init(num_cpus=1)
        started, outcome = threading.Event(), []

        def waits(reference):
            started.set()
            try:
                outcome.append(sparkray.wait([reference]))
            except exceptions.RaySystemError as error:
                outcome.append(str(error))

        thread = threading.Thread(target=waits, args=(sparkray.remote(lambda: time.sleep(300)).remote(),))
        thread.start()
        started.wait()
        time.sleep(0.2)  # it is most likely in wait() then; otherwise the same error comes from its beginning
        sparkray.shutdown()
        thread.join(60)
        assert len(outcome) == 1 and isinstance(outcome[0], str), outcome
        """
    )
    assert done.returncode == 0, done.stderr
