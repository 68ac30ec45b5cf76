"""Calls and pulls between two hosts, in network namespaces of this machine: what encryption costs.

    build/venv/bin/python tests/perf/between_hosts.py                    encryption on against off, five rounds in turns
    build/venv/bin/python tests/perf/between_hosts.py --rounds 9 --without 'single calls'

Two applications run at the same time on one Spark standalone cluster, one of them without encryption. Each measures a
row while the other one is idle, in turns; the table has the medians. Needs what `make test-hosts` needs.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from support.network import Host, Network, python_on
from support.standalone import Standalone

VARIANTS = {"encrypted": {}, "plain": {"spark.ray.encryption": "off"}}
# Of each measurement.
SECONDS = 2.0
PULL_BYTES = 256 << 20
ROWS = {
    "single calls": "/s",
    "calls in batches of 1,000": "/s",
    "calls with 50 kB, in batches of 100": "/s",
    "pulls of 256 MiB": "MB/s",
}
_PROGRAM = '''
import json, sys, time
import numpy as np
import sparkray
from sparkray.spark import RayContext, gateway

conf, seconds, pull_bytes = json.loads(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
one, two = sys.argv[4:6]
there = lambda address: {"num_cpus": 0, "resources": {"node:" + address: 0.001}}


@sparkray.remote
class Callee:
    def nothing(self, argument=None):
        return None

    def make(self, count):
        self.kept = sparkray.put(np.ones(count, dtype=np.uint8))
        return [self.kept]


@sparkray.remote
class Caller:
    def __init__(self, callee):
        self.callee = callee
        self.argument = bytes(50_000)

    def measure(self, row, seconds, pull_bytes):
        works = {
            "single calls": (self.single, 1),
            "calls in batches of 1,000": (lambda: self.batch(1000), 1000),
            "calls with 50 kB, in batches of 100": (lambda: self.batch(100, self.argument), 100),
        }
        if row not in works:
            return self.pull(seconds, pull_bytes)
        work, count = works[row]
        work()
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            work()
            done += count
        return done / (time.perf_counter() - started)

    def single(self):
        sparkray.get(self.callee.nothing.remote())

    def batch(self, count, *arguments):
        sparkray.get([self.callee.nothing.remote(*arguments) for _ in range(count)])

    def pull(self, seconds, pull_bytes):
        """Each object is new here; only the time of the get counts."""
        spent, done = 0.0, 0
        while spent < seconds / 2 and done < 8:
            (reference,) = sparkray.get(self.callee.make.remote(pull_bytes))
            started = time.perf_counter()
            array = sparkray.get(reference)
            spent += time.perf_counter() - started
            done += 1
            del array, reference
        return done * pull_bytes / spent / 1e6


spark = gateway.start_context(conf, {"PYSPARK_PYTHON": sys.executable})
try:
    with RayContext(spark, object_store_memory="1g"):
        callee = Callee.options(**there(two)).remote()
        caller = Caller.options(**there(one)).remote(callee)
        sparkray.get(callee.nothing.remote())
        print("READY", flush=True)
        for row in sys.stdin:
            print("RESULT", sparkray.get(caller.measure.remote(row.strip(), seconds, pull_bytes)), flush=True)
finally:
    spark.stop()
    gateway.end_gateway()
'''


class Driver:
    """One application with its cluster, in a process of its own on the driver's host."""

    def __init__(self, name: str, standalone: Standalone, settings: dict[str, str], directory: pathlib.Path) -> None:
        driver, one, two = standalone.network.hosts
        conf = {
            **standalone.conf(),
            "spark.app.name": name,
            "spark.executor.cores": "1",
            "spark.executor.instances": "2",
            "spark.cores.max": "2",
            "spark.ray.memory.budget": "2g",
            **settings,
        }
        program = directory / f"{name}.py"
        program.write_text(_PROGRAM)
        words = [str(program), json.dumps(conf), str(SECONDS), str(PULL_BYTES), one.address, two.address]
        self._log = directory / f"{name}.log"
        self._process: Any = _start(driver, words, self._log)
        self._answer("READY")

    def measure(self, row: str) -> float:
        """The row's figure, in the row's unit."""
        self._process.stdin.write(row + "\n")
        self._process.stdin.flush()
        return float(self._answer("RESULT"))

    def _answer(self, word: str) -> str:
        for line in self._process.stdout:
            if line.startswith(word):
                return str(line[len(word) :].strip())
        end = "".join(self._log.read_text(errors="replace").splitlines(keepends=True)[-20:])
        raise RuntimeError(f"the driver ended with {self._process.wait()}; the end of its log:\n{end}")

    def end(self) -> None:
        """Ends the application."""
        self._process.stdin.close()
        self._process.wait()


def _start(host: Host, words: list[str], log: pathlib.Path) -> Any:
    with open(log, "w") as file:
        pipe = subprocess.PIPE
        return python_on(host, words, stdin=pipe, stdout=pipe, stderr=file, text=True, cwd=log.parent)


def main() -> None:
    """Measures all rows in turns, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without", action="append", default=[], choices=ROWS, help="a row to leave out")
    arguments = parser.parse_args()
    rows = [row for row in ROWS if row not in arguments.without]
    with tempfile.TemporaryDirectory(prefix="between-hosts-") as directory, Network("driver", "one", "two") as network:
        path = pathlib.Path(directory)
        standalone = Standalone(network, path)
        drivers = {name: Driver(name, standalone, settings, path) for name, settings in VARIANTS.items()}
        print(f"{'row':40}{'encrypted':>14}{'plain':>14}{'ratio':>8}", flush=True)
        for row in rows:
            found: dict[str, list[float]] = {name: [] for name in drivers}
            for _ in range(arguments.rounds):
                for name, driver in drivers.items():
                    found[name].append(driver.measure(row))
            encrypted, plain = (statistics.median(found[name]) for name in VARIANTS)
            unit = ROWS[row]
            print(f"{row:40}{encrypted:>9,.0f} {unit:4}{plain:>9,.0f} {unit:4}{encrypted / plain:>8.2f}", flush=True)
        for driver in drivers.values():
            driver.end()


if __name__ == "__main__":
    main()
