"""Builds the wheels to ship, into dist/wheels/: one for each CPython of this machine. Run by `make wheels`.

They run on systems older than this one: zig links them against the functions that an old glibc had.

sparkrayd and the JNI library are the same in all wheels. The Python module is compiled for each version, because
CPython's stable ABI lacks what it does at each call of the user: buffers are there only from 3.11 on, calls without a
tuple of arguments only from 3.12 on, and each item of a tuple or list costs a function call and a check.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from interpreters import Interpreter, find

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "wheels"
PACKAGE = WORK / "package"
FINISHED = ROOT / "dist" / "wheels"

MACHINE = platform.machine()
TARGET = f"{MACHINE}-unknown-linux-gnu"
# The oldest that Rust's standard library supports, which is that of manylinux2014.
GLIBC = "2.17"
PLATFORM = f"manylinux2014_{MACHINE}"
CRATES = ("sparkrayd", "sparkray-jni", "sparkray-python")

# Where the environment has its programs, cargo-zigbuild, auditwheel and the Python that has zig.
PROGRAMS = Path(sys.executable).parent


def step(name: str, what: str, *command: str | Path, **environment: str) -> None:
    """Runs a long command of the build; its output is in build/logs.

    Raises:
        SystemExit: it failed; the end of its output was printed.
    """
    path = os.pathsep.join([str(PROGRAMS), os.environ["PATH"]])
    done = subprocess.run(
        [ROOT / ".ci" / "step", f"wheels-{name}", what, *command],
        cwd=ROOT,
        env={**os.environ, "PATH": path, **environment},
    )
    if done.returncode != 0:
        raise SystemExit(done.returncode)


def compile_for(interpreter: Interpreter, profile: str) -> None:
    """Everything native. What does not depend on the interpreter is compiled only the first time."""
    packages = [argument for crate in CRATES for argument in ("--package", crate)]
    step(
        f"cargo-{interpreter.tag}",
        f"cargo zigbuild for {interpreter.tag} (the first time takes minutes)",
        PROGRAMS / "cargo-zigbuild",
        *("zigbuild", "--locked", "--profile", profile, "--target", f"{TARGET}.{GLIBC}", *packages),
        PYO3_PYTHON=interpreter.path,
    )


def strip(built: Path, stripped: Path) -> None:
    """Copies a native file without its symbols."""
    subprocess.run(["strip", "-o", stripped, built], check=True)


def lay_out_package(built: Path, java_jar: Path) -> None:
    """Makes the directory that wheels are built from: the sources, and what is the same for all interpreters."""
    shutil.rmtree(PACKAGE, ignore_errors=True)
    sources = ROOT / "pyspark-lib"
    ignored = shutil.ignore_patterns("_lib", "_native.*.so", "__pycache__", "*.egg-info")
    shutil.copytree(sources / "python", PACKAGE / "python", ignore=ignored)
    for file in (sources / "pyproject.toml", sources / "setup.py", sources / "README.md", ROOT / "LICENSE"):
        shutil.copy(file, PACKAGE)

    library = PACKAGE / "python" / "sparkray" / "_lib"
    library.mkdir()
    strip(built / "sparkrayd", library / "sparkrayd")
    strip(built / "libsparkray_jni.so", WORK / "libsparkray_jni.so")
    shutil.copy(java_jar, library / "sparkray.jar")
    in_jar = f"org/sparkray/native/linux-{MACHINE}"
    with zipfile.ZipFile(library / "sparkray.jar", "a", compression=zipfile.ZIP_DEFLATED) as jar:
        jar.write(library / "sparkrayd", f"{in_jar}/sparkrayd")
        jar.write(WORK / "libsparkray_jni.so", f"{in_jar}/libsparkray_jni.so")


def make_wheel(interpreter: Interpreter, built: Path) -> None:
    """One finished wheel. auditwheel refuses what needs a newer glibc than that of its name."""
    package = PACKAGE / "python" / "sparkray"
    for other in package.glob("_native.*.so"):
        other.unlink()
    strip(built / "libsparkray_native.so", package / f"_native{interpreter.extension}")

    unfinished = WORK / interpreter.tag
    for directory in (PACKAGE / "build", unfinished):
        shutil.rmtree(directory, ignore_errors=True)
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation")
    step(f"pip-{interpreter.tag}", f"the wheel for {interpreter.tag}", *pip, "--wheel-dir", unfinished, PACKAGE)
    # setuptools names it for the interpreter that it runs on itself.
    (wheel,) = unfinished.glob("*.whl")
    tags = ("--remove", "--python-tag", interpreter.tag, "--abi-tag", interpreter.tag)
    step(f"tags-{interpreter.tag}", "its tags", sys.executable, "-m", "wheel", "tags", *tags, wheel)
    (wheel,) = unfinished.glob("*.whl")
    # No patcher: there is no library to be put into the wheel and no path to be changed.
    audit = (PROGRAMS / "auditwheel", "repair", "--plat", PLATFORM, "--only-plat", "--patcher", "none")
    step(f"auditwheel-{interpreter.tag}", f"auditwheel: is it {PLATFORM}?", *audit, "--wheel-dir", FINISHED, wheel)
    shutil.rmtree(unfinished)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Builds the wheels to ship into dist/wheels/.")
    parser.add_argument("--profile", required=True, help="cargo's: release, or dist for what is shipped")
    parser.add_argument("--java-jar", required=True, type=Path, help="the Spark plugin's jar without native files")
    parser.add_argument("python", nargs="*", help="an interpreter to build for; none: all CPythons of this machine")
    arguments = parser.parse_args()

    interpreters = find(arguments.python)
    built = ROOT / "target" / TARGET / arguments.profile
    shutil.rmtree(FINISHED, ignore_errors=True)
    FINISHED.mkdir(parents=True)
    for interpreter in interpreters:
        compile_for(interpreter, arguments.profile)
        if interpreter is interpreters[0]:
            lay_out_package(built, arguments.java_jar)
        make_wheel(interpreter, built)
    for wheel in sorted(FINISHED.iterdir()):
        print(wheel.relative_to(ROOT))


if __name__ == "__main__":
    main()
