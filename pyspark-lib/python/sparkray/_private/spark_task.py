"""A process in which a task of Spark runs, as part of the cluster on its executor.

pyspark's daemon forks such processes below an executor's JVM, for tasks of RDDs and for SQL functions apart. No raylet
knows them, nothing is told to them, and an idle one ends after a minute. So each joins by itself when its task first
needs the cluster: the manager in the JVM above it says how (runtime/supervisor/src/executor/raylet_access.rs), and it
becomes a participant of the driver's job. Leaving is its end, or that of the raylet or of the job; a later task in the
same process joins anew.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any

from sparkray import _native, exceptions
from sparkray._private import worker

# The manager waits ten seconds for a raylet that is being started.
_ANSWER_SECONDS = 30.0
# A JVM that is younger may not have started its manager yet.
_MANAGER_SECONDS = 20.0
_PAUSE_SECONDS = 0.02
_MANY_ANCESTORS = 16
_SOCKET = re.compile(rb" @(sparkray-tasks-(\d+)-[0-9a-f]+)$", re.MULTILINE)
# Pid, uid and gid of who listens (unix(7), SO_PEERCRED).
_PEER = struct.Struct("3i")


def is_running() -> bool:
    """Whether this process runs a task of Spark now."""
    module = sys.modules.get("pyspark.taskcontext")
    context = None if module is None else module.TaskContext.get()
    # Whoever makes one himself has one without a stage.
    return context is not None and context.stageId() is not None


def join() -> None:
    """Joins the executor's cluster, if this process runs a task of Spark and has not.

    Raises:
        RaySystemError: no cluster runs there, or it cannot be joined.
    """
    if not is_running():
        return
    with worker.joining:
        if worker.state.core is None:
            worker.connect_participant(_find_raylet())


def cluster() -> ExecutorsCluster | None:
    """What `init` joins in a task of Spark; None elsewhere."""
    return ExecutorsCluster() if is_running() else None


class ExecutorsCluster:
    """The cluster of which this executor's raylet is a part (joinable.JoinableCluster)."""

    @property
    def addresses(self) -> frozenset[str]:
        """Of all nodes: a program may have got any of them from its driver."""
        return frozenset(node["address"] for node in worker.core_worker().nodes())

    def check(self) -> None:
        """Does nothing: who connects finds out."""

    def is_connected(self) -> bool:
        """Whether this process takes part in it now."""
        return worker.state.core is not None

    def connect(self, namespace: str | None = None, log_to_driver: bool | None = None) -> None:
        """Joins it. `log_to_driver` is the driver's to say."""
        join()
        worker.change_settings(namespace, None)


# ------------------------------------------------------------------------------------------- the way to the raylet


def _find_raylet() -> worker.Connection:
    access = _ask_manager()
    if access is None:
        raise _nowhere("nothing of sparkray runs in its JVM")
    if access["failure"] is not None:
        raise _nowhere(access["failure"])
    return worker.Connection(
        cluster_id=access["cluster_id"],
        token=access["token"],
        head_epoch=access["head_epoch"],
        node_id=access["node_id"],
        socket_name=access["socket_name"],
    )


def _nowhere(reason: str) -> exceptions.RaySystemError:
    return exceptions.RaySystemError(
        f"a task of Spark used sparkray on an executor without a Ray cluster ({reason}): call RayContext(sc).init() in "
        "the driver before the job whose tasks do, and start no cluster in tasks"
    )


def _ask_manager() -> dict[str, Any] | None:
    """What the manager in the JVM above this process says; None: there is none."""
    above = list(_processes_above())
    while True:
        for pid, name in _sockets(above):
            answer = _ask(pid, name)
            if answer is not None:
                return _native.decode_raylet_access(answer)
        if not any(process.is_young_java() for process in above):
            return None
        time.sleep(_PAUSE_SECONDS)


class _Process:
    """What /proc/<pid>/stat says."""

    def __init__(self, pid: int) -> None:
        with open(f"/proc/{pid}/stat", "rb") as file:
            name, _, rest = file.read().rpartition(b") ")
        fields = rest.split()
        self.pid = pid
        self.parent = int(fields[1])
        self._name = name.partition(b"(")[2]
        # Seconds after the machine's boot.
        self._started = int(fields[19]) / os.sysconf("SC_CLK_TCK")

    def is_young_java(self) -> bool:
        """Whether it is a JVM that may not have got to its plugins yet."""
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - self._started
        return self._name == b"java" and age < _MANAGER_SECONDS


def _processes_above() -> Iterator[_Process]:
    """The parent of this process first: pyspark's daemon, or the JVM itself."""
    pid = os.getppid()
    for _ in range(_MANY_ANCESTORS):
        if pid <= 0:
            return
        try:
            process = _Process(pid)
        except OSError:
            # It ends, or belongs to somebody else.
            return
        yield process
        pid = process.parent


def _sockets(processes: list[_Process]) -> list[tuple[int, bytes]]:
    """Pid and name of each socket that names one of these processes, whoever made it."""
    with open("/proc/net/unix", "rb") as file:
        listed = {(int(pid), name) for name, pid in _SOCKET.findall(file.read())}
    pids = {process.pid for process in processes}
    return sorted(entry for entry in listed if entry[0] in pids)


def _ask(pid: int, name: bytes) -> bytes | None:
    """What this process says at its socket; None: it is another one's socket, or gone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(_ANSWER_SECONDS)
        try:
            caller.connect(b"\0" + name)
            peer_pid, peer_uid, _ = _PEER.unpack(caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
            # Anybody may listen at any name.
            if (peer_pid, peer_uid) != (pid, os.geteuid()):
                return None
            answer = b""
            while part := caller.recv(4096):
                answer += part
        except OSError:
            return None
        return answer or None
