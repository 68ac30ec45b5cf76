"""What encryption costs between two nodes: calls and fetches with and without it, in turns.

    build/venv/bin/python tests/perf/encryption.py [rounds]

Both nodes, all raylets and workers are on this machine, so that the loopback device is the network: faster than any
real one, and without its latency. What is measured is the price in CPU time, at its highest.
"""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

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


def fetch(far: object) -> float:
    """GB/s of one large object from the other node."""
    (reference,) = sparkray.get(far.make.remote(OBJECT))
    begin = time.perf_counter()
    value = sparkray.get(reference)
    seconds = time.perf_counter() - begin
    assert value[-1] == 1
    return OBJECT / seconds / 1e9


ROWS: dict[str, tuple[str, Callable[[object], float]]] = {
    "actor calls sync": ("/s", calls),
    "actor calls async": ("/s", many_calls),
    "fetch of 256 MiB": ("GB/s", fetch),
}


def measure(encryption: bool) -> dict[str, float]:
    """One round, in a cluster of its own."""
    head = {"num_cpus": 1, "object_store_memory": 1 << 30}
    with Cluster(initialize_head=True, head_node_args=head, encryption=encryption) as cluster:
        cluster.add_node(num_cpus=1, resources={"far": 10}, object_store_memory=1 << 30)
        sparkray.init(address=cluster.address)
        cluster.wait_for_nodes()
        far = Far.remote()
        sparkray.get(far.echo.remote(None))
        result = {}
        for name, (_, row) in ROWS.items():
            row(far)
            result[name] = statistics.median(row(far) for _ in range(3))
        sparkray.shutdown()
    return result


def main() -> None:
    """Prints the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    found: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    for number in range(rounds):
        for encryption in (True, False) if number % 2 else (False, True):
            found[encryption].append(measure(encryption))
    print(f"{'row':22} {'encrypted':>16} {'checksums only':>16}   ratio")
    for name, (unit, _) in ROWS.items():
        on, off = (statistics.median(one[name] for one in found[encryption]) for encryption in (True, False))
        print(f"{name:22} {on:12,.2f} {unit:>4} {off:12,.2f} {unit:>4}   {on / off:.3f}", flush=True)


if __name__ == "__main__":
    main()
