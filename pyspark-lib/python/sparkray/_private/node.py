"""A cluster on this machine: one head and one or more raylets, children of this process."""

from __future__ import annotations

import json
import os
import secrets
import sys
import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

from sparkray._private import limits, module_path, process, scheduling, units
from sparkray._private.session import Session
from sparkray._private.worker import Connection

STOP_GRACE_SECONDS = 2.0
LOOPBACK = "127.0.0.1"


@dataclass
class LocalNode:
    """One raylet of a local cluster.

    Attributes:
        node_id: its id, in hexadecimal.
        address: host:port at which other nodes reach it.
        socket_name: the abstract Unix socket at which processes of this machine reach it.
        pid: its process id.
        resources: amounts by name; memory and object_store_memory in bytes.
    """

    node_id: str
    address: str
    socket_name: str
    pid: int
    resources: dict[str, float] = field(default_factory=dict)


class LocalCluster:
    """Starts and ends `sparkrayd head` and `sparkrayd raylet` on this machine."""

    def __init__(self, temp_dir: str | None = None, encryption: bool = True) -> None:
        from sparkray import _native

        self.cluster_id = secrets.token_hex(16)
        self._token = secrets.token_hex(32)
        self.head_epoch = 1
        self._encryption = encryption
        self._binary = daemon_path()
        self._processes = _native.LocalProcesses()
        _clusters.add(self)
        self._lock = threading.Lock()
        self.nodes: list[LocalNode] = []
        self._stopped = False
        self.session = Session(self.cluster_id, temp_dir)
        config = {
            "cluster_id": self.cluster_id,
            "token": self._token,
            "head_epoch": self.head_epoch,
            "parent_pid": os.getpid(),
            "log_dir": str(self.session.log_dir),
        }
        try:
            ready = json.loads(
                self._processes.start_head(self._binary, json.dumps(config), str(self.session.log_dir / "head.log"))
            )
        except BaseException:
            self.session.remove()
            raise
        self._head_pid = int(ready["pid"])
        self._head_socket = str(ready["socket_name"])

    @property
    def head_pid(self) -> int:
        """Process id of the head."""
        return self._head_pid

    @property
    def token(self) -> str:
        """The secret of the cluster."""
        return self._token

    def add_node(
        self,
        *,
        num_cpus: float | None = None,
        num_gpus: float | None = None,
        memory: int | None = None,
        resources: dict[str, float] | None = None,
        object_store_memory: int | None = None,
        labels: dict[str, str] | None = None,
        host: str = LOOPBACK,
    ) -> LocalNode:
        """Starts a raylet; returns when it has registered with the head.

        Args:
            num_cpus: CPUs that tasks may ask for; None: those that this process may use.
            num_gpus: GPUs that tasks may ask for.
            memory: bytes that tasks may ask for; None: what is free, without the store.
            resources: custom resources.
            object_store_memory: bytes for objects; None: 30 % of the free memory.
            labels: of the node.
            host: address to bind and to advertise.
        """
        free = limits.available_memory()
        store = int(free * units.STORE_SHARE) if object_store_memory is None else object_store_memory
        if store < units.STORE_LEAST:
            raise ValueError(f"object_store_memory is at least {units.STORE_LEAST} bytes, not {store}")
        amounts: dict[str, float] = dict(resources or {})
        amounts["CPU"] = float(limits.cpus() if num_cpus is None else num_cpus)
        if num_gpus:
            amounts["GPU"] = float(num_gpus)
        amounts["memory"] = float(max(0, free - store) if memory is None else memory)
        amounts["object_store_memory"] = float(store)
        amounts[f"node:{host}"] = 1.0
        node_id = secrets.token_hex(16)
        with self._lock:
            if self._stopped:
                raise RuntimeError("this cluster was stopped: make a new one")
            is_first = not self.nodes
        config: dict[str, Any] = {
            "cluster_id": self.cluster_id,
            "token": self._token,
            "node_id": node_id,
            "head_epoch": self.head_epoch,
            "parent_pid": os.getpid(),
            "host": host,
            "port": 0,
            "head_socket_name": self._head_socket if is_first else None,
            "head_address": None if is_first else self.nodes[0].address,
            "resources": amounts,
            "labels": scheduling.check_labels(labels),
            "object_store_bytes": store,
            "spill_dirs": [str(self.session.spill_dir(node_id))],
            "log_dir": str(self._node_log_dir(node_id)),
            "python": sys.executable,
            "working_dir": _working_directory(),
            "worker_env": module_path.environment(module_path.describe(sys.path)),
            "prestart_workers": max(1, min(int(amounts["CPU"]), 2)),
            "encryption": self._encryption,
        }
        log_path = self.session.log_dir / f"raylet-{node_id[:8]}.log"
        ready = json.loads(self._processes.start_raylet(self._binary, json.dumps(config), str(log_path)))
        node = LocalNode(node_id, str(ready["address"]), str(ready["socket_name"]), int(ready["pid"]), amounts)
        with self._lock:
            self.nodes.append(node)
        return node

    def _node_log_dir(self, node_id: str) -> str:
        path = self.session.log_dir / f"node-{node_id[:8]}"
        path.mkdir(mode=0o700, exist_ok=True)
        return str(path)

    def connection(self, node: LocalNode) -> Connection:
        """How a driver on this machine reaches `node`."""
        return Connection(self.cluster_id, self._token, self.head_epoch, node.node_id, node.socket_name)

    def remove_node(self, node: LocalNode, grace: float = STOP_GRACE_SECONDS) -> None:
        """Ends a raylet and its workers."""
        with self._lock:
            if node not in self.nodes:
                raise ValueError(f"node {node.node_id} is not one of this cluster's")
            if node is self.nodes[0] and len(self.nodes) > 1:
                raise ValueError("the first node is the way to the head: remove the others first, or shut down")
            self.nodes.remove(node)
        self._processes.stop(node.pid, grace)

    def stop(self) -> None:
        """Ends everything, the newest first. Does nothing the second time."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            nodes, self.nodes = self.nodes, []
        try:
            for node in reversed(nodes):
                self._processes.stop(node.pid, STOP_GRACE_SECONDS)
            self._processes.stop(self._head_pid, STOP_GRACE_SECONDS)
        finally:
            self.session.remove()


_clusters: weakref.WeakSet[LocalCluster] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """The processes belong to the parent: the end of this child must not end them."""
    for cluster in list(_clusters):
        process.never_free(cluster._processes)
        cluster._stopped = True


os.register_at_fork(after_in_child=_after_fork_in_child)


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError as error:
        advice = "the working directory of this process was deleted: change into one that exists, and call init() again"
        raise FileNotFoundError(error.errno, advice) from None


def daemon_path() -> str:
    """The binary `sparkrayd`: SPARKRAY_DAEMON if set, else the one in the package."""
    chosen = os.environ.get("SPARKRAY_DAEMON")
    packaged = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "_lib", "sparkrayd")
    path = chosen or packaged
    if not os.access(path, os.X_OK):
        where = "SPARKRAY_DAEMON names" if chosen else "this installation of sparkray lacks"
        raise RuntimeError(f"{where} {path}, which is not there or not executable: install the sparkray wheel again")
    return path
