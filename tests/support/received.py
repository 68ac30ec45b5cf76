"""Bytes that came to a process over TCP: the kernel's own counts, asked for by netlink as `ss -tip` does."""

from __future__ import annotations

import socket
import struct
import threading

from support.listeners import socket_inodes

_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NETLINK_INET_DIAG = 4
_INET_DIAG_INFO = 2
# struct inet_diag_msg, and the place of tcpi_bytes_received in struct tcp_info.
_DIAG_MESSAGE_BYTES = 72
_BYTES_RECEIVED = 128
# All states but LISTEN.
_STATES = 0xFFF & ~(1 << 10)
_INTERVAL_SECONDS = 0.02


def received_by_inode() -> dict[int, int]:
    """Bytes received by each TCP socket of this machine since it was connected."""
    found: dict[int, int] = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_INET_DIAG) as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            request = struct.pack("=BBBBI48x", family, socket.IPPROTO_TCP, 1 << (_INET_DIAG_INFO - 1), 0, _STATES)
            # NLM_F_REQUEST | NLM_F_DUMP
            netlink.send(struct.pack("=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, 0x301, family, 0) + request)
            while _read_answers(netlink.recv(1 << 18), found):
                pass
    return found


def _read_answers(data: bytes, found: dict[int, int]) -> bool:
    """Whether more follow."""
    while data:
        length, kind, _, _, _ = struct.unpack_from("=IHHII", data)
        if kind == _NLMSG_DONE:
            return False
        assert kind != _NLMSG_ERROR, f"the kernel refuses: errno {-struct.unpack_from('=i', data, 16)[0]}"
        (inode,) = struct.unpack_from("=I", data, 16 + _DIAG_MESSAGE_BYTES - 4)
        position = 16 + _DIAG_MESSAGE_BYTES
        while position + 4 <= length:
            size, attribute = struct.unpack_from("=HH", data, position)
            if attribute == _INET_DIAG_INFO and size >= 4 + _BYTES_RECEIVED + 8:
                (found[inode],) = struct.unpack_from("=Q", data, position + 4 + _BYTES_RECEIVED)
            position += max(4, (size + 3) & ~3)
        data = data[(length + 3) & ~3 :]
    return True


class Received:
    """Bytes received by some processes while the block runs, by name; sockets that come and go are watched too."""

    def __init__(self, processes: dict[str, int]) -> None:
        self._processes = processes
        self._owners: dict[int, str] = {}
        self._last: dict[int, int] = {}
        self._first: dict[int, int] = {}
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="received", daemon=True)

    def __enter__(self) -> Received:
        self._look()
        # What was received before does not count; sockets that come later count from their beginning.
        self._first = dict(self._last)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watcher.join()
        self._look()

    def bytes(self) -> dict[str, int]:
        """By the processes' names."""
        sums = dict.fromkeys(self._processes, 0)
        for inode, count in self._last.items():
            sums[self._owners[inode]] += count - self._first.get(inode, 0)
        return sums

    def _watch(self) -> None:
        while not self._done.wait(_INTERVAL_SECONDS):
            self._look()

    def _look(self) -> None:
        counts = received_by_inode()
        for name, pid in self._processes.items():
            for inode in socket_inodes(pid) & counts.keys():
                self._owners[inode] = name
        for inode in self._owners.keys() & counts.keys():
            self._last[inode] = max(counts[inode], self._last.get(inode, 0))
