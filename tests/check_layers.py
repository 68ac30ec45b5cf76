"""Checks that dependencies between our crates point one way.

common <- proto <- rpc <- {gcs, object-store} <- raylet; core-worker sees clients only; the bindings for Java and Python
see core-worker, supervisor and the store's client. Test-only dependencies are free.
"""

from __future__ import annotations

import json
import subprocess
import sys

PREFIX = "sparkray-"

BASE = {"common", "proto"}
CLIENTS = BASE | {"rpc", "object-store"}

# Crate -> crates of ours that it may use.
ALLOWED: dict[str, set[str]] = {
    "common": set(),
    "proto": {"common"},
    "rpc": BASE,
    "object-store": BASE | {"rpc"},
    "gcs": BASE | {"rpc"},
    "raylet": CLIENTS | {"gcs"},
    "core-worker": CLIENTS,
    "supervisor": CLIENTS,
    "sparkrayd": CLIENTS | {"gcs", "raylet", "supervisor"},
    "jni": CLIENTS | {"core-worker", "supervisor"},
    "python": CLIENTS | {"core-worker", "supervisor"},
    # A test: what it uses are development dependencies.
    "simulation": set(),
}

# Foreign crates that belong to one place.
OWNED = {
    "jni": {"jni"},
    "pyo3": {"python"},
}


def short(name: str) -> str:
    """The crate's name without the project's prefix: `sparkray-rpc` is `rpc`."""
    name = name.replace("_", "-")
    return name.removeprefix(PREFIX)


def problems_of(package: dict, ours: set[str]) -> list[str]:
    """What is wrong with the dependencies of one crate."""
    crate = short(package["name"])
    if crate not in ALLOWED:
        return [f"{package['name']}: not in the table of tests/check_layers.py; say there what it may use"]
    problems = []
    for dependency in package["dependencies"]:
        if dependency["kind"] == "dev":
            continue
        name = dependency["name"]
        if name in ours and short(name) not in ALLOWED[crate]:
            problems.append(f"{package['name']} must not depend on {name}")
        if crate not in OWNED.get(name, {crate}):
            problems.append(f"{package['name']} must not depend on {name}: only {', '.join(sorted(OWNED[name]))} may")
    return problems


def main() -> int:
    """Prints what is wrong; returns the exit code."""
    command = ["cargo", "metadata", "--format-version", "1", "--no-deps", "--locked"]
    metadata = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    packages = metadata["packages"]
    ours = {package["name"] for package in packages}
    problems = [problem for package in packages for problem in problems_of(package, ours)]
    for problem in problems:
        print(problem)
    print(f"{len(packages)} crates, {len(problems)} dependencies in the wrong direction")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
