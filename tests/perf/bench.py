"""`make bench`: each row on ours and on the official Ray, in turns, with medians and ratio.

Each engine is one process that stays up (microbenchmark.py --serve). A row is measured on the one and then on the
other, round after round, so that whatever else the machine does meets both. A row that fails is printed with its error.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import queue
import secrets
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

import rows

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
LOGS = REPOSITORY / "build" / "logs"
# Longest wait for one measurement; a row that hangs ends its process and the next row gets a new one.
ANSWER_SECONDS = 120.0
BEGIN, END = "<!-- bench: written by make bench -->", "<!-- end of bench -->"


class Failed(Exception):
    """An engine did not answer, or answered with an error."""


class Engine:
    """One engine: its interpreter, and its process while one is up."""

    def __init__(self, name: str, python: str, label: str) -> None:
        self.name = name
        self.python = python
        self.label = label
        LOGS.mkdir(parents=True, exist_ok=True)
        self.log = LOGS / f"bench-{label}.log"
        self.process: subprocess.Popen[str] | None = None
        self.answers: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def start(self, *arguments: str) -> None:
        """Starts microbenchmark.py with these arguments."""
        # Ray makes a token for each account and keeps it in the home directory, unless it is given one.
        ray_settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        environment = {**os.environ, **ray_settings, "PYTHONUNBUFFERED": "1"}
        command = [self.python, str(HERE / "microbenchmark.py"), "--engine", self.name, *arguments]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
        self.answers = queue.Queue()
        threading.Thread(target=self.read, args=(self.process, self.answers), daemon=True).start()

    @staticmethod
    def read(process: subprocess.Popen[str], answers: queue.Queue[dict[str, Any] | None]) -> None:
        """Passes on the lines of a process until its end."""
        assert process.stdout is not None
        for line in process.stdout:
            answers.put(json.loads(line))
        answers.put(None)

    def answer(self) -> dict[str, Any]:
        """The next answer; raises Failed when none comes."""
        try:
            answer = self.answers.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            self.kill()
            raise Failed(f"no answer in {ANSWER_SECONDS:.0f} s") from None
        if answer is None:
            self.kill()
            raise Failed(f"the process ended; see {self.log.relative_to(REPOSITORY)}")
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def measure(self, row: str, seconds: float) -> float:
        """One measurement of a row; starts the engine when it is not up."""
        if self.process is None:
            self.start("--serve")
            try:
                self.answer()
            except Failed:
                self.kill()
                raise
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.write(json.dumps({"row": row, "seconds": seconds}) + "\n")
        self.process.stdin.flush()
        return float(self.answer()["value"])

    def life(self) -> dict[str, float | str]:
        """The rows of a whole life in a fresh process: values, or the error of a row that failed."""
        self.start("--life")
        values: dict[str, float | str] = {}
        while len(values) < len(rows.LIFE):
            try:
                answer = self.answer()
                values[answer["row"]] = float(answer["value"])
            except Failed as error:
                for row in rows.LIFE:
                    values.setdefault(row.name, str(error))
        self.stop()
        return values

    def stop(self) -> None:
        """Lets the process shut its cluster down and waits for it."""
        if self.process is None:
            return
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def kill(self) -> None:
        """Ends a process that does not answer."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@dataclasses.dataclass
class Result:
    """The measurements of one row on both engines, and an error where there was one."""

    row: rows.Row
    values: tuple[list[float], list[float]] = dataclasses.field(default_factory=lambda: ([], []))
    errors: list[str] = dataclasses.field(default_factory=lambda: ["", ""])

    def cell(self, side: int) -> str:
        """The median of one engine, or why there is none."""
        if self.errors[side]:
            return f"n/a: {self.errors[side]}"
        if not self.values[side]:
            return "n/a"
        return f"{number(statistics.median(self.values[side]))} {self.row.unit}".strip()

    def ratio(self) -> float | None:
        """How many times better the first engine is; None when one of them has no figure."""
        if any(self.errors) or not all(self.values):
            return None
        ours, theirs = (statistics.median(values) for values in self.values)
        if self.row.less_is_better:
            ours, theirs = theirs, ours
        return ours / theirs if theirs else None

    def ratio_cell(self) -> str:
        """The ratio as the table shows it."""
        ratio = self.ratio()
        return "" if ratio is None else f"{ratio:.3g}x" if ratio < 10 else f"{ratio:.0f}x"

    def too_slow(self) -> bool:
        """Whether a row that has a least ratio is below it, or has no figure of ours."""
        if self.row.least is None or self.errors[1]:
            return False
        ratio = self.ratio()
        return ratio is None or ratio < self.row.least


def number(value: float) -> str:
    """Three digits, thousands with spaces: 12 345, 12.3, 0.123."""
    if value >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"


def measure_row(row: rows.Row, engines: list[Engine], rounds: int, seconds: float) -> Result:
    """A throughput row, in turns."""
    result = Result(row)
    for _ in range(rounds):
        for side, engine in enumerate(engines):
            if result.errors[side]:
                continue
            try:
                result.values[side].append(engine.measure(row.name, seconds))
            except Failed as error:
                result.errors[side] = str(error)
    return result


