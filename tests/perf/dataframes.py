"""DataFrames into the object stores and back: one build, or two in turns.

    build/venv/bin/python tests/perf/dataframes.py [--rounds 9] [--rows 5000000] [--fixed-width] [--parquet]
                                                   [--before OTHER/bin/python]

Two executors of one core each on this machine (local-cluster); the DataFrame (long, double, double, int, string) is
cached, so that Spark computes nothing, or read from Parquet files. With `--fixed-width` it has no strings. Each build
is one process that stays up; all rows are measured on the one and then on the other, round after round, so that
whatever else the machine does meets both. Rows, in ms: from_spark; to_spark of its blocks into Spark's noop sink; and
sums of columns of all blocks by tasks. CPU time is that of all processes of the build: other work on the machine
changes it less than wall time.
"""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

STEPS = ("from_spark", "to_spark, noop", "read by tasks")
ROWS = [row for step in STEPS for row in (step, f"{step}, CPU")]
EXPRESSIONS = (
    "id",
    "id * 0.5D as half",
    "id / 3.0D as third",
    "cast(id % 1000 as int) as small",
)
TEXT = "concat('name-', cast(id % 10007 as string)) as name"


def cpu_seconds() -> float:
    """User and system time so far of this process and all below it: Java, executors, raylets and workers."""
    parents, seconds = {}, {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        # A process may have ended meanwhile.
        with contextlib.suppress(OSError):
            words = path.read_text().rpartition(")")[2].split()
            pid = int(path.parent.name)
            parents[pid], seconds[pid] = int(words[1]), int(words[11]) + int(words[12])

    def is_own(pid: int) -> bool:
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return sum(spent for pid, spent in seconds.items() if is_own(pid)) / os.sysconf("SC_CLK_TCK")


def one_round(frame: Any, spark: Any, read: Any) -> list[float]:
    """The rows: wall time and CPU time of each step, in ms."""
    import sparkray
    from sparkray.spark import from_spark, to_spark

    found = []

    def timed(work: Callable[[], Any]) -> Any:
        cpu, begin = cpu_seconds(), time.perf_counter()
        result = work()
        found.append((time.perf_counter() - begin) * 1e3)
        found.append((cpu_seconds() - cpu) * 1e3)
        return result

    references = timed(lambda: from_spark(frame))
    timed(lambda: to_spark(references, spark).write.format("noop").mode("overwrite").save())
    timed(lambda: sparkray.get([read.remote(reference) for reference in references]))
    return found


def frame_of(spark: Any, arguments: argparse.Namespace, directory: str) -> Any:
    """The DataFrame."""
    columns = EXPRESSIONS if arguments.fixed_width else (*EXPRESSIONS, TEXT)
    frame = spark.range(0, arguments.rows, 1, 4).selectExpr(*columns)
    if not arguments.parquet:
        return frame.cache()
    frame.write.parquet(f"{directory}/frame")
    return spark.read.parquet(f"{directory}/frame")


def serve(arguments: argparse.Namespace) -> None:
    """Measures a round for each line that comes."""
    from pyspark.sql import SparkSession

    import sparkray

    @sparkray.remote
    def read(table: Any) -> float:
        return float(table.column("half").to_numpy().sum() + table.column("small").to_numpy().sum())

    conf = {
        "spark.master": "local-cluster[2,1,2048]",
        "spark.executor.memory": "2g",
        "spark.ui.enabled": "false",
        "spark.ray.memory.budget": "2g",
        "spark.ray.init.timeout": "120s",
    }
    context = sparkray.init_spark_on_local(conf=conf)
    try:
        with sparkray.RayContext(context, object_store_memory="1g"), tempfile.TemporaryDirectory() as directory:
            spark = SparkSession(context)
            frame = frame_of(spark, arguments, directory)
            frame.count()
            # Code generation and the compilers of both JVMs.
            for _ in range(15):
                one_round(frame, spark, read)
            print("READY", flush=True)
            for _ in sys.stdin:
                print("ROUND", json.dumps(one_round(frame, spark, read)), flush=True)
    finally:
        context.stop()


class Build:
    """One build: a process of its interpreter."""

    def __init__(self, python: str, options: list[str]) -> None:
        command = [python, __file__, "--serve", *options]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def wait(self) -> None:
        """Returns when it is warm."""
        self._answer("READY")

    def measure(self) -> list[float]:
        """One round."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return list(json.loads(self._answer("ROUND")))

    def end(self) -> None:
        """Ends Spark and the process."""
        self._process.stdin.close()
        self._process.wait()

    def _answer(self, word: str) -> str:
        for line in self._process.stdout:
            if line.startswith(word):
                return line.removeprefix(word)
        raise RuntimeError(f"a build ended with {self._process.wait()}")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--fixed-width", action="store_true", help="no column of strings")
    parser.add_argument("--parquet", action="store_true", help="from files instead of Spark's cache")
    parser.add_argument("--before", help="the interpreter of another build's environment")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments)
        return
    pythons = [sys.executable, *([arguments.before] if arguments.before else [])]
    options = ["--rows", str(arguments.rows)]
    options += ["--fixed-width"] * arguments.fixed_width + ["--parquet"] * arguments.parquet
    builds = [Build(python, options) for python in pythons]
    for build in builds:
        build.wait()
    found: list[list[list[float]]] = [[] for _ in builds]
    for number in range(arguments.rounds):
        for index in list(range(len(builds)))[:: 1 if number % 2 else -1]:
            found[index].append(builds[index].measure())
    for build in builds:
        build.end()
    print(f"{'row':20} {'this build':>24}" + (f" {'before':>24}   ratio" if arguments.before else ""))
    for index, name in enumerate(ROWS):
        columns = [[one[index] for one in rounds] for rounds in found]
        medians = [statistics.median(column) for column in columns]
        cells = "".join(
            f" {median:8,.0f} ms ({min(column):5,.0f} least)" for median, column in zip(medians, columns, strict=True)
        )
        print(f"{name:20}{cells}" + (f"   {medians[0] / medians[1]:.2f}" if arguments.before else ""))


if __name__ == "__main__":
    main()
