"""What the driver imports, its workers import: on Spark's masters of one machine. tests/process has the same for
`init()`, and what holds on machines that lack the driver's directories."""

from __future__ import annotations

import pathlib

import pytest

from support import modules_program


@pytest.mark.parametrize("master", ["local[2]", "local-cluster[2,1,1024]"])
def test_modules_come_from_where_the_driver_has_them(master: str, tmp_path: pathlib.Path) -> None:
    program = modules_program.lay_out(tmp_path)
    modules_program.run(program, tmp_path, master)
