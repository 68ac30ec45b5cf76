"""Every listener refuses who does not know the token, and goes on serving others."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import hmac
import os
import socket

import pytest

import sparkray
from process.helpers import running_cluster, sockets_of
from support.listeners import ANSWER, HELLO, OFFER, hello, proof, read_all, read_exactly


@sparkray.remote
def echo(value):
    return value


@pytest.fixture
def listeners(cluster):
    """All listening sockets of the cluster: TCP of the raylet, abstract ones of head and raylet."""
    local = running_cluster()
    host, _, port = local.nodes[0].address.rpartition(":")
    names = sorted(set(sockets_of(local.cluster_id)))
    assert len(names) >= 2, names
    addresses: list[tuple[int, object]] = [(socket.AF_INET, (host, int(port)))]
    addresses += [(socket.AF_UNIX, "\0" + name.removeprefix("@")) for name in names]
    yield addresses
    assert sparkray.get(echo.remote(1), timeout=60) == 1


def connect(listener):
    family, address = listener
    connection = socket.socket(family, socket.SOCK_STREAM)
    connection.settimeout(60)
    connection.connect(address)
    return connection


def test_a_wrong_token_is_refused_by_every_listener(listeners):
    local = running_cluster()
    cluster_id, node_id = bytes.fromhex(local.cluster_id), bytes.fromhex(local.nodes[0].node_id)
    for listener in listeners:
        with connect(listener) as connection:
            greeting = hello(cluster_id, node_id=node_id)
            connection.sendall(greeting)
            answer = read_exactly(connection, ANSWER)
            wrong = os.urandom(32)
            assert proof(wrong, b"callee", greeting, answer[:OFFER]) != answer[OFFER:]
            connection.sendall(proof(wrong, b"caller", greeting, answer[:OFFER]))
            verdict = read_all(connection)
            assert verdict == b"\x01", (listener, verdict)


def test_the_right_token_is_let_in(listeners):
    local = running_cluster()
    token = bytes.fromhex(local.token)
    with connect(listeners[0]) as connection:
        greeting = hello(bytes.fromhex(local.cluster_id), node_id=bytes.fromhex(local.nodes[0].node_id))
        connection.sendall(greeting)
        answer = read_exactly(connection, ANSWER)
        assert hmac.compare_digest(proof(token, b"callee", greeting, answer[:OFFER]), answer[OFFER:])
        connection.sendall(proof(token, b"caller", greeting, answer[:OFFER]))
        assert read_exactly(connection, 1) == b"\x00"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + b"x" * 200,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(200),
        bytes(HELLO),
        b"\xff" * 4096,
        b"SPARKRAY" + b"\xff" * 96,
    ],
    ids=["http", "http2", "zeros", "ones", "bad-version"],
)
def test_anything_else_is_refused(listeners, data):
    for listener in listeners:
        with connect(listener) as connection:
            try:
                connection.sendall(data)
                answer = read_all(connection)
            except ConnectionError:
                continue
            assert len(answer) in (0, ANSWER, ANSWER + 1), answer
            if len(answer) == ANSWER + 1:
                assert answer[ANSWER] != 0


def test_a_recorded_proof_cannot_be_used_again(listeners):
    local = running_cluster()
    token = bytes.fromhex(local.token)
    greeting = hello(bytes.fromhex(local.cluster_id), node_id=bytes.fromhex(local.nodes[0].node_id))
    with connect(listeners[0]) as first:
        first.sendall(greeting)
        answer = read_exactly(first, ANSWER)
        recorded = proof(token, b"caller", greeting, answer[:OFFER])
        first.sendall(recorded)
        assert read_exactly(first, 1) == b"\x00"
    with connect(listeners[0]) as second:
        second.sendall(greeting)
        assert read_exactly(second, ANSWER)[:OFFER] != answer[:OFFER]
        second.sendall(recorded)
        assert read_all(second) == b"\x01"


def test_garbage_after_the_handshake_ends_only_that_connection(listeners):
    local = running_cluster()
    token = bytes.fromhex(local.token)
    with connect(listeners[0]) as connection:
        greeting = hello(bytes.fromhex(local.cluster_id), node_id=bytes.fromhex(local.nodes[0].node_id))
        connection.sendall(greeting)
        answer = read_exactly(connection, ANSWER)
        connection.sendall(proof(token, b"caller", greeting, answer[:OFFER]))
        assert read_exactly(connection, 1) == b"\x00"
        try:
            connection.sendall(b"\xff" * 65536)
            read_all(connection)
        except ConnectionError:
            return


def test_silent_and_many_callers_do_not_keep_others_out(listeners):
    silent = [connect(listeners[0]) for _ in range(300)]
    assert sparkray.get(echo.remote(2), timeout=60) == 2
    for connection in silent:
        connection.close()


def test_only_loopback_is_listened_on(cluster):
    raylet = running_cluster().nodes[0]
    assert raylet.address.startswith("127.0.0.1:")