def measure_lives(engines: list[Engine], rounds: int) -> list[Result]:
    """The rows of a whole life, in turns."""
    results = [Result(row) for row in rows.LIFE]
    for _ in range(rounds):
        for side, engine in enumerate(engines):
            values = engine.life()
            for result in results:
                value = values[result.row.name]
                if isinstance(value, str):
                    result.errors[side] = value
                else:
                    result.values[side].append(value)
    return results


def memcpy_rate() -> str:
    """Gigabytes in a second that one thread copies into warm memory."""
    try:
        import numpy as np
    except ImportError:
        return "not measured"
    source = np.zeros(25 * 1024 * 1024, dtype=np.int64)
    target = np.zeros_like(source)
    np.copyto(target, source)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, source)
        best = max(best, source.nbytes / (time.perf_counter() - start) / 1e9)
    return f"{best:.1f} GB/s"


def machine_facts() -> list[str]:
    """What the figures depend on."""
    model = platform.processor() or platform.machine()
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = int(pathlib.Path("/proc/meminfo").read_text().split()[1]) / 1024**2
    return [
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GB, Linux {platform.release()}",
        f"Python {platform.python_version()}; warm memcpy by one thread {memcpy_rate()}",
        f"load before the run {os.getloadavg()[0]:.1f}",
    ]


def version_of(python: str, engine: str) -> str:
    """An engine's version as its package says."""
    code = f"import importlib.metadata as m; print(m.version({engine!r}))"
    run = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown version"


def as_markdown(results: list[Result], labels: list[str], facts: list[str], how: str) -> str:
    """The table with what it depends on."""
    lines = [f"Measured {datetime.date.today()}, {how}.", "", *(f"- {fact}" for fact in facts), ""]
    lines += [f"| row | {labels[0]} | {labels[1]} | ratio | goal |", "|---|---:|---:|---:|---:|"]
    for result in results:
        cells = [result.row.name, result.cell(0), result.cell(1), result.ratio_cell(), result.row.goal]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def write(path: pathlib.Path, table: str) -> None:
    """Puts the table between the marks of the page; makes the page when there is none."""
    text = path.read_text() if path.exists() else f"# Performance\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")


def main() -> int:
    """Runs the rows and prints one line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparkray-python", default=sys.executable, help="interpreter that has sparkray")
    parser.add_argument("--ray-python", help="interpreter that has the official Ray")
    parser.add_argument("--before", metavar="PYTHON", help="compare with this interpreter's sparkray, not with Ray")
    parser.add_argument("--engines", default="sparkray,ray", help="`ray,ray` tries the harness itself")
    parser.add_argument("--rows", default="", help="parts of row names, separated by commas; all when not given")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement")
    parser.add_argument("--quick", action="store_true", help="one round of half a second: does it run?")
    parser.add_argument("--write", type=pathlib.Path, help="Markdown page to put the table into")
    options = parser.parse_args()
    rounds, seconds = (1, 0.5) if options.quick else (options.rounds, options.seconds)

    if options.before:
        sides = [("sparkray", options.sparkray_python), ("sparkray", options.before)]
        labels = ["this build", "the build before"]
    else:
        pythons = {"sparkray": options.sparkray_python, "ray": options.ray_python}
        sides = [(name, pythons[name]) for name in options.engines.split(",")]
        labels = [f"{name} {version_of(python, name)}" for name, python in sides]
    if not all(python for _, python in sides):
        parser.error("either --ray-python or --before says whom to compare with")
    engines = [Engine(name, python, f"{name}-{side}") for side, (name, python) in enumerate(sides)]
    wanted = [part.strip() for part in options.rows.split(",") if part.strip()]
    chosen = [row for row in rows.ALL if not wanted or any(part in row.name for part in wanted)]

    facts = machine_facts()
    print("\n".join(facts))
    print(f"{'row':<50}{labels[0]:>22}{labels[1]:>22}{'ratio':>8}{'goal':>16}")
    results: list[Result] = []

    def show(result: Result) -> None:
        results.append(result)
        cells = f"{result.cell(0):>22}{result.cell(1):>22}{result.ratio_cell():>8}{result.row.goal:>16}"
        print(f"{result.row.name:<50}{cells}", flush=True)

    try:
        # First the rows that start and stop, as long as no other cluster is up.
        if any(row in rows.LIFE for row in chosen):
            for result in measure_lives(engines, rounds):
                if result.row in chosen:
                    show(result)
        for row in chosen:
            if row in rows.THROUGHPUT:
                show(measure_row(row, engines, rounds, seconds))
    finally:
        for engine in engines:
            engine.stop()
    if options.before:
        return 0
    if options.write and (options.quick or wanted):
        print(f"{options.write} is written by a whole run only")
    elif options.write:
        how = f"{rounds} rounds of {seconds:g} s in turns, medians"
        results.sort(key=lambda result: rows.ALL.index(result.row))
        write(options.write, as_markdown(results, labels, facts, how))
        print(f"written to {options.write}")
    slow = [f"{result.row.name} (at least {result.row.least:g}x)" for result in results if result.too_slow()]
    if slow and not options.quick:
        print(f"below what they must be: {'; '.join(slow)}")
    return 1 if slow and not options.quick else 0


if __name__ == "__main__":
    sys.exit(main())
