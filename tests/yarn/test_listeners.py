"""The token of a cluster is nowhere where others look, and no listener on Spark lets in who does not know it."""

from __future__ import annotations

import hmac
import os
import pathlib
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import sparkray
from sparkray._private import worker
from sparkray.spark import RayContext
from sparkray.spark.driver_log import LOG_NAME
from support.application import STORE, Application
from support.listeners import ANSWER, MANAGER, OFFER, RAYLET, Listener, hello, listeners_of, proof, read_exactly
from support.minicluster import MiniCluster
from support.ray_processes import Recorded

pytestmark = pytest.mark.filterwarnings("ignore:the virtual environment")


# Who says nothing for so long does not speak the handshake.
SILENCE_SECONDS = 20
# What a callee says of a wrong proof: its word for it, or nothing because the connection is closed or reset.
REFUSALS = (b"\x01", b"")


class Revealed:
    """A cluster whose token the test knows."""

    def __init__(self, context: RayContext, connection: worker.Connection) -> None:
        self.context = context
        self.cluster_id = bytes.fromhex(connection.cluster_id)
        self.token = bytes.fromhex(connection.token)
        self.epoch = connection.head_epoch


@pytest.fixture(scope="module")
def revealed(shared_spark: Any) -> Iterator[Revealed]:
    connections: list[worker.Connection] = []
    connect = worker.connect_driver

    def look(connection: worker.Connection, **options: Any) -> Any:
        connections.append(connection)
        return connect(connection, **options)

    context = RayContext(shared_spark.sparkContext, object_store_memory=STORE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "connect_driver", look)
        context.init()
    assert len(connections) == 1 and len(bytes.fromhex(connections[0].token)) == 32
    with context:
        yield Revealed(context, connections[0])


def files_below(*directories: pathlib.Path) -> list[pathlib.Path]:
    return [path for directory in directories for path in directory.rglob("*") if path.is_file()]


def test_the_token_is_in_no_arguments_environment_settings_or_logs(
    shared_spark: Any, revealed: Revealed, application: Application, mini_cluster: MiniCluster
) -> None:
    sc = shared_spark.sparkContext
    # Tasks, actors and jobs have run, so that whatever is written of them is written.
    assert sparkray.get([sparkray.remote(len).remote("ab") for _ in range(4)], timeout=60) == [2] * 4
    assert sparkray.to_spark(sparkray.from_spark(shared_spark.range(100)), shared_spark).count() == 100
    haystacks: dict[str, bytes] = {}
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        for what in ("cmdline", "environ"):
            try:
                haystacks[f"{entry.name}/{what}"] = (entry / what).read_bytes()
            except OSError:
                continue
    haystacks["SparkConf"] = repr(sc.getConf().getAll()).encode()
    text = sc._jvm.java.io.StringWriter()
    sc._jsc.hadoopConfiguration().writeXml(text)
    haystacks["Hadoop's configuration"] = text.toString().encode()
    haystacks["system properties"] = sc._jvm.java.lang.System.getProperties().toString().encode()
    command = pathlib.Path(f"/proc/{sc._gateway.proc.pid}/cmdline").read_text()
    log_settings = re.findall(r"-Dlog4j2.configurationFile=file:([^\0]+)", command)
    driver_log = pathlib.Path(log_settings[-1]).with_name(LOG_NAME)
    logs = files_below(application.events, *mini_cluster.container_log_dirs)
    for path in [*logs, driver_log]:
        haystacks[str(path)] = path.read_bytes()

    def found(needle: bytes) -> set[str]:
        return {name for name, text in haystacks.items() if needle in text}

    token = revealed.token
    for form in (token, token.hex().encode(), token.hex().upper().encode()):
        assert found(form) == set()
    # The look would find it: other words of the same origin are there.
    pids = {str(pid) for pid in Recorded(revealed.context).pids}
    assert any(name.endswith("/environ") for name in found(revealed.cluster_id.hex().encode()))
    assert {name.partition("/")[0] for name in found(b"sparkrayd")} & pids
    assert "SparkConf" in found(b"org.sparkray.RayPlugin")
    assert "system properties" in found(b"java.home") and "Hadoop's configuration" in found(b"fs.defaultFS")
    application_id = sc.applicationId.encode()
    places = [pathlib.Path(name) for name in found(application_id) if name.startswith("/")]
    assert any(application.events in path.parents for path in places), "the event log was read"
    assert any(path.name == "stderr" for path in places), "logs of containers were read"


