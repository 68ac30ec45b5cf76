"""Packs a Python environment for the executors: virtual environments here, conda's in conda_environment.py.

The archive holds the environment's content without its outer folder, so that YARN unpacks it as
``python_env/bin/python``. Archives are kept in ``$XDG_CACHE_HOME/sparkray/environments`` under a hash of the paths,
sizes and times of what went in: a second call with the same environment packs nothing.

A virtual environment's ``python`` is a link to its base interpreter, so the archive works on hosts that have that
interpreter at the same path.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import stat
import sys
import sysconfig
import tarfile
import tempfile
import warnings
from collections.abc import Iterator
from typing import IO, cast

from sparkray.spark import conda_environment
from sparkray.spark.environment_cache import find_or_write
from sparkray.spark.environment_content import find_editable, find_site_packages, is_excluded
from sparkray.spark.errors import SparkSetupError
from sparkray.spark.parallel_gzip import ParallelGzipWriter
from sparkray.spark.progress import ByteProgress, Progress, mebibytes, print_progress

# Part of the hash: to be raised when the content of an archive changes for the same environment.
_FORMAT = 2


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
    """Packs a virtual or conda environment, or finds the archive of an earlier call.

    Arguments:
        prefix: the environment; None for that of the running interpreter.
        progress: called with lines to show; None prints them on standard error.

    Returns:
        Path of a ``.tar.gz`` in the cache. Valid until a few other environments have been packed.

    Raises:
        SparkSetupError: the prefix is neither, or something in it would be missing on executors (packages installed in
            editable mode, packages of the base interpreter, files of conda's packages that pip changed), or conda-pack
            is not installed or refuses a conda environment.

    Upstream name: ``conda_pack.pack``.
    """
    root = pathlib.Path(prefix if prefix is not None else sys.prefix).absolute()
    show = progress if progress is not None else print_progress
    if conda_environment.is_conda(root):
        return conda_environment.pack(root, show)
    check_environment(root)
    entries = _collect(root)
    total = sum(entry.status.st_size for entry in entries)
    return find_or_write(
        _content_hash(entries),
        root,
        f"{len(entries)} files, {mebibytes(total)}",
        lambda path: _write(path, entries, ByteProgress(f"python environment {root}: packed", total, show)),
        show,
    )


def check_environment(root: pathlib.Path) -> None:
    """Raises SparkSetupError when executors could not run from a copy of a venv; warns of what they need."""
    settings = _venv_settings(root)
    if settings is None:
        raise SparkSetupError(
            f"{root} is neither a virtual nor a conda environment: run in one (python -m venv) or pass penv_archive="
        )
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


# -- what goes in ---------------------------------------------------------------------------------------------------


def _collect(root: pathlib.Path) -> list[_Entry]:
    site_packages = [str(path.relative_to(root)) for path in find_site_packages(root)]
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
        if is_excluded(child_name, child.name, site_packages):
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


def _is_bound_to_place(path: str) -> bool:
    """Scripts in bin name the interpreter of the original environment; so do the activate scripts."""
    if os.path.basename(path).lower().startswith("activate"):
        return True
    with open(path, "rb") as file:
        return file.read(2) == b"#!"


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


def _write(archive: pathlib.Path, entries: list[_Entry], progress: ByteProgress) -> None:
    with open(archive, "wb") as file:
        with ParallelGzipWriter(file) as gzip_file:
            with tarfile.open(
                fileobj=cast(IO[bytes], gzip_file), mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20
            ) as tar:
                for entry in entries:
                    _add(tar, entry)
                    progress.add(entry.status.st_size)


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
