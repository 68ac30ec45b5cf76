"""Several nodes on one machine, for tests and trials (Ray: ray.cluster_utils).

Each node is a raylet of its own, with its own object store and workers; objects move between them over TCP.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

from sparkray._private import init as _init
from sparkray._private import node as _node
from sparkray._private import options as _options
from sparkray._private import units, worker

__all__ = ["Cluster"]

_LATER = frozenset({"AutoscalingCluster"})


def __getattr__(name: str) -> Any:
    if name in _LATER:
        raise AttributeError(f"sparkray.cluster_utils.{name} is not there yet (docs/STATUS.md lists what is missing)")
    raise AttributeError(f"module 'sparkray.cluster_utils' has no attribute {name!r}")


_NODE_ARGUMENTS = frozenset({"num_cpus", "num_gpus", "memory", "resources", "object_store_memory", "labels", "wait"})


class Cluster:
    """A cluster of several nodes on this machine.

    Args:
        initialize_head: start the first node at once.
        connect: also make this process a driver of it.
        head_node_args: arguments of `add_node` for the first node.
        shutdown_at_exit: end it when Python ends; False is refused, since it never outlives this process.
        encryption: whether connections between its nodes are encrypted (an argument of ours, not of Ray's).

    Use as a context manager, or call `shutdown`.
    """

    def __init__(
        self,
        initialize_head: bool = False,
        connect: bool = False,
        head_node_args: dict[str, Any] | None = None,
        shutdown_at_exit: bool = True,
        encryption: bool = True,
    ) -> None:
        if not shutdown_at_exit:
            raise ValueError("a cluster ends with the process that started it: leave shutdown_at_exit out")
        if connect and not initialize_head:
            raise ValueError("connect=True needs initialize_head=True")
        if head_node_args and not initialize_head:
            raise ValueError("head_node_args needs initialize_head=True")
        self._encryption = encryption
        self._local: _node.LocalCluster | None = None
        self.head_node: _node.LocalNode | None = None
        if initialize_head:
            self.add_node(**(head_node_args or {}))
        if connect:
            self.connect()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()

    @property
    def address(self) -> str:
        """For `sparkray.init(address=...)` in this process."""
        if self.head_node is None:
            raise RuntimeError("this cluster has no node yet: call add_node()")
        return self.head_node.address

    @property
    def gcs_address(self) -> str:
        """As `address`: the first node is the way to the head."""
        return self.address

    @property
    def cluster_id(self) -> str:
        """Hexadecimal id, which is in the environment of all its processes."""
        return self._cluster().cluster_id

    @property
    def worker_nodes(self) -> list[_node.LocalNode]:
        """All nodes but the first."""
        return self.list_all_nodes()[1:]

    def _cluster(self) -> _node.LocalCluster:
        if self._local is None:
            raise RuntimeError("this cluster is not running: call add_node()")
        return self._local

    def connect(self, namespace: str | None = None) -> _init.ClusterInfo:
        """Makes this process a driver of the cluster.

        Args:
            namespace: in which named actors are found. Default: a new one.

        Returns:
            What `sparkray.init` returns.

        Raises:
            RuntimeError: the cluster has no node yet, or this process is connected already.
        """
        return _init.connect_existing(self.address, namespace, True)

    def add_node(self, wait: bool = True, **arguments: Any) -> _node.LocalNode:
        """Starts a node; returns when it has registered.

        Args:
            wait: accepted; a node has always registered when this returns.
            arguments: num_cpus (default 1), num_gpus, memory (bytes), resources, object_store_memory (bytes or "2g";
                default 150 MiB), labels.

        Returns:
            The node: node_id, address, pid, ...

        Raises:
            RuntimeError: the node's process ended; with the end of its log.
            TypeError, ValueError: an unknown argument, or a wrong value.
            NotImplementedError: num_gpus above 0.
        """
        for name in arguments:
            if name not in _NODE_ARGUMENTS:
                raise TypeError(_options.unknown(f"argument {name!r} of add_node()", name, _NODE_ARGUMENTS))
        if arguments.get("num_gpus") is not None:
            _init.check_gpus(arguments["num_gpus"])
        store = arguments.get("object_store_memory")
        memory = arguments.get("memory")
        is_first = self._local is None
        if self._local is None:
            self._local = _node.LocalCluster(encryption=self._encryption)
        try:
            node = self._local.add_node(
                num_cpus=arguments.get("num_cpus", 1),
                num_gpus=arguments.get("num_gpus"),
                memory=None if memory is None else units.parse_bytes("memory", memory),
                resources=_options.check_resources(arguments.get("resources")),
                object_store_memory=150 << 20 if store is None else units.parse_bytes("object_store_memory", store),
                labels=arguments.get("labels"),
            )
        except BaseException:
            if is_first:
                self._local.stop()
                self._local = None
            raise
        if is_first:
            self.head_node = node
            _init.clusters[node.address] = self._local
        return node

    def remove_node(self, node: _node.LocalNode, allow_graceful: bool = True) -> None:
        """Ends a node and what runs on it; its objects are lost.

        Args:
            node: as returned by `add_node`; the first only when it is the last.
            allow_graceful: False: by SIGKILL.

        Raises:
            ValueError: not a node of this cluster, or the first of several.
            RuntimeError: the cluster is not running.
        """
        if not allow_graceful:
            with contextlib.suppress(ProcessLookupError):
                os.kill(node.pid, signal.SIGKILL)
        self._cluster().remove_node(node)

    def list_all_nodes(self) -> list[_node.LocalNode]:
        """The nodes, the first one first.

        Returns:
            Those that were added and not removed.
        """
        return list(self._local.nodes) if self._local is not None else []

    def wait_for_nodes(self, timeout: float = 30) -> None:
        """Waits until the driver sees exactly the nodes that were added and not removed.

        Args:
            timeout: seconds.

        Raises:
            TimeoutError: with what is seen.
            RaySystemError: this process is not connected.
        """
        import time

        core = worker.connected()
        expected = {node.node_id for node in self.list_all_nodes()}
        deadline = time.monotonic() + timeout
        while True:
            alive = {node["node_id"] for node in core.nodes() if node["alive"]}
            if alive == expected:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"after {timeout} s the cluster has {len(alive)} live nodes, and {len(expected)} were expected; "
                    f"missing: {sorted(expected - alive)}; too many: {sorted(alive - expected)}"
                )
            time.sleep(0.01)

    def remaining_processes_alive(self) -> bool:
        """Whether head and raylets live.

        Returns:
            True while all of them do.

        Raises:
            RuntimeError: the cluster is not running.
        """
        local = self._cluster()
        return all(os.path.exists(f"/proc/{pid}") for pid in (local.head_pid, *(node.pid for node in local.nodes)))

    def shutdown(self) -> None:
        """Ends all nodes and the head. Leaves the cluster first when this process is connected to it."""
        local, self._local, head = self._local, None, self.head_node
        self.head_node = None
        if local is None:
            return
        if worker.state.core is not None and worker.state.core.cluster_id == local.cluster_id:
            worker.disconnect()
        if head is not None:
            _init.clusters.pop(head.address, None)
        local.stop()
