"""Listening sockets of processes, by what the kernel tells; and what their owners answer to a wrong token."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import hmac
import ipaddress
import os
import pathlib
import re
import socket
import struct

HELLO = 104
# What a callee says to a hello, and what of it comes before its proof: its nonce, and how the connection is protected.
ANSWER, OFFER = 65, 33
MANAGER, RAYLET = 2, 3
_TCP_LISTEN = "0A"
# __SO_ACCEPTCON
_UNIX_LISTEN = 0x10000


@dataclasses.dataclass(frozen=True)
class Listener:
    """A listening socket: a TCP port, or the name of a Unix socket (abstract ones begin with @)."""

    pid: int
    host: str = ""
    port: int = 0
    name: str = ""

    def connect(self, seconds: float = 10.0) -> socket.socket:
        """A connection to it."""
        if not self.name:
            return socket.create_connection((self.host, self.port), seconds)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(seconds)
        connection.connect("\0" + self.name[1:] if self.name.startswith("@") else self.name)
        return connection


def _host(digits: str) -> str:
    """Where to reach a listener whose address the kernel writes so: in words of four bytes, each turned round."""
    words = [bytes.fromhex(digits[index : index + 8])[::-1] for index in range(0, len(digits), 8)]
    address = ipaddress.ip_address(b"".join(words))
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return "127.0.0.1" if address.is_unspecified else str(address)


def _tcp_listeners() -> dict[int, tuple[str, int]]:
    """Host and port by inode."""
    found = {}
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _TCP_LISTEN:
                    address, _, port = fields[1].rpartition(":")
                    found[int(fields[9])] = _host(address), int(port, 16)
    return found


def _unix_listeners() -> dict[int, str]:
    """Name by inode."""
    found = {}
    for line in pathlib.Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split(None, 7)
        if int(fields[3], 16) & _UNIX_LISTEN and len(fields) == 8:
            found[int(fields[6])] = fields[7]
    return found


def socket_inodes(pid: int) -> set[int]:
    """The sockets that a process has open."""
    found = set()
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{number}"))
                if match:
                    found.add(int(match.group(1)))
    return found


def tcp_listeners() -> dict[int, int]:
    """Port by inode of all listening TCP sockets of this machine. One socket has one inode; ports pass on."""
    return {inode: port for inode, (_, port) in _tcp_listeners().items()}


def tcp_listeners_of(pid: int) -> dict[int, int]:
    """Port by inode of the TCP sockets on which a process listens."""
    own = socket_inodes(pid)
    return {inode: port for inode, port in tcp_listeners().items() if inode in own}


def listeners_of(pid: int) -> list[Listener]:
    """All listening sockets of a process."""
    own = socket_inodes(pid)
    found = [Listener(pid, host, port) for inode, (host, port) in _tcp_listeners().items() if inode in own]
    return found + [Listener(pid, name=name) for inode, name in _unix_listeners().items() if inode in own]


def hello(cluster_id: bytes, epoch: int = 1, kind: int = RAYLET, node_id: bytes = bytes(16), version: int = 2) -> bytes:
    """The first message of a caller: runtime/rpc/src/handshake.rs."""
    return (
        b"SPARKRAY"
        + struct.pack("<HB5x", version, kind)
        + cluster_id
        + struct.pack("<Q", epoch)
        + node_id
        + bytes(16)
        + os.urandom(32)
    )


def proof(token: bytes, role: bytes, greeting: bytes, offer: bytes) -> bytes:
    """What only who knows the token can say."""
    return hmac.new(token, role + greeting + offer, hashlib.sha256).digest()


def read_all(connection: socket.socket) -> bytes:
    """Everything until the other side closes, or resets the connection: it does so when it closes with bytes unread."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(4096):
            data += chunk
    return data


def read_exactly(connection: socket.socket, length: int) -> bytes:
    """So many bytes; an AssertionError when the other side closes before."""
    data = b""
    while len(data) < length:
        chunk = connection.recv(length - len(data))
        assert chunk, f"closed after {len(data)} of {length} bytes"
        data += chunk
    return data
