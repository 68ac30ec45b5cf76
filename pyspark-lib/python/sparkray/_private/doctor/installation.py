"""The package itself: whether its files are there, are for this Python and this C library, and can be imported."""

from __future__ import annotations

import os
import pathlib
import platform
import re
import subprocess
import sys
from collections.abc import Sequence

from sparkray._private.doctor.finding import Finding, error, ok

_OLDEST_PYTHON = (3, 10)
_MACHINES = {"x86_64": "x86-64", "amd64": "x86-64", "aarch64": "AArch64"}
_IMPORT_SECONDS = 60.0
_NATIVE = re.compile(r"_native\.cpython-(\d)(\d+)")
# How a program names the version of glibc that a function came with.
_GLIBC_VERSION = re.compile(rb"GLIBC_(\d+)\.(\d+)")
_INSTALL_AGAIN = "pip install --force-reinstall the sparkray wheel for this Python"

Version = tuple[int, int]


def examine() -> list[Finding]:
    """Looks at the installed package."""
    package = pathlib.Path(__file__).resolve().parents[2]
    native = sorted(package.glob("_native.*.so"))
    files = package / "_lib"
    return [
        check_platform(platform.system(), platform.machine()),
        check_python(sys.implementation.name, sys.version_info[:2], [path.name for path in native]),
        check_glibc(glibc(), needed_glibc([*native, files / "sparkrayd"])),
        check_files(files),
        check_import(sys.executable),
    ]


def check_platform(system: str, machine: str) -> Finding:
    """sparkray is written for Linux, and for the machines that it was compiled for once.

    Args:
        system: as of platform.system().
        machine: as of platform.machine().
    """
    if system == "Linux" and machine in _MACHINES:
        return ok("platform", f"Linux on {_MACHINES[machine]}")
    message = f"{system} on {machine}: sparkray is made for Linux on x86-64 and AArch64"
    return error("platform", message, "use such a machine")


def check_python(implementation: str, version: Version, native: Sequence[str]) -> Finding:
    """The interpreter against the wheel that is installed.

    Args:
        implementation: as of sys.implementation.
        version: major and minor.
        native: the names of the files of the native module.
    """
    this = f"{implementation} {version[0]}.{version[1]}"
    if implementation != "cpython" or version < _OLDEST_PYTHON:
        return error("python", f"{this}: sparkray needs CPython 3.10 or newer", "use CPython 3.10 or newer")
    built_for = [(int(found[1]), int(found[2])) for name in native if (found := _NATIVE.match(name))]
    if not built_for:
        return error("python", f"{this}, and the installation has no native module", _INSTALL_AGAIN)
    if version not in built_for:
        others = ", ".join(f"{major}.{minor}" for major, minor in built_for)
        return error("python", f"{this}, and the installed wheel is for CPython {others}", _INSTALL_AGAIN)
    return ok("python", f"{this}, as the installed wheel is for; the nodes of a cluster need it too")


def glibc() -> Version | None:
    """The version of this system's C library; None where it is another one."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        return None
    parts = version.split(".")
    return (int(parts[0]), int(parts[1])) if name == "glibc" and len(parts) >= 2 else None


def needed_glibc(files: Sequence[pathlib.Path]) -> Version:
    """The oldest glibc with which programs and libraries can be loaded. Files that are not there need none."""
    needed: Version = (0, 0)
    for path in files:
        if path.is_file():
            for major, minor in _GLIBC_VERSION.findall(path.read_bytes()):
                needed = max(needed, (int(major), int(minor)))
    return needed


def check_glibc(found: Version | None, needed: Version) -> Finding:
    """The C library against the files that are installed."""
    need = f"{needed[0]}.{needed[1]}"
    if found is None:
        advice = "use a distribution with glibc, such as Debian, Ubuntu or Rocky Linux"
        return error("glibc", f"this system's C library is not glibc (musl?), and sparkray needs glibc {need}", advice)
    this = f"{found[0]}.{found[1]}"
    if found < needed:
        advice = "install a manylinux wheel of sparkray, which `make wheels` builds, or use a newer system"
        return error("glibc", f"glibc {this} is older than the {need} that the installed files need", advice)
    return ok("glibc", f"glibc {this}, and the installed files need {need}; the nodes of a cluster need it too")


def check_files(directory: pathlib.Path) -> Finding:
    """What the wheel brings beside Python code.

    Args:
        directory: where they are.
    """
    daemon, jar = directory / "sparkrayd", directory / "sparkray.jar"
    if not os.access(daemon, os.X_OK):
        return error("files", f"{daemon} is not there or not executable", _INSTALL_AGAIN)
    if not jar.is_file():
        return error("files", f"{jar} is not there, without which Spark has no plugin", _INSTALL_AGAIN)
    return ok("files", f"runtime and Spark plugin are in {directory}")


def check_import(python: str) -> Finding:
    """Whether `import sparkray` works, in a process of its own.

    Args:
        python: the interpreter.
    """
    try:
        done = subprocess.run(
            [python, "-c", "import sparkray"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=_IMPORT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        return error("import", f"{python} does not run: {failure}", "use another Python interpreter")
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return error("import", f"`import sparkray` fails: {lines[-1]}", _INSTALL_AGAIN)
    return ok("import", "`import sparkray` works")
