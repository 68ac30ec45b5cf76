"""The notebook runs from its first cell to its last."""

from __future__ import annotations

import pathlib

import nbclient
import nbformat
import pytest

NOTEBOOKS = pathlib.Path(__file__).resolve().parents[2] / "notebooks"
CELL_SECONDS = 800


@pytest.mark.slow
def test_flights_notebook_runs_on_local_cluster_and_leaves_nothing(monkeypatch):
    monkeypatch.delenv("HADOOP_CONF_DIR", raising=False)
    monkeypatch.setenv("FLIGHTS_FAST", "1")
    notebook = nbformat.read(NOTEBOOKS / "flights.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=CELL_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOKS)}}
    )

    client.execute()

    printed = "".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )
    assert "336,776 flights" in printed
    assert "AUC 0.7" in printed
    assert "nothing is left" in printed
