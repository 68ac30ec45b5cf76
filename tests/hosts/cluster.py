"""The cluster that the tests of several hosts make trouble for: who is where, and what waits for whom."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import dataclasses
import pathlib
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np

import sparkray
from process.helpers import wait_until
from sparkray.spark import RayContext, RayContextError
from support.network import Host, Network
from support.standalone import Standalone

# What is waited for on a host that has vanished ends in this time.
ERROR_SECONDS = 15.0
# After a network is whole again. A keeper's pauses between attempts are part of it.
BACK_SECONDS = 60.0
# In the store, and too large to travel inside messages.
LARGE = 250_000


@dataclasses.dataclass
class Hosts:
    """The hosts with Spark on them, and this program's SparkContext."""

    network: Network
    standalone: Standalone
    spark: Any

    def rays(self) -> list[int]:
        """Processes of Ray clusters on all hosts."""
        found = []
        for host in self.network.hosts:
            found += [pid for pid in host.processes() if _is_ray(pid)]
        return found


def _is_ray(pid: int) -> bool:
    try:
        words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"sparkrayd" in words or b"sparkray._private" in words


class RayOnHosts:
    """A running cluster and where its parts are."""

    def __init__(self, hosts: Hosts, context: RayContext) -> None:
        self.network = hosts.network
        self.context = context
        self.driver = hosts.standalone.driver
        info = context._running()
        self.head_pid = int(info["head_pid"])
        node = next(node for node in context.nodes() if node["executor_id"] == info["head_executor_id"])
        self.head = self.network.at(node["address"])
        # Two hosts with neither head nor driver.
        self.one, self.other = self.network.others(self.driver, self.head)

    def node(self, host: Host) -> dict[str, Any]:
        """What the driver's manager says of a host's node; empty when it knows of none there."""
        nodes = [node for node in self.context.nodes() if node["address"].partition(":")[0] == host.address]
        return nodes[0] if nodes else {}

    def has(self, host: Host, node_id: str) -> bool:
        """Whether the manager believes in a node of the host."""
        node = self.node(host)
        return bool(node) and node["state"] == "up" and node["node_id"] == node_id

    def is_back(self, host: Host, former: str) -> bool:
        """Whether all agree that the host has a new node: the manager and the head."""
        node = self.node(host)
        if not node or node["state"] != "up" or node["node_id"] == former:
            return False
        alive = {seen["NodeID"] for seen in sparkray.nodes() if seen["Alive"]}
        return node["node_id"] in alive and former not in alive

    def is_lost(self) -> bool:
        """Whether the cluster is lost."""
        try:
            self.context.check()
        except RayContextError:
            return True
        return False


def on(host: Host) -> dict[str, Any]:
    """Options of a task or an actor that runs on this host only."""
    return {"num_cpus": 0, "resources": {f"node:{host.address}": 0.001}}


@sparkray.remote
def address() -> str:
    return sparkray.util.get_node_ip_address()


@sparkray.remote
def make(value: float, count: int = LARGE) -> Any:
    """An array in the store of the node that runs it."""
    return np.full(count, value)


@sparkray.remote
def total(array: Any) -> float:
    return float(array.sum())


@sparkray.remote
def hold(seconds: float, begun: str | None = None) -> str:
    """Takes so long; makes the file `begun` first."""
    if begun is not None:
        pathlib.Path(begun).touch()
    time.sleep(seconds)
    return sparkray.util.get_node_ip_address()


def run_holding(host: Host, seconds: float, **options: Any) -> Any:
    """A task on a host that takes so long; it runs there when this returns, and does not only wait for a worker."""
    begun = pathlib.Path(tempfile.gettempdir(), f"holding-{uuid.uuid4().hex}")
    running = hold.options(**options, **on(host)).remote(seconds, str(begun))
    wait_until(begun.exists, 60, f"a task runs on {host}")
    begun.unlink()
    return running


@sparkray.remote
class Keeper:
    """Counts, keeps references and arrays, and asks others."""

    def __init__(self) -> None:
        self.value = 0
        self.kept: list[Any] = []

    def add(self) -> int:
        self.value += 1
        return self.value

    def where(self) -> str:
        return sparkray.util.get_node_ip_address()

    def wait(self, seconds: float) -> str:
        """Busy for so long."""
        time.sleep(seconds)
        return sparkray.util.get_node_ip_address()

    def ask(self, other: Any) -> int:
        """A call from here."""
        value: int = sparkray.get(other.add.remote())
        return value

    def fetch(self, references: list[Any]) -> float:
        """A pull to here."""
        return float(sparkray.get(references[0]).sum())

    def own(self, value: float) -> list[Any]:
        """A reference that this process owns."""
        return [sparkray.put(np.full(LARGE, value))]

    def keep(self, references: list[Any]) -> int:
        """Borrows them for good."""
        self.kept += references
        return len(self.kept)

    def sums(self) -> list[float]:
        """Of all that is kept."""
        return [float(sparkray.get(reference).sum()) for reference in self.kept]

    def forget(self) -> None:
        self.kept = []


@dataclasses.dataclass
class Outcome:
    """How something that waited came to its end."""

    seconds: float
    value: Any = None
    error: BaseException | None = None


class Waiting:
    """Things that are waited for at the same time, each by a thread of its own; times count from the first."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._threads: dict[str, threading.Thread] = {}
        self.outcomes: dict[str, Outcome] = {}

    def begin(self, name: str, what: Callable[[], Any]) -> None:
        """Starts to wait for the end of a call."""

        def run() -> None:
            try:
                value, error = what(), None
            except BaseException as raised:
                value, error = None, raised
            self.outcomes[name] = Outcome(time.monotonic() - self._started, value, error)

        self._threads[name] = threading.Thread(target=run, name=name, daemon=True)
        self._threads[name].start()

    def outlast(self, seconds: float) -> None:
        """Returns so long after the beginning: how long the trouble is that is waited through."""
        time.sleep(max(0.0, self._started + seconds - time.monotonic()))

    def end(self, seconds: float) -> dict[str, Outcome]:
        """All outcomes; what has none by `seconds` after the beginning has none in the result."""
        for thread in self._threads.values():
            thread.join(max(0.0, self._started + seconds - time.monotonic()))
        found = dict(self.outcomes)
        for name in self._threads:
            outcome = found.get(name)
            told = "still waits" if outcome is None else f"{outcome.seconds:.1f} s: {outcome.error or outcome.value!r}"
            print(f"{name}: {told.splitlines()[0][:200]}", flush=True)
        return found

    def values(self, seconds: float) -> dict[str, Any]:
        """The values, or errors, of everything that has ended by `seconds` after the beginning."""
        return {name: outcome.error or outcome.value for name, outcome in self.end(seconds).items()}

    def assert_errors(self, seconds: float, *allowed_values: str) -> dict[str, Outcome]:
        """Everything ends in this time: with an error of Ray's that is no timeout, or as named, with a value."""
        found = self.end(seconds)
        late = sorted(set(self._threads) - set(found))
        assert not late, f"still waiting after {seconds} s: {late}"
        for name, outcome in found.items():
            if outcome.error is None:
                assert name in allowed_values, f"{name} has a value: {outcome.value!r}"
            else:
                assert isinstance(outcome.error, sparkray.exceptions.RayError), (name, outcome.error)
                assert not isinstance(outcome.error, sparkray.exceptions.GetTimeoutError), (name, outcome.error)
        return found
