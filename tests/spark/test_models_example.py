"""The program of examples/models: models trained from Spark's tasks, as rows of Parquet."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("ray", reason="needs `import ray`")

PROGRAM = pathlib.Path(__file__).parents[2] / "examples" / "models" / "train_in_spark_tasks.py"


def test_two_models_come_from_two_tasks_and_are_rows_of_parquet(tmp_path: pathlib.Path) -> None:
    output = tmp_path / "models"
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--master", "local-cluster", "--output", output.as_uri()],
        capture_output=True,
        text=True,
        timeout=600,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    shares = dict(line.split(":", 1) for line in done.stdout.splitlines() if "right side" in line)
    assert set(shares) == {"BAYES", "SVM"}
    assert all(float(text.split()[0]) > 0.95 for text in shares.values()), shares
    assert list(output.glob("*.parquet"))
