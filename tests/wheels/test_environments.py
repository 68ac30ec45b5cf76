"""`pip install sparkray[spark]` from the wheels, in fresh environments with the newest and with the lowest versions of
all dependencies."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from interpreters import Interpreter
from wheels.shipped import INTERPRETERS, ROOT, wheel_for

FIRST_PROGRAM = Path(__file__).with_name("first_program.py")
LOWEST = ["-c", ROOT / "requirements" / "lowest.txt", "-c", ROOT / "requirements" / "lowest-spark.txt"]


def run(*command: str | Path, directory: Path) -> str:
    """What the command printed.

    It finds no Python modules but those of its interpreter. Raises AssertionError with the output when it fails.
    """
    removed = ("PYTHONPATH", "PYSPARK_PYTHON", "SPARK_HOME", "SPARKRAY_DAEMON", "SPARKRAY_NATIVE_DIR", "PIP_CONSTRAINT")
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout[-8000:]}"
    return done.stdout


@pytest.mark.parametrize("constraints", [[], LOWEST], ids=["newest", "lowest"])
@pytest.mark.parametrize("interpreter", INTERPRETERS, ids=lambda interpreter: interpreter.tag)
def test_a_new_users_first_program_runs(interpreter: Interpreter, constraints: list[str | Path], tmp_path: Path):
    environment = tmp_path / "environment"
    python = environment / "bin" / "python"
    run(interpreter.path, "-m", "venv", environment, directory=tmp_path)
    # Spark is half a gigabyte in each environment.
    try:
        run(python, "-m", "pip", "install", f"{wheel_for(interpreter)}[spark]", *constraints, directory=tmp_path)
        run(python, "-m", "pip", "check", directory=tmp_path)
        assert run(environment / "bin" / "sparkray", "--version", directory=tmp_path).startswith("sparkray ")
        assert run(python, FIRST_PROGRAM, directory=tmp_path).endswith("it works\n")
    finally:
        shutil.rmtree(environment)
