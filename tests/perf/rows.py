"""The rows of the benchmark: names as `ray microbenchmark` prints them, units, and the goal of each (ours / Ray)."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table. ``goal`` is a ratio, or words where the goal is not a multiple of Ray."""

    name: str
    goal: str
    unit: str = "/s"
    # Whether a smaller number is the better one (times and memory).
    less_is_better: bool = False
    # What the ratio must be at least, or the benchmark ends with an error: below it something on the path is wrong.
    least: float | None = None


THROUGHPUT = [
    Row("single client get calls", "20x"),
    Row("single client put calls", "60x"),
    Row("multi client put calls", "60x"),
    Row("single client put gigabytes", "0.9 of memcpy", "GB/s"),
    Row("multi client put gigabytes", "0.9 of memcpy", "GB/s"),
    Row("single client tasks and get batch", "25x"),
    Row("single client get object containing 10k refs", "15x"),
    Row("single client wait 1k refs", "50x"),
    Row("single client tasks sync", "20x", least=5),
    Row("single client tasks async", "25x", least=5),
    Row("multi client tasks async", "25x"),
    Row("1:1 actor calls sync", "20x", least=5),
    Row("1:1 actor calls async", "20x", least=5),
    Row("1:1 actor calls concurrent", "15x"),
    Row("1:n actor calls async", "20x"),
    Row("n:n actor calls async", "20x"),
    Row("n:n actor calls with arg async", "25x"),
    Row("1:1 async-actor calls sync", "12x"),
    Row("1:1 async-actor calls async", "12x"),
    Row("1:1 async-actor calls with args async", "12x"),
    Row("1:n async-actor calls async", "12x"),
    Row("n:n async-actor calls async", "12x"),
    Row("placement group create/removal", "15x"),
]

# Measured in a fresh process for each round.
LIFE = [
    Row("init()", "20x", "s", less_is_better=True),
    Row("first task", "20x", "s", less_is_better=True),
    Row("actor creation to first result", "40x", "s", less_is_better=True),
    Row("idle memory", "15x", "MB", less_is_better=True),
    Row("idle processes", "", "", less_is_better=True),
    Row("shutdown()", "10x", "s", less_is_better=True),
]

ALL = THROUGHPUT + LIFE
