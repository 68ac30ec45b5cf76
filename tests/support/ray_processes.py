"""The processes of a cluster on Spark: what a test records before the end, and what must be gone after it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

from process.helpers import alive, assert_nothing_left, processes_of
from sparkray.spark import RayContext


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


class Recorded:
    """Everything that belongs to the cluster of a RayContext now: pids, memfds, sockets and spilled files' places."""

    def __init__(self, context: RayContext) -> None:
        info: dict[str, Any] = context._running()
        self.cluster_id = context.cluster_id
        self.head_pid = int(info["head_pid"])
        self.raylets = [int(node["pid"]) for node in context.nodes() if node["pid"]]
        driver_raylet = int(info["driver_node"]["pid"])
        workers = [pid for pid, _ in processes_of(self.cluster_id)]
        self.pids = sorted({self.head_pid, driver_raylet, *self.raylets, *workers})

    def assert_gone(self, seconds: float = 2.0) -> None:
        """Fails unless all of it is gone in time."""
        assert_nothing_left(self.cluster_id, self.pids, seconds)


def memory_files(pid: int) -> list[str]:
    """Names of the memfds that a process has open."""
    found = []
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:
            continue
        if target.startswith("/memfd:"):
            found.append(target)
    return found


__all__ = ["Process", "Recorded", "alive", "look_at", "memory_files"]
