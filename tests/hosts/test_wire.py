"""What a stranger at the switch can read, and what he can hold up with connections that he leaves half-open."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import contextlib
import pathlib
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

import sparkray
from hosts.cluster import Hosts, Keeper, RayOnHosts, address, on
from hosts.conftest import STORE
from sparkray.spark import RayContext, from_spark, to_spark
from sparkray.spark.manager import Manager
from support.network import Host
from support.wire import Recording

# None of these is anywhere in the project, so what is found comes from here.
ARGUMENT = b"zebra-argument-7f1d9c"
RESULT = b"zebra-result-4ab0e2"
STORED = b"zebra-stored-91c3d5"
CODE = b"zebra-code-c0ffee11"
CELL = b"zebra-cell-5d2a8f"
OPEN = b"zebra-in-the-open-66"
HALF_OPEN = 2000
DELAY_SECONDS = 0.1


@sparkray.remote
def work(argument: bytes) -> bytes:
    if argument == b"zebra-code-c0ffee11":
        return argument
    return b"zebra-" + b"result-4ab0e2" + argument[:0]


@sparkray.remote
def store() -> Any:
    return np.frombuffer((b"zebra-" + b"stored-91c3d5") * 20_000, dtype=np.uint8)


def test_no_secret_and_no_data_can_be_read_on_the_wire(
    hosts: Hosts, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens: list[str] = []
    init = Manager.init

    def spy(self: Manager, request: dict[str, Any]) -> dict[str, Any]:
        result = init(self, request)
        tokens.append(result["token"])
        return result

    monkeypatch.setattr(Manager, "init", spy)
    context = RayContext(hosts.spark, object_store_memory=STORE)
    with Recording(hosts.network, tmp_path / "frames") as recording:
        say_openly(hosts, OPEN)
        context.init()
        try:
            ray = RayOnHosts(hosts, context)
            argument = ARGUMENT * 100
            for host in (ray.head, ray.one, ray.other):
                assert sparkray.get(work.options(**on(host)).remote(argument), timeout=60) == RESULT
                large = np.frombuffer(ARGUMENT * 20_000, dtype=np.uint8)
                keeper = Keeper.options(**on(host)).remote()
                assert sparkray.get(keeper.keep.remote([sparkray.put(large), large]), timeout=60) == 2
                assert sparkray.get(store.options(**on(host)).remote(), timeout=60).nbytes == 20_000 * len(STORED)
            session = SparkSession(hosts.spark)
            frame = session.range(0, 20_000, 1, 6).selectExpr("id", "concat('zebra-', 'cell-', '5d2a8f') as cell")
            blocks = from_spark(frame)
            tables = sparkray.get(list(blocks), timeout=60)
            assert sum(table.num_rows for table in tables) == 20_000
            assert to_spark(blocks, session).where("cell = concat('zebra-', 'cell-5d2a8f')").count() == 20_000
        finally:
            context.stop()
    assert recording.has(OPEN), "the recording has what crossed the wire"
    assert recording.bytes() > 1_000_000
    secrets = {
        "token": bytes.fromhex(tokens[0]),
        "token in digits": tokens[0].encode(),
        "argument": ARGUMENT,
        "result": RESULT,
        "object": STORED,
        "code": CODE,
        "cell of a DataFrame": CELL,
    }
    found = {name: recording.has(secret) for name, secret in secrets.items() if recording.has(secret)}
    assert not found, found


def say_openly(hosts: Hosts, words: bytes) -> None:
    """Over a connection that is not Ray's, so that everybody can read it."""
    listener = hosts.network.hosts[1]
    with listener.entered():
        server = socket.create_server((listener.address, 0))
    with server, socket.create_connection(server.getsockname(), 10) as connection:
        connection.sendall(words)
        accepted, _ = server.accept()
        with accepted:
            assert accepted.recv(len(words), socket.MSG_WAITALL) == words


# Holds so many connections that say nothing, and replaces those that the other side closes: at most ten a millisecond.
_FLOOD = """
import resource, select, socket, sys, time
target, count = (sys.argv[1], int(sys.argv[2])), int(sys.argv[3])
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, count + 100), most))
held, poll, made, told = {}, select.poll(), 0, False
while True:
    for number, _ in poll.poll(1):
        poll.unregister(number)
        held.pop(number).close()
    for _ in range(min(10, count - len(held))):
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex(target)
        held[connection.fileno()] = connection
        # Not for writing: only what the other side does is news.
        poll.register(connection, select.POLLIN | select.POLLHUP | select.POLLERR)
        made += 1
    if made >= count and not told:
        told = True
        print("floods", flush=True)
"""


@contextlib.contextmanager
def half_open(source: Host, target: tuple[str, str], count: int) -> Iterator[None]:
    """While the block runs one host has that many connections that do not say who they are."""
    process = source.start(sys.executable, "-c", _FLOOD, *target, str(count), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "floods\n"
        yield
        assert process.poll() is None, "the flood lasted"
    finally:
        process.kill()
        process.communicate()


def _new_connections(ray: RayOnHosts, rounds: int) -> list[float]:
    """Seconds of first calls between two actors that are new to each other: each makes a connection between hosts."""
    seconds = []
    target = Keeper.options(**on(ray.head)).remote()
    sparkray.get(target.add.remote(), timeout=60)
    for _ in range(rounds):
        caller = Keeper.options(**on(ray.one)).remote()
        sparkray.get(caller.add.remote(), timeout=60)
        started = time.monotonic()
        sparkray.get(caller.ask.remote(target), timeout=60)
        seconds.append(time.monotonic() - started)
    return seconds


def test_half_open_connections_of_one_host_hold_nobody_up(ray: RayOnHosts) -> None:
    host, _, port = ray.node(ray.head)["address"].rpartition(":")
    _new_connections(ray, 3)
    before = _new_connections(ray, 30)
    with half_open(ray.other, (host, port), HALF_OPEN):
        during = _new_connections(ray, 30)
        tasks = [address.options(**on(h)).remote() for h in (ray.head, ray.one, ray.other) for _ in range(10)]
        assert len(sparkray.get(tasks, timeout=60)) == 30
    # Nine of ten: a busy machine makes one of them wait all by itself.
    delay = statistics.quantiles(during, n=10)[-1] - statistics.quantiles(before, n=10)[-1]
    print(f"a new connection takes {delay * 1000:.1f} ms longer; {sorted(during)[-5:]} after {sorted(before)[-5:]}")
    assert delay < DELAY_SECONDS
