"""What encryption costs between two nodes: calls and fetches with and without it, in turns.

    build/venv/bin/python tests/perf/encryption.py [rounds]

Both nodes, all raylets and workers are on this machine, so that the loopback device is the network: faster than any
real one, and without its latency. What is measured is the price in CPU time, at its highest. Both raylets share the
machine's cores here and have hosts of their own in a cluster: what one core can do is in the rows of CPU time.

Memory that is new to the store has to come from the kernel, and from under a virtual machine the first time.
"""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

import sparkray
from sparkray.cluster_utils import Cluster

OBJECT = 256 << 20


@sparkray.remote(resources={"far": 1}, num_cpus=0)
class Far:
    """A process on the other node."""

    def echo(self, value: object) -> object:
        """What was given."""
        return value

    def make(self, size: int) -> object:
        """A new object on that node."""
        return [sparkray.put(np.ones(size, np.uint8))]


def calls(far: object) -> float:
    """Calls in a second, one after the other."""
    begin, count = time.perf_counter(), 3000
    for _ in range(count):
        sparkray.get(far.echo.remote(None))
    return count / (time.perf_counter() - begin)


def many_calls(far: object) -> float:
    """Calls in a second, many under way."""
    begin, count = time.perf_counter(), 30_000
    sparkray.get([far.echo.remote(None) for _ in range(count)])
    return count / (time.perf_counter() - begin)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    words = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


class Fetches:
    """Large objects from the other node, one after the other."""

    def __init__(self, far: object, raylets: list[int]) -> None:
        self.far = far
        self.raylets = raylets
        self.kept: list[object] = []

    def measure(self, count: int, keep: bool) -> list[float]:
        """GB/s, and GB for each second of the CPU time of the receiving and of the sending raylet.

        Arguments:
            count: how many objects.
            keep: whether they are kept, so that the next ones get other memory.
        """
        rates, spent = [], [0.0, 0.0]
        for _ in range(count):
            (reference,) = sparkray.get(self.far.make.remote(OBJECT))
            before = [cpu_seconds(pid) for pid in self.raylets]
            begin = time.perf_counter()
            value = sparkray.get(reference)
            rates.append(OBJECT / (time.perf_counter() - begin) / 1e9)
            after = [cpu_seconds(pid) for pid in self.raylets]
            spent = [total + new - old for total, new, old in zip(spent, after, before, strict=True)]
            assert value[-1] == 1
            if keep:
                self.kept.append(value)
            del value, reference
        return [statistics.median(rates), *(count * OBJECT / 1e9 / max(seconds, 0.01) for seconds in spent)]


CALLS: dict[str, Callable[[object], float]] = {"actor calls sync": calls, "actor calls async": many_calls}
# How many, and whether they are kept.
FETCHES = {"fetch, new memory": (4, True), "fetch, used memory": (8, False)}


def measure(encryption: bool) -> dict[str, float]:
    """One round, in a cluster of its own."""
    head = {"num_cpus": 1, "object_store_memory": 2 << 30}
    with Cluster(initialize_head=True, head_node_args=head, encryption=encryption) as cluster:
        cluster.add_node(num_cpus=1, resources={"far": 10}, object_store_memory=2 << 30)
        sparkray.init(address=cluster.address)
        cluster.wait_for_nodes()
        far = Far.remote()
        sparkray.get(far.echo.remote(None))
        result = {}
        for name, row in CALLS.items():
            row(far)
            result[f"{name:34} /s"] = statistics.median(row(far) for _ in range(3))
        fetches = Fetches(far, [node.pid for node in cluster.list_all_nodes()])
        for name, (count, keep) in FETCHES.items():
            # The first one makes the connection, and what was kept becomes free.
            fetches.measure(1, keep=False)
            rate, receiver, sender = fetches.measure(count, keep)
            fetches.kept.clear()
            result[f"{name:32} GB/s"] = rate
            result[f"{name + ', receiver':25} GB/CPU second"] = receiver
            result[f"{name + ', sender':25} GB/CPU second"] = sender
        sparkray.shutdown()
    return result


def main() -> None:
    """Prints the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    found: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    for number in range(rounds):
        for encryption in (True, False) if number % 2 else (False, True):
            found[encryption].append(measure(encryption))
    print(f"{'':37} {'encrypted':>11} {'checksums only':>15}   ratio")
    for name in found[True][0]:
        on, off = (statistics.median(one[name] for one in found[encryption]) for encryption in (True, False))
        print(f"{name:38} {on:10,.2f} {off:15,.2f}   {on / off:.3f}", flush=True)


if __name__ == "__main__":
    main()
