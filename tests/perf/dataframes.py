"""DataFrames into the object stores and back, by wall time: of one build, or of two in turns.

    build/venv/bin/python tests/perf/dataframes.py [--rounds 9] [--rows 5000000] [--before OTHER/bin/python]

Two executors of one core each on this machine (local-cluster); the DataFrame is cached, so that Spark computes nothing.
Each build is one process that stays up; all rows are measured on the one and then on the other, round after round, so
that whatever else the machine does meets both. Rows, in ms: from_spark; to_spark of its blocks into Spark's noop
sink; and the sum of a column of all blocks by tasks on the nodes that have them.
"""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

ROWS = ("from_spark", "to_spark, noop", "read by tasks")
EXPRESSIONS = (
    "id",
    "id * 0.5 as half",
    "id / 3.0 as third",
    "cast(id % 1000 as int) as small",
    "concat('name-', cast(id % 10007 as string)) as name",
)


def one_round(frame: Any, spark: Any, read: Any) -> list[float]:
    """The rows, in ms."""
    import sparkray
    from sparkray.spark import from_spark, to_spark

    times = [time.perf_counter()]
    references = from_spark(frame)
    times.append(time.perf_counter())
    to_spark(references, spark).write.format("noop").mode("overwrite").save()
    times.append(time.perf_counter())
    sparkray.get([read.remote(reference) for reference in references])
    times.append(time.perf_counter())
    return [(end - begin) * 1e3 for begin, end in zip(times, times[1:], strict=False)]


def serve(row_count: int) -> None:
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
        with sparkray.RayContext(context, object_store_memory="1g"):
            spark = SparkSession(context)
            frame = spark.range(0, row_count, 1, 4).selectExpr(*EXPRESSIONS).cache()
            frame.count()
            # Code generation and the compilers of both JVMs.
            for _ in range(3):
                one_round(frame, spark, read)
            print("READY", flush=True)
            for _ in sys.stdin:
                print("ROUND", json.dumps(one_round(frame, spark, read)), flush=True)
    finally:
        context.stop()


class Build:
    """One build: a process of its interpreter."""

    def __init__(self, python: str, row_count: int) -> None:
        command = [python, __file__, "--serve", "--rows", str(row_count)]
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
    parser.add_argument("--before", help="the interpreter of another build's environment")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.rows)
        return
    pythons = [sys.executable, *([arguments.before] if arguments.before else [])]
    builds = [Build(python, arguments.rows) for python in pythons]
    for build in builds:
        build.wait()
    found: list[list[list[float]]] = [[] for _ in builds]
    for number in range(arguments.rounds):
        for index in list(range(len(builds)))[:: 1 if number % 2 else -1]:
            found[index].append(builds[index].measure())
    for build in builds:
        build.end()
    print(f"{'row':16} {'this build':>24}" + (f" {'before':>24}   ratio" if arguments.before else ""))
    for index, name in enumerate(ROWS):
        columns = [[one[index] for one in rounds] for rounds in found]
        medians = [statistics.median(column) for column in columns]
        cells = "".join(
            f" {median:8,.0f} ms ({min(column):5,.0f} least)" for median, column in zip(medians, columns, strict=True)
        )
        print(f"{name:16}{cells}" + (f"   {medians[0] / medians[1]:.2f}" if arguments.before else ""))


if __name__ == "__main__":
    main()