def verdict_on(connection: socket.socket, answer: bytes) -> bytes:
    """The byte that a callee says of a proof; nothing when it closes or resets the connection, which refuses too."""
    try:
        connection.sendall(answer)
        return connection.recv(1)
    except ConnectionError:
        return b""


def who_answers(listener: Listener, revealed: Revealed, token: bytes, kind: int, node_id: bytes) -> bytes | None:
    """The verdict of a listener that speaks the handshake; None when it does not."""
    with listener.connect() as connection:
        greeting = hello(revealed.cluster_id, epoch=revealed.epoch, kind=kind, node_id=node_id)
        try:
            connection.sendall(greeting)
            connection.settimeout(SILENCE_SECONDS)
            answer = read_exactly(connection, ANSWER)
        except (OSError, AssertionError):
            return None
        connection.settimeout(60)
        knows = hmac.compare_digest(proof(revealed.token, b"callee", greeting, answer[:OFFER]), answer[OFFER:])
        verdict = verdict_on(connection, proof(token, b"caller", greeting, answer[:OFFER]))
        assert knows or kind == MANAGER, f"{listener} answers without knowing the token itself"
        return verdict


def test_no_listener_lets_in_who_has_a_wrong_token(shared_spark: Any, revealed: Revealed) -> None:
    context = revealed.context
    info = context._running()
    nodes = [*context.nodes(), info["driver_node"]]
    java = {"driver": shared_spark.sparkContext._gateway.proc.pid}
    java |= {f"executor {node['executor_id']}": node["executor_pid"] for node in context.nodes()}
    raylets = {f"raylet {node['executor_id']}": node for node in nodes}
    pids = {**java, "head": info["head_pid"], **{name: node["pid"] for name, node in raylets.items()}}

    def ask(name: str, listener: Listener) -> bytes | None:
        node_id = bytes.fromhex(raylets[name]["node_id"]) if name in raylets else bytes(16)
        return who_answers(listener, revealed, os.urandom(32), MANAGER if name in java else RAYLET, node_id)

    # Python's gateway answers whatever has an end of a line in it, by an error in words.
    gateway = shared_spark.sparkContext._gateway.gateway_parameters.port
    listeners = [(name, listener) for name, pid in pids.items() for listener in listeners_of(pid)]
    found = [(name, listener) for name, listener in listeners if (name, listener.port) != ("driver", gateway)]
    # All at once: Spark's own say nothing, and each of them is given its time.
    with ThreadPoolExecutor(len(found)) as pool:
        verdicts = list(pool.map(ask, *zip(*found, strict=True)))
    ours: dict[str, list[Listener]] = {}
    for (name, listener), verdict in zip(found, verdicts, strict=True):
        if verdict is not None:
            assert verdict in REFUSALS, (name, listener, verdict)
            ours.setdefault(name, []).append(listener)
        else:
            # Whoever does not speak the handshake is Spark's.
            assert name in java, f"{listener} of {name} does not speak the handshake"
    # One port and one abstract socket for each raylet, the latter only for the head, the manager's port in the driver.
    assert {name: sorted((bool(one.port), bool(one.name)) for one in its) for name, its in ours.items()} == {
        "driver": [(True, False)],
        "head": [(False, True)],
        **{name: [(False, True), (True, False)] for name in raylets},
    }
    for name, node in raylets.items():
        assert int(node["address"].rpartition(":")[2]) in {one.port for one in ours[name]}
        # Who knows the token is let in.
        for listener in ours[name]:
            node_id = bytes.fromhex(node["node_id"])
            assert who_answers(listener, revealed, revealed.token, RAYLET, node_id) == b"\x00"
    # Nobody was disturbed.
    assert sparkray.get(sparkray.remote(len).remote("abc"), timeout=60) == 3
    context.check()
