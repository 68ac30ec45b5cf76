"""A cluster on a SparkContext from its start to its end, whether this program is connected to it or not."""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from typing import Any

from sparkray._private import job_modules, worker
from sparkray.spark import manager
from sparkray.spark.errors import RayContextError
from sparkray.spark.ray_arguments import NodeOptions
from sparkray.spark.remedies import REMEDIES


class RunningCluster:
    """A cluster that this program has started. Contexts with the same arguments share it; whoever ends it ends it for
    all of them. `sparkray.shutdown` leaves it, `sparkray.init` joins it again."""

    def __init__(
        self,
        found: manager.Manager,
        result: dict[str, Any],
        *,
        arguments: tuple[NodeOptions, float, str | None],
        log_to_driver: bool,
        origin: job_modules.Origin,
    ) -> None:
        """Arguments: `result` is what the manager returned, of which the token is taken; `arguments` are options of the
        nodes, CPUs of the driver's, and namespace."""
        self.manager = found
        self.arguments = arguments
        self._connection = worker.Connection(
            cluster_id=result["cluster_id"],
            token=result.pop("token"),
            head_epoch=result["head_epoch"],
            node_id=result["driver_node"]["node_id"],
            socket_name=result["socket_name"],
        )
        # Without the token.
        self.result = result
        self._log_to_driver = log_to_driver
        self._origin = origin
        # References that DataFrames borrow, by the ids of their tables.
        self.kept: dict[str, Sequence[Any]] = {}
        self._pid = os.getpid()
        self._ended = False
        # Of the driver's node; known once this program was connected.
        self.node_ip = ""

    @property
    def id(self) -> str:
        """Hexadecimal."""
        return str(self.result["cluster_id"])

    @property
    def addresses(self) -> frozenset[str]:
        """Of the raylets through which the head is reached: what `address_info` and `init` call its address."""
        return frozenset({str(self.result["head_address"]), str(self.result["driver_node"]["address"])})

    @property
    def has_ended(self) -> bool:
        """Whether it was ended by this program."""
        return self._ended

    def is_connected(self) -> bool:
        """Whether this program is a driver of it now."""
        core = worker.state.core
        return not self._ended and core is not None and core.cluster_id == self.id

    def connect(self, namespace: str | None = None, log_to_driver: bool | None = None) -> None:
        """Makes this program a driver of it, which it is not. None: as the RayContext was told."""
        # Before the connection: whoever ends it meanwhile finds either what to forget or what to close.
        if worker.state.joinable is not self:
            worker.state.joinable = self
            # Runs before what leaves clusters at exit, which was registered earlier.
            atexit.register(self.stop)
        core = worker.connect_driver(
            self._connection,
            namespace=self.arguments[2] if namespace is None else namespace,
            log_to_driver=self._log_to_driver if log_to_driver is None else log_to_driver,
            # Objects end with the connection.
            on_shutdown=self.kept.clear,
            origin=self._origin,
            settings_may_change=True,
            remedies=REMEDIES,
        )
        self.node_ip = core.node_ip
        if self._ended:
            # By another thread, which found no connection to close.
            worker.disconnect()
            self._forget()
            raise RayContextError(f"cluster {self.id} was stopped while this program joined it")

    def failure(self) -> str | None:
        """Why it is lost, if it is."""
        status = self.manager.status()
        if status["cluster_id"] != self.id:
            return f"cluster {self.id} was stopped by another program on this SparkContext"
        failure: str | None = status["failure"]
        return failure

    def check(self) -> None:
        """Raises RayContextError when it is lost."""
        failure = self.failure()
        if failure is not None:
            hint = "" if "call stop()" in failure else "; call stop() and then init() for a new cluster"
            raise RayContextError(failure + hint)

    def stop(self) -> None:
        """Leaves it, where this program is connected to it, and ends it. A second call does nothing, and neither does
        one in a fork, whose sockets are its parent's."""
        try:
            if self.is_connected():
                worker.disconnect()
        finally:
            self._end()

    def _end(self) -> None:
        if self._ended or self._pid != os.getpid():
            return
        self._ended = True
        self._forget()
        self.kept.clear()
        self.manager.stop(self.id)

    def _forget(self) -> None:
        """Nobody joins it any more."""
        atexit.unregister(self.stop)
        if worker.state.joinable is self:
            worker.state.joinable = None
