"""Packs the running virtual environment for the executors.

The archive holds the environment's content without its outer folder, so that YARN unpacks it as
``python_env/bin/python``. Archives are kept in ``$XDG_CACHE_HOME/sparkray/environments`` under a hash of the paths,
sizes and times of what went in: a second call with the same environment packs nothing.

A virtual environment's ``python`` is a link to its base interpreter, so the archive works on hosts that have that
interpreter at the same path.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import stat
import sys
import sysconfig
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import IO, cast

from sparkray.spark.errors import SparkSetupError
from sparkray.spark.parallel_gzip import ParallelGzipWriter

# Part of the hash: to be raised when the content of an archive changes for the same environment.
_FORMAT = 2
_KEPT_ARCHIVES = 4
_PROGRESS_SECONDS = 2.0

_EXCLUDED_NAMES = frozenset({"__pycache__", ".git", ".mypy_cache", ".pytest_cache", ".ipynb_checkpoints"})
# Below site-packages. YARN gets Spark's jars by another way; the rest is large and not for running programs.
_EXCLUDED_PACKAGE_PATHS = frozenset(
    {"pyspark/jars", "pyspark/examples", "pyspark/data", "pyspark/tests", "pyarrow/include", "pyarrow/src"}
)
# In these packages nothing imports the folders that are called tests.
_PACKAGES_WITHOUT_TESTS = frozenset({"matplotlib", "networkx", "numpy", "pandas", "pyarrow", "scipy", "sklearn"})

Progress = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A file or link that goes into the archive."""

    path: str
    name: str
    status: os.stat_result
    link: str | None

    def fingerprint(self) -> str:
        if self.link is not None:
            return f"{self.name}\0link\0{self.link}\n"
        return f"{self.name}\0{self.status.st_size}\0{self.status.st_mtime_ns}\n"


def pack_environment(prefix: str | os.PathLike[str] | None = None, progress: Progress | None = None) -> str:
    """Packs a virtual environment, or finds the archive of an earlier call.

    Arguments:
        prefix: the virtual environment; None for that of the running interpreter.
        progress: called with lines to show; None prints them on standard error.

    Returns:
        Path of a ``.tar.gz`` in the cache. Valid until a few other environments have been packed.

    Raises:
        SparkSetupError: the prefix is not a virtual environment, or something in it would be missing on executors
            (packages installed in editable mode, packages of the base interpreter).

    Upstream name: ``conda_pack.pack``.
    """
    root = pathlib.Path(prefix if prefix is not None else sys.prefix).absolute()
    show = progress if progress is not None else _print_progress
    check_environment(root)
    entries = _collect(root)
    archive = cache_dir() / f"{_content_hash(entries)}.tar.gz"
    if archive.is_file():
        os.utime(archive)
        show(f"python environment {root}: packed before, {_mebibytes(archive.stat().st_size)}")
        return str(archive)
    _write(archive, root, entries, show)
    _remove_old_archives(archive)
    return str(archive)


def check_environment(root: pathlib.Path) -> None:
    """Raises SparkSetupError when executors could not run from a copy of this environment; warns of what they need."""
    if (root / "conda-meta").is_dir():
        raise SparkSetupError(
            f"{root} is a conda environment, which sparkray cannot pack yet (docs/STATUS.md): "
            "pack it with conda-pack and pass penv_archive="
        )
    settings = _venv_settings(root)
    if settings is None:
        raise SparkSetupError(f"{root} is not a virtual environment: run in one (python -m venv) or pass penv_archive=")
    if settings.get("include-system-site-packages", "false").lower() == "true":
        raise SparkSetupError(
            f"{root} uses packages of its base interpreter, which executors do not get: make it without "
            "--system-site-packages or pass penv_archive="
        )
    editable = find_editable(root)
    if editable:
        raise SparkSetupError(
            f"installed in editable mode, so executors do not get it: {', '.join(editable)}; "
            "install it with `pip install .` or pass penv_archive="
        )
    base = settings.get("home", "")
    if _is_private(base):
        warnings.warn(
            f"the virtual environment {root} runs on the interpreter in {base}: "
            "the executors' hosts must have it at the same place",
            stacklevel=3,
        )


def find_editable(root: pathlib.Path) -> list[str]:
    """The packages of an environment that are only links to somewhere outside of it, sorted by name."""
    found = set()
    for site_packages in _site_packages(root):
        for path in site_packages.glob("*.dist-info/direct_url.json"):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                if json.loads(path.read_text()).get("dir_info", {}).get("editable"):
                    found.add(path.parent.name.split("-")[0])
        for path in site_packages.glob("*.egg-link"):
            found.add(path.stem)
        for path in site_packages.glob("*.pth"):
            for line in path.read_text(errors="replace").splitlines():
                if os.path.isabs(line.strip()) and root not in pathlib.Path(line.strip()).parents:
                    found.add(re.sub(r"^__editable__\.|-[\d.]+$", "", path.stem))
    return sorted(found)


