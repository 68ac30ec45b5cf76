"""Which interpreters wheels are built for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import interpreters


def python(path: Path, version: tuple[int, int], **other: Any) -> Path:
    """A program that answers as an interpreter would."""
    told = {
        "implementation": "cpython",
        "version": version,
        "final": True,
        "free_threaded": False,
        "path": str(path),
        "extension": f".cpython-{version[0]}{version[1]}.so",
        **other,
    }
    return program(path, f"echo '{json.dumps(told)}'")


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that has only what the test puts there."""
    monkeypatch.delenv("PYENV_ROOT", raising=False)
    monkeypatch.delenv("UV_PYTHON_INSTALL_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def test_one_of_each_version_from_path_pyenv_and_uv(machine: Path):
    on_path = python(machine / "bin" / "python3.12", (3, 12))
    python(machine / "home" / ".pyenv" / "versions" / "3.12.1" / "bin" / "python3", (3, 12))
    of_pyenv = python(machine / "home" / ".pyenv" / "versions" / "3.10.13" / "bin" / "python3", (3, 10))
    of_uv = python(machine / "home/.local/share/uv/python/cpython-3.14.0-linux/bin/python3", (3, 14))
    found = interpreters.find([])
    assert [(interpreter.path, interpreter.tag) for interpreter in found] == [
        (str(of_pyenv), "cp310"),
        (str(on_path), "cp312"),
        (str(of_uv), "cp314"),
    ]
    assert found[0].extension == ".cpython-310.so"


@pytest.mark.parametrize(
    ("version", "other", "words"),
    [
        ((3, 9), {}, "3.10 or newer"),
        ((3, 11), {"implementation": "pypy"}, "pypy 3.11"),
        ((3, 14), {"free_threaded": True}, "global interpreter lock"),
        ((3, 15), {"final": False}, "before its release"),
    ],
)
def test_others_are_passed_over_and_refused_when_named(
    machine: Path, version: tuple[int, int], other: dict[str, Any], words: str
):
    unsuitable = python(machine / "bin" / f"python{version[0]}.{version[1]}", version, **other)
    with pytest.raises(SystemExit, match="no CPython 3.10 or newer"):
        interpreters.find([])
    with pytest.raises(SystemExit, match=words):
        interpreters.find([str(unsuitable)])


def test_programs_that_do_not_run_are_passed_over(machine: Path):
    program(machine / "bin" / "python3.10", "echo 'pyenv: python3.10: command not found' >&2; exit 127")
    of_pyenv = python(machine / "home" / ".pyenv" / "versions" / "3.10.13" / "bin" / "python3", (3, 10))
    assert [interpreter.path for interpreter in interpreters.find([])] == [str(of_pyenv)]
    with pytest.raises(SystemExit, match="python3.10: it does not run: pyenv: python3.10: command not found"):
        interpreters.find(["python3.10"])


def test_only_those_that_are_named(machine: Path):
    python(machine / "bin" / "python3.10", (3, 10))
    python(machine / "bin" / "python3.12", (3, 12))
    assert [interpreter.tag for interpreter in interpreters.find(["python3.12"])] == ["cp312"]
