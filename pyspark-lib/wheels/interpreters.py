"""The interpreters that wheels are built for: the CPythons of this machine, the first that is found of each version.

As a program it prints their paths.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

OLDEST = (3, 10)

_NAME = re.compile(r"python3\.\d+")
_SECONDS = 60.0
_PROBE = """
import json, sys, sysconfig
print(json.dumps({
    "implementation": sys.implementation.name,
    "version": sys.version_info[:2],
    "final": sys.version_info.releaselevel == "final",
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "path": sys.executable,
    "extension": sysconfig.get_config_var("EXT_SUFFIX"),
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """A CPython.

    Attributes:
        path: of the program.
        version: major and minor.
        extension: how the names of its native modules end.
    """

    path: str
    version: tuple[int, int]
    extension: str

    @property
    def tag(self) -> str:
        """Of wheels for this version, such as cp312."""
        return f"cp{self.version[0]}{self.version[1]}"


def find(named: Sequence[str]) -> list[Interpreter]:
    """Interpreters to build for, from the oldest version to the newest.

    Args:
        named: programs, as paths or to be found on PATH; none means those of this machine.

    Raises:
        SystemExit: one that was named is not a CPython that sparkray works with, or none was found.
    """
    found: dict[tuple[int, int], Interpreter] = {}
    for program in named or _programs(os.environ):
        interpreter = _examine(program)
        if isinstance(interpreter, Interpreter):
            found.setdefault(interpreter.version, interpreter)
        elif named:
            raise SystemExit(f"{program}: {interpreter}; name another Python, or none for all of this machine")
    if not found:
        raise SystemExit(f"no CPython {_text(OLDEST)} or newer was found: name one, as in PYTHONS=/opt/bin/python3")
    return [found[version] for version in sorted(found)]


def _programs(environment: os._Environ[str] | dict[str, str]) -> Iterator[str]:
    """Where interpreters usually are: on PATH, and in the directories of pyenv and uv."""
    for directory in filter(None, environment.get("PATH", "").split(os.pathsep)):
        yield from _sorted(path for path in Path(directory).glob("python3.*") if _NAME.fullmatch(path.name))
    home = Path(environment.get("HOME", "/nonexistent"))
    pyenv = Path(environment.get("PYENV_ROOT") or home / ".pyenv")
    uv = Path(environment.get("UV_PYTHON_INSTALL_DIR") or home / ".local/share/uv/python")
    yield from _sorted(pyenv.glob("versions/*/bin/python3"))
    yield from _sorted(uv.glob("cpython-*/bin/python3"))


def _sorted(paths: Iterable[Path]) -> list[str]:
    return sorted(map(str, paths))


def _examine(program: str) -> Interpreter | str:
    """The interpreter, or why it is none to build for."""
    try:
        done = subprocess.run(
            [program, "-I", "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
        told = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired) as failure:
        return f"it does not run: {failure}"
    except ValueError:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return f"it does not run: {last}"
    major, minor = told["version"]
    this = f"{told['implementation']} {major}.{minor}"
    if told["implementation"] != "cpython" or (major, minor) < OLDEST:
        return f"{this}, and sparkray needs CPython {_text(OLDEST)} or newer"
    if told["free_threaded"]:
        return f"{this} without the global interpreter lock, which sparkray does not support"
    if not told["final"]:
        return f"{this} before its release: native modules for it may not work with the released one"
    return Interpreter(told["path"], (major, minor), told["extension"])


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


if __name__ == "__main__":
    print(*(interpreter.path for interpreter in find(sys.argv[1:])), sep="\n")
