"""What strangers on this machine and on the network can read, change and hold up."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import os
import resource
import secrets
import socket
import statistics
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import sparkray
from process.helpers import running_cluster, sockets_of
from sparkray.cluster_utils import Cluster
from support.listeners import ANSWER, hello, read_exactly

_EVERY_PROTOCOL = 0x0003
# Beyond the limit that the kernel has for everybody.
_SO_RCVBUFFORCE = 33
NOBODY = 65534


class Sniffer:
    """Everything that crosses the loopback device, as far as it has one of the needles."""

    def __init__(self, needles: dict[str, bytes]) -> None:
        self.needles = needles
        self.seen: set[str] = set()
        self.packets = 0
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERY_PROTOCOL))
        except PermissionError:
            pytest.skip("only root may record the network")
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 256 << 20)
        self._socket.bind(("lo", 0))
        self._last = secrets.token_bytes(32)
        self._thread = threading.Thread(target=self._record, daemon=True)
        self._thread.start()

    def _record(self) -> None:
        while self._last not in (packet := self._socket.recv(1 << 17)):
            self.packets += 1
            self.seen |= {name for name, needle in self.needles.items() if needle in packet}

    def stop(self) -> set[str]:
        """The names of the needles that were seen."""
        # Others use the device too, so it may never be quiet: what was sent before this packet has been recorded.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(self._last, ("127.0.0.1", 9))
        self._thread.join(60)
        assert not self._thread.is_alive(), "the device was recorded for a minute, and the end is not in sight"
        self._socket.close()
        return self.seen


@sparkray.remote
class Keeper:
    def __init__(self, word):
        self.word = word

    def say(self, word):
        return self.word + word


@pytest.mark.parametrize("encryption", [True, False])
def test_what_crosses_between_nodes_cannot_be_read_by_who_records_it(encryption):
    marks = {name: secrets.token_hex(16) for name in ("argument", "result", "object", "code", "actor", "method")}
    with Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"n0": 10}}, encryption=encryption
    ) as cluster:
        needles = {name: mark.encode() for name, mark in marks.items()}
        token = bytes.fromhex(cluster._local.token)
        needles |= {"token": token, "token in hex": token.hex().encode()}
        sniffer = Sniffer(needles)
        cluster.add_node(num_cpus=1, resources={"n1": 10})
        sparkray.init(address=cluster.address)
        cluster.wait_for_nodes()
        code, result = marks["code"], marks["result"]

        @sparkray.remote(resources={"n1": 1})
        def answer(argument):
            return (result, len(argument), code[::-1], code)

        @sparkray.remote(resources={"n1": 1})
        def large(array):
            return int(array.sum())

        assert sparkray.get(answer.remote(marks["argument"]), timeout=60)[1] == 32
        pattern = np.frombuffer(marks["object"].encode() * 100_000, np.uint8)
        assert sparkray.get(large.remote(sparkray.put(pattern)), timeout=60) == int(pattern.sum())
        keeper = Keeper.options(resources={"n1": 1}).remote(marks["actor"])
        assert sparkray.get(keeper.say.remote(marks["method"]), timeout=60) == marks["actor"] + marks["method"]
        sparkray.shutdown()
        seen = sniffer.stop()
    assert sniffer.packets > 100
    if encryption:
        assert seen == set()
    else:
        # The look would find it. Secrets are never in clear.
        assert seen == set(marks)


_STRANGER = """
import os, socket, sys
os.setgroups([]); os.setgid({nobody}); os.setuid({nobody})
greeting = bytes.fromhex(sys.argv[1])
for name in sys.argv[2:]:
    for _ in range(300):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(60)
        connection.connect("\\0" + name)
        try:
            connection.sendall(greeting)
            heard = connection.recv(1)
        except ConnectionError:
            heard = b""
        if heard:
            raise SystemExit(f"{{name}} answered another user")
        connection.close()
print("closed", len(sys.argv) - 2)
"""


def test_another_user_of_the_machine_gets_no_word_from_a_unix_socket(cluster):
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    local = running_cluster()
    names = [name.removeprefix("@") for name in sorted(set(sockets_of(local.cluster_id)))]
    greeting = hello(bytes.fromhex(local.cluster_id), node_id=bytes.fromhex(local.nodes[0].node_id))
    stranger = subprocess.run(
        [sys.executable, "-c", _STRANGER.format(nobody=NOBODY), greeting.hex(), *names],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert stranger.stdout.strip() == f"closed {len(names)}", stranger.stderr
    # Its own user is heard.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(60)
        connection.connect("\0" + names[0])
        connection.sendall(greeting)
        assert len(read_exactly(connection, ANSWER)) == ANSWER


def test_two_thousand_silent_callers_from_one_address_hold_nobody_up():
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 1}) as cluster:
        cluster.add_node(num_cpus=2, resources={"far": 10})
        sparkray.init(address=cluster.address)
        cluster.wait_for_nodes()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        addresses = [node.address.rpartition(":") for node in cluster.list_all_nodes()]
        flood = []
        for host, _, port in addresses:
            for _ in range(2000):
                silent = socket.socket()
                silent.bind(("127.0.0.2", 0))
                silent.connect((host, int(port)))
                flood.append(silent)
        waits = []
        local = cluster._local
        for _ in range(50):
            begin = time.monotonic()
            with socket.create_connection((addresses[1][0], int(addresses[1][2])), timeout=60) as connection:
                connection.sendall(hello(bytes.fromhex(local.cluster_id), node_id=bytes(16)))
                read_exactly(connection, ANSWER)
            waits.append(time.monotonic() - begin)
        # A handshake takes less than a millisecond; the machine may be busy.
        assert statistics.median(waits) < 0.1, waits

        @sparkray.remote(resources={"far": 1}, num_cpus=0.1, max_retries=0)
        def double(number):
            return 2 * number

        # Each worker is a new connection from here.
        assert sparkray.get([double.remote(n) for n in range(100)], timeout=120) == [2 * n for n in range(100)]
        for silent in flood:
            silent.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        sparkray.shutdown()