def cache_dir() -> pathlib.Path:
    """Where archives are kept: ``$XDG_CACHE_HOME/sparkray/environments``, with ``~/.cache`` when it is not set."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = pathlib.Path(base) if os.path.isabs(base) else pathlib.Path.home() / ".cache"
    return root / "sparkray" / "environments"


# -- what goes in ---------------------------------------------------------------------------------------------------


def _collect(root: pathlib.Path) -> list[_Entry]:
    site_packages = [str(path.relative_to(root)) for path in _site_packages(root)]
    entries = list(_walk(str(root), str(root), "", site_packages, frozenset()))
    entries.sort(key=lambda entry: entry.name)
    return entries


def _walk(root: str, directory: str, name: str, site_packages: list[str], entered: frozenset[str]) -> Iterator[_Entry]:
    """What is below a directory: the root, or one that a link leads to; `entered` are those it was reached through."""
    entered |= {os.path.realpath(directory)}
    with os.scandir(directory) as found:
        children = list(found)
    for child in children:
        child_name = f"{name}/{child.name}" if name else child.name
        if _is_excluded(child_name, child.name, site_packages):
            continue
        if child.is_symlink():
            link = _link_inside(root, child.path, child_name)
            if link is not None:
                yield _Entry(child.path, child_name, child.stat(follow_symlinks=False), link)
                continue
        # What a link out of the environment leads to goes in itself: executors' hosts do not have it.
        if child.is_dir():
            if os.path.realpath(child.path) in entered:
                raise SparkSetupError(f"{child.path} is a link to a directory that it is in: remove it")
            yield from _walk(root, child.path, child_name, site_packages, entered)
        elif child.is_file() and not (name == "bin" and _is_bound_to_place(child.path)):
            yield _Entry(child.path, child_name, child.stat(), None)


def _link_inside(root: str, path: str, name: str) -> str | None:
    """What the copy of a link says, None when its target's content takes its place."""
    link = os.readlink(path)
    # The base interpreter; and links that lead nowhere here either.
    if name.startswith("bin/python") or not os.path.exists(path):
        return link
    directory = os.path.dirname(path)
    target = os.path.normpath(os.path.join(directory, link))
    if os.path.commonpath([root, target]) == root and path.startswith(f"{root}/{name}"):
        return os.path.relpath(target, directory)
    return None


def _is_excluded(path: str, name: str, site_packages: list[str]) -> bool:
    if name in _EXCLUDED_NAMES:
        return True
    for directory in site_packages:
        if not path.startswith(directory + "/"):
            continue
        inside = path[len(directory) + 1 :]
        package = inside.partition("/")[0]
        return inside in _EXCLUDED_PACKAGE_PATHS or (name == "tests" and package in _PACKAGES_WITHOUT_TESTS)
    return False


def _is_bound_to_place(path: str) -> bool:
    """Scripts in bin name the interpreter of the original environment; so do the activate scripts."""
    if os.path.basename(path).lower().startswith("activate"):
        return True
    with open(path, "rb") as file:
        return file.read(2) == b"#!"


def _site_packages(root: pathlib.Path) -> list[pathlib.Path]:
    return sorted(root.glob("lib/python*/site-packages"))


def _venv_settings(root: pathlib.Path) -> dict[str, str] | None:
    try:
        text = (root / "pyvenv.cfg").read_text()
    except FileNotFoundError:
        return None
    pairs = (line.partition("=") for line in text.splitlines())
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def _is_private(directory: str) -> bool:
    path = pathlib.Path(directory)
    private = [pathlib.Path.home(), pathlib.Path("/home"), pathlib.Path("/root"), pathlib.Path(tempfile.gettempdir())]
    return any(parent in path.parents for parent in private)


def _content_hash(entries: list[_Entry]) -> str:
    digest = hashlib.sha256(f"{_FORMAT} {sysconfig.get_platform()}\n".encode())
    for entry in entries:
        digest.update(entry.fingerprint().encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


# -- writing --------------------------------------------------------------------------------------------------------


def _write(archive: pathlib.Path, root: pathlib.Path, entries: list[_Entry], show: Progress) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    total = sum(entry.status.st_size for entry in entries)
    show(f"python environment {root}: packing {len(entries)} files, {_mebibytes(total)}")
    started = shown = time.monotonic()
    written = 0
    descriptor, temporary = tempfile.mkstemp(dir=archive.parent, prefix=".packing-", suffix=".tar.gz")
    try:
        with open(descriptor, "wb") as file:
            with ParallelGzipWriter(file) as gzip_file:
                with tarfile.open(
                    fileobj=cast(IO[bytes], gzip_file), mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20
                ) as tar:
                    for entry in entries:
                        _add(tar, entry)
                        written += entry.status.st_size
                        if time.monotonic() - shown > _PROGRESS_SECONDS:
                            shown = time.monotonic()
                            show(f"python environment {root}: packed {_mebibytes(written)} of {_mebibytes(total)}")
        os.replace(temporary, archive)
    except BaseException:
        os.unlink(temporary)
        raise
    seconds = time.monotonic() - started
    show(f"python environment {root}: packed in {seconds:.1f} s, {_mebibytes(archive.stat().st_size)}")


def _add(tar: tarfile.TarFile, entry: _Entry) -> None:
    info = tarfile.TarInfo(entry.name)
    info.mtime = int(entry.status.st_mtime)
    info.mode = stat.S_IMODE(entry.status.st_mode)
    if entry.link is not None:
        info.type = tarfile.SYMTYPE
        info.linkname = entry.link
        tar.addfile(info)
        return
    info.size = entry.status.st_size
    with open(entry.path, "rb") as file:
        tar.addfile(info, file)


def _remove_old_archives(newest: pathlib.Path) -> None:
    archives = [path for path in newest.parent.glob("*.tar.gz") if not path.name.startswith(".") and path != newest]
    with contextlib.suppress(FileNotFoundError):
        archives.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in archives[_KEPT_ARCHIVES - 1 :]:
            path.unlink()


def _mebibytes(size: int) -> str:
    return f"{size / 1024**2:.0f} MB"


def _print_progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
