"""Everything that crosses the network between hosts while a block runs, as a stranger at the switch would record it."""

from __future__ import annotations

import pathlib
import struct
import subprocess
import sys

from support.network import Network

_END_SECONDS = 60.0
_ETHERNET_BYTES = 14
_IPV4 = 0x0800
_TCP = 6
# Runs in the namespace of the switch. Each frame is seen when it comes in, and not again when it goes out.
_RECORDER = """
import select, socket, struct, sys
ALL, FORCED_BUFFER, PACKET, STATISTICS, OUTGOING = 3, 33, 263, 6, 4
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL))
wire.setsockopt(socket.SOL_SOCKET, FORCED_BUFFER, 256 << 20)
wire.setblocking(False)
print("records", flush=True)
ends = False
with open(sys.argv[1], "wb") as file:
    while True:
        ready, _, _ = select.select([wire] if ends else [wire, sys.stdin], [], [], 0.5 if ends else None)
        if wire in ready:
            frame, address = wire.recvfrom(1 << 17)
            if address[2] != OUTGOING and address[0] != "lo" and address[0] != "bridge":
                file.write(struct.pack("<I", len(frame)) + frame)
        elif ends:
            break
        else:
            ends = True
print(struct.unpack("II", wire.getsockopt(PACKET, STATISTICS, 8))[1], flush=True)
"""

# Source address, source port, destination address, destination port.
Flow = tuple[bytes, int, bytes, int]


class Recording:
    """What was on the wire: one stream of bytes for each direction of each TCP connection."""

    def __init__(self, network: Network, file: pathlib.Path) -> None:
        self._file = file
        self._recorder = network.switch.start(
            sys.executable, "-c", _RECORDER, str(file), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.streams: dict[Flow, bytes] = {}

    def __enter__(self) -> Recording:
        assert self._recorder.stdout is not None
        assert self._recorder.stdout.readline() == "records\n"
        return self

    def __exit__(self, *_: object) -> None:
        lost, _none = self._recorder.communicate(timeout=_END_SECONDS)
        assert int(lost) == 0, f"{lost} frames were not recorded"
        self.streams = _streams(self._file.read_bytes())

    def has(self, secret: bytes) -> list[str]:
        """Where these bytes are in the clear."""
        return [
            f"{_name(source)}:{source_port} -> {_name(target)}:{target_port} at {stream.index(secret)}"
            for (source, source_port, target, target_port), stream in self.streams.items()
            if secret in stream
        ]

    def bytes(self) -> int:
        """How much was recorded."""
        return sum(map(len, self.streams.values()))


def _name(address: bytes) -> str:
    return ".".join(map(str, address))


def _streams(frames: bytes) -> dict[Flow, bytes]:
    """Puts the segments of each direction in the order of their numbers; what was sent twice is in it once."""
    segments: dict[Flow, dict[int, bytes]] = {}
    position = 0
    while position < len(frames):
        (length,) = struct.unpack_from("<I", frames, position)
        _add_segment(frames[position + 4 : position + 4 + length], segments)
        position += 4 + length
    streams = {}
    for flow, parts in segments.items():
        stream, end = [], None
        for start, data in sorted(parts.items()):
            known = 0 if end is None else max(0, end - start)
            stream.append(data[known:])
            end = max(end or 0, start + len(data))
        streams[flow] = b"".join(stream)
    return streams


def _add_segment(frame: bytes, segments: dict[Flow, dict[int, bytes]]) -> None:
    (kind,) = struct.unpack_from("!H", frame, 12)
    packet = frame[_ETHERNET_BYTES:]
    if kind != _IPV4 or packet[9] != _TCP:
        return
    header = (packet[0] & 15) * 4
    (length,) = struct.unpack_from("!H", packet, 2)
    source_port, target_port, number = struct.unpack_from("!HHI", packet, header)
    data = packet[header + (packet[header + 12] >> 4) * 4 : length]
    if data:
        parts = segments.setdefault((packet[12:16], source_port, packet[16:20], target_port), {})
        parts[number] = max(parts.get(number, b""), data, key=len)
