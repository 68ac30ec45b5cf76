"""A stand-in for the real zygote: speaks the raylet's protocol and forks workers that only register and wait.

A worker that becomes an actor prints one line and answers with success. On ExitWorker it exits with code 0. Else it
waits for the end of its connection.

With a file `zygote-dies` in its working directory, which it removes, the zygote does not tell of the next worker, and
that worker kills it when it is to become an actor.
"""

import array
import ctypes
import json
import os
import signal
import socket
import struct
import sys

HEADER = struct.Struct("<HHIQQ")
REGISTER_CLIENT, CREATE_ACTOR, CREATE_ACTOR_REPLY, EXIT_WORKER = 32, 45, 46, 48


def field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2, len(value)]) + value


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def register_message(worker_id: bytes, version: str) -> bytes:
    kind_worker, pid = bytes([2 << 3, 1]), bytes([3 << 3]) + varint(os.getpid())
    return field(1, worker_id) + kind_worker + pid + field(5, version.encode()) + field(6, b"3.11")


def receive_exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        chunk = connection.recv(length - len(data))
        if not chunk:
            os._exit(3)
        data += chunk
    return data


def worker(connection: socket.socket, config: dict, version: str, victim: int | None) -> None:
    libc = ctypes.CDLL(None)
    libc.prctl(1, ctypes.c_ulong(9), 0, 0, 0)
    connection.setblocking(True)
    meta = register_message(bytes.fromhex(config["worker_id"]), version)
    connection.sendall(HEADER.pack(REGISTER_CLIENT, 0, len(meta), 0, 1) + meta)
    while True:
        kind, _, meta_length, payload_length, correlation = HEADER.unpack(receive_exactly(connection, HEADER.size))
        receive_exactly(connection, meta_length + payload_length)
        if kind == CREATE_ACTOR:
            if victim is not None:
                os.kill(victim, signal.SIGKILL)
            print("hello from an actor", flush=True)
            connection.sendall(HEADER.pack(CREATE_ACTOR_REPLY, 0, 0, 0, correlation))
        elif kind == EXIT_WORKER:
            os._exit(0)


def fork_worker(control: socket.socket, message: dict, descriptors: list[int], version: str, victim: int | None) -> int:
    read_end, write_end = os.pipe()
    alive_read, alive_write = os.pipe()
    middle = os.fork()
    if middle == 0:
        pid = os.fork()
        if pid == 0:
            os.close(alive_write)
            os.read(alive_read, 1)  # end of file: middle process and zygote have closed their ends
            control.close()
            os.dup2(descriptors[1], 1)
            os.dup2(descriptors[2], 2)
            worker(socket.socket(fileno=descriptors[0]), message["config"], version, victim)
        os.write(write_end, str(pid).encode())
        os._exit(0)
    os.close(write_end)
    os.waitpid(middle, 0)
    pid = int(os.read(read_end, 32))
    for descriptor in (read_end, alive_read, alive_write):
        os.close(descriptor)
    return pid


def main() -> None:
    control = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)  # workers inherit descriptor 0, and are to keep no end of the socket
    version = os.environ["STAND_IN_VERSION"]
    ready = {"kind": "ready", "pid": os.getpid(), "python_version": "3.11", "sparkray_version": version}
    control.send(json.dumps(ready).encode())
    while True:
        data, ancillary, _, _ = control.recvmsg(65536, socket.CMSG_SPACE(12))
        if not data:
            sys.exit(0)
        descriptors = array.array("i")
        descriptors.frombytes(ancillary[0][2])
        message = json.loads(data)
        dies = os.path.exists("zygote-dies")
        if dies:
            os.remove("zygote-dies")
        pid = fork_worker(control, message, list(descriptors), version, os.getpid() if dies else None)
        for descriptor in descriptors:
            os.close(descriptor)
        if dies:
            continue
        control.send(json.dumps({"kind": "forked", "worker_id": message["worker_id"], "pid": pid}).encode())


main()
