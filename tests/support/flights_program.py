"""Runs examples/flights as a user would, in a process of its own."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

PROGRAM = pathlib.Path(__file__).resolve().parents[2] / "examples" / "flights" / "flights.py"
SECONDS = 800


def run_flights(*arguments: str) -> str:
    """What it prints; fails unless it ends well, with a model that is good enough, and leaves nothing."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--fast", *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        cwd=PROGRAM.parent,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "336,776 flights, 28 columns" in done.stdout
    areas = re.findall(r"AUC (0\.\d+) on flights not trained on \(at least (0\.\d+) expected\)", done.stdout)
    assert len(areas) == 1 and float(areas[0][0]) >= float(areas[0][1]) >= 0.7, areas
    assert "336,776 predictions and their summary are in" in done.stdout
    left = r"had \d+ processes, \d+ open ports\s+and \d+ pieces of shared memory on this machine; nothing is left"
    assert re.search(left, done.stdout), done.stdout
    return done.stdout


def stored_bytes(printed: str) -> list[list[float]]:
    """Megabytes in each node's store, each time that they were printed."""
    steps = printed.split("\n== ")
    found = [
        re.findall(r"^   node \w+ on \S+: (\d+\.\d) MB in the object store$", step, re.MULTILINE) for step in steps
    ]
    return [[float(amount) for amount in amounts] for amounts in found if amounts]
