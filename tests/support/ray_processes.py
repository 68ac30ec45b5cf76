"""What a cluster on Spark has on this machine: recorded while it runs, and gone after its end."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Iterable
from typing import Any

import sparkray
from process.helpers import TROUBLE, alive, memory_files, open_files, processes_of, sockets_of
from sparkray.spark import RayContext
from support.listeners import tcp_listeners, tcp_listeners_of

# After `stop()`, or after the end of the container.
# Two seconds are promised, on a machine that does nothing else.
SECONDS = 60.0
# Larger than what travels inside messages, so that it is in shared memory.
SHARED_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Process:
    """What /proc says about a process."""

    pid: int
    parent_pid: int
    group: int
    environment: dict[str, str]


def look_at(pid: int) -> Process:
    """Reads /proc."""
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    fields = stat.rpartition(")")[2].split()
    pairs = pathlib.Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    environment = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    return Process(pid, int(fields[1]), int(fields[2]), environment)


def spill_directories(raylet_pid: int, node_id: str) -> list[str]:
    """Where a node may spill objects to: below the container's local directories, or its manager's own."""
    environment = look_at(raylet_pid).environment
    container = environment.get("CONTAINER_ID")
    if container:
        roots = [pathlib.Path(local, container) for local in environment["LOCAL_DIRS"].split(",")]
    else:
        roots = [pathlib.Path(os.readlink(f"/proc/{raylet_pid}/exe")).parent / "spill"]
    return [str(root / f"sparkray-spill-{node_id}") for root in roots]


def open_spill_files(raylet_pid: int) -> list[str]:
    """The files of spilled objects that a raylet has open; they have no names, only their directory is told."""
    return [path for path in open_files(raylet_pid) if "/sparkray-spill-" in path]


def executors_of_spark(context: Any) -> int:
    """Executors that have registered with Spark's driver."""
    return int(context._jsc.sc().getExecutorMemoryStatus().size()) - 1


@dataclasses.dataclass
class Traces:
    """What must be gone at the end. It can go through a pipe as text."""

    cluster_id: str
    pids: list[int]
    # Inode and port. The kernel may give a port that became free to anybody at once.
    listeners: list[list[int]]
    memfds: list[str]
    # Each with the JVM in whose private directory it is; 0 in a container, which YARN deletes.
    spill_directories: dict[str, int]

    def text(self) -> str:
        """One line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def of_text(cls, line: str) -> Traces:
        return cls(**json.loads(line))

    def left(self) -> list[str]:
        """What is still there, in words."""
        left = [f"pid {pid}" for pid in self.pids if alive(pid)]
        left += [f"pid {pid}: {command}" for pid, command in processes_of(self.cluster_id)]
        left += sockets_of(self.cluster_id)
        left += [f"pid {pid} holds {sorted(held)}" for pid, held in memory_files(self.cluster_id).items()]
        listening = tcp_listeners()
        left += [f"a listener on port {port}" for inode, port in self.listeners if listening.get(inode) == port]
        left += [path for path, java in self.spill_directories.items() if _is_left(path, java)]
        return left

    def assert_gone(self, seconds: float = SECONDS) -> None:
        """Fails unless all of it is gone in time."""
        deadline = time.monotonic() + seconds
        while left := self.left():
            assert time.monotonic() < deadline, f"left after {seconds} s of cluster {self.cluster_id}: {left}"
            time.sleep(0.02)

    def assert_gone_with(self, pids: Iterable[int], end_seconds: float = 60.0, seconds: float = SECONDS) -> None:
        """Waits for the end of the processes that carried the cluster, and then fails unless all of it is gone in
        time."""
        waiting = list(pids)
        deadline = time.monotonic() + end_seconds
        while waiting := [pid for pid in waiting if alive(pid)]:
            assert time.monotonic() < deadline, f"processes {waiting} have not ended within {end_seconds} s"
            time.sleep(0.01)
        self.assert_gone(seconds)


def _is_left(directory: str, java: int) -> bool:
    """Spilled files have no names. A JVM that is killed leaves its private directory, with nothing in it; the next one
    on that machine deletes it."""
    try:
        return bool(os.listdir(directory)) or java == 0 or alive(java)
    except FileNotFoundError:
        return False


class Recorded(Traces):
    """Everything that belongs to the cluster of a RayContext now, and how long its logs are."""

    def __init__(self, context: RayContext) -> None:
        # There is no shared memory as long as there is no object.
        self._kept = sparkray.put(bytes(SHARED_BYTES))
        info: dict[str, Any] = context._running()
        nodes = [node for node in (*context.nodes(), info["driver_node"]) if node["pid"]]
        self.head_pid = int(info["head_pid"])
        self.raylets = sorted({int(node["pid"]) for node in nodes})
        # The processes of Spark that carry the cluster: they stay when it stops, and it goes when they go.
        self.java_pids = sorted({int(node["executor_pid"]) for node in context.nodes()})
        workers = [pid for pid, _ in processes_of(context.cluster_id)]
        super().__init__(
            cluster_id=context.cluster_id,
            pids=sorted({self.head_pid, *self.raylets, *workers}),
            listeners=sorted(
                [inode, port] for pid in {self.head_pid, *self.raylets} for inode, port in tcp_listeners_of(pid).items()
            ),
            memfds=sorted({name for held in memory_files(context.cluster_id).values() for name in held}),
            spill_directories={
                path: 0 if node["container_id"] else int(node["executor_pid"])
                for node in nodes
                for path in spill_directories(node["pid"], node["node_id"])
            },
        )
        told = {int(node["address"].rpartition(":")[2]) for node in nodes}
        # Otherwise nothing would be looked for afterwards.
        ports = {port for _, port in self.listeners}
        assert self.memfds and told and told <= ports, (self.memfds, told, ports)
        missing = [path for path in self.spill_directories if not os.path.isdir(path)]
        assert self.spill_directories and not missing, f"not where they should be: {missing}"
        self._logs = {path: path.stat().st_size for node in nodes for path in _logs_beside(node["pid"])}
        assert self._logs

    def assert_quiet(self, allowed: Iterable[str] = ()) -> None:
        """Fails when head or raylets have logged a warning or an error since, other than those with allowed words.
        For executors outside of containers: their logs go with their JVMs."""
        words = tuple(allowed)
        unexpected = []
        for path, size in self._logs.items():
            if not path.exists():
                continue
            with path.open("rb") as file:
                file.seek(size)
                text = file.read().decode(errors="replace")
            lines = [match.group(0) for match in TROUBLE.finditer(text)]
            unexpected += [f"{path.name}: {line}" for line in lines if not any(word in line for word in words)]
        assert not unexpected, "unexpected lines in the logs:\n" + "\n".join(unexpected)


def _logs_beside(raylet_pid: int) -> list[pathlib.Path]:
    environment = look_at(raylet_pid).environment
    if environment.get("CONTAINER_ID"):
        return list(pathlib.Path(environment["LOG_DIRS"].split(",")[0]).glob("sparkray-*.log"))
    return list((pathlib.Path(os.readlink(f"/proc/{raylet_pid}/exe")).parent / "logs").glob("*.log"))


def allowed_troubles(request: Any) -> tuple[str, ...]:
    """The words of a test's marker `trouble`."""
    marker = request.node.get_closest_marker("trouble")
    return tuple(marker.args) if marker else ()


__all__ = [
    "Process",
    "Recorded",
    "Traces",
    "alive",
    "allowed_troubles",
    "executors_of_spark",
    "look_at",
    "memory_files",
    "open_spill_files",
    "spill_directories",
]
