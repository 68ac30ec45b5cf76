"""Packs a conda environment for the executors, by the library conda-pack.

The archive carries its own interpreter, so it works on hosts without conda. ``conda-unpack`` is not run there (YARN's
cache is read-only): paths of the original environment stay in text files, which running Python does not need.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import pathlib
import sys
import sysconfig
from collections.abc import Iterator
from typing import Any

from sparkray._private import limits
from sparkray.spark.environment_cache import find_or_write
from sparkray.spark.environment_content import exclusion_patterns, find_editable, find_site_packages
from sparkray.spark.errors import SparkSetupError
from sparkray.spark.progress import ByteProgress, Progress

# Part of the hash: to be raised when the content of an archive changes for the same environment.
_FORMAT = 1
_COMPRESS_LEVEL = 1
_MOST_THREADS = 8
_MOST_NAMES = 5


def is_conda(root: pathlib.Path) -> bool:
    """Whether a directory is a conda environment."""
    return (root / "conda-meta").is_dir()


def find_prefix(name: str) -> pathlib.Path:
    """The directory of a conda environment, as ``conda info`` tells it.

    Arguments:
        name: name of the environment, the last part of its path.

    Raises:
        SparkSetupError: conda-pack is not installed, conda cannot be asked, there is no such environment, conda-pack
            refuses it, or it has another Python than this program.
    """
    conda_pack = _import_conda_pack()
    try:
        prefix = pathlib.Path(conda_pack.CondaEnv.from_name(name).prefix)
    except conda_pack.CondaPackException as error:
        raise SparkSetupError(f"conda_name={name!r}: {_one_line(error)}; or pass penv_archive=") from error
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not (prefix / "lib" / f"python{version}").is_dir():
        raise SparkSetupError(
            f"conda_name={name!r}: {prefix} does not have Python {version}, which this program runs on, and Spark "
            "needs the same on both sides: run the program in that environment, or make another one"
        )
    return prefix


def pack(root: pathlib.Path, show: Progress) -> str:
    """Packs a conda environment, or finds the archive of an earlier call.

    Arguments:
        root: the environment.
        show: called with lines of progress.

    Returns:
        Path of a ``.tar.gz`` in the cache. Valid until a few other environments have been packed.

    Raises:
        SparkSetupError: conda-pack is not installed, it refuses the environment, or executors would get something else
            than what is there.
    """
    conda_pack = _import_conda_pack()
    if not (root / "bin" / "python").exists():
        raise SparkSetupError(f"the conda environment {root} has no bin/python: install python in it with conda")
    if not (root / "conda-meta" / "history").is_file():
        # conda-pack takes a date from it.
        raise SparkSetupError(f"the conda environment {root} has no conda-meta/history: make it again with conda")
    try:
        environment = conda_pack.CondaEnv.from_prefix(str(root))
    except conda_pack.CondaPackException as error:
        raise SparkSetupError(f"the conda environment {root}: {_one_line(error)}") from error
    # conda-pack looks for what pip records, and only where conda installed the Python.
    editable = find_editable(root)
    if editable:
        raise SparkSetupError(
            f"installed in editable mode, so executors do not get it: {', '.join(editable)}; "
            "install it with `pip install .` or pass penv_archive="
        )
    packages = [str(path.relative_to(root)) for path in find_site_packages(root)]
    for pattern in exclusion_patterns(packages):
        environment = environment.exclude(pattern)

    def write(archive: pathlib.Path) -> None:
        _check_unchanged(root, environment, packages)
        environment.files = _CountedFiles(environment.files, f"python environment {root}: packed", show)
        environment.pack(
            output=str(archive),
            force=True,
            compress_level=_COMPRESS_LEVEL,
            n_threads=min(limits.cpus(), _MOST_THREADS),
        )

    content_hash = _content_hash(root, environment, conda_pack.__version__)
    return find_or_write(content_hash, root, f"{len(environment)} files by conda-pack", write, show)


class _CountedFiles(list[Any]):
    """The files of an environment in a list that shows how far conda-pack is when it goes through them."""

    def __init__(self, files: list[Any], what: str, show: Progress) -> None:
        super().__init__(files)
        self._sizes = [os.lstat(file.source).st_size for file in files]
        self._progress = ByteProgress(what, sum(self._sizes), show)

    def __iter__(self) -> Iterator[Any]:
        for file, size in zip(super().__iter__(), self._sizes, strict=True):
            yield file
            self._progress.add(size)


def _import_conda_pack() -> Any:
    try:
        import conda_pack
    except ImportError as error:
        raise SparkSetupError(
            f"conda environments are packed by conda-pack, which cannot be imported ({error}): "
            "pip install 'sparkray[conda]', or pass penv_archive="
        ) from error
    return conda_pack


def _content_hash(root: pathlib.Path, environment: Any, version: str) -> str:
    """Of the package list, whose records are files in conda-meta, and of all other files."""
    digest = hashlib.sha256(f"conda {_FORMAT} {version} {sysconfig.get_platform()} {root}\n".encode())
    for file in environment:
        path = root / file.target
        if path.is_symlink():
            line = f"{file.target}\0link\0{os.readlink(path)}\n"
        elif path.is_dir():
            line = f"{file.target}\0directory\n"
        else:
            status = path.stat()
            line = f"{file.target}\0{status.st_size}\0{status.st_mtime_ns}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _check_unchanged(root: pathlib.Path, environment: Any, packages: list[str]) -> None:
    """Raises SparkSetupError when pip has put something else in the place of a file of a conda package.

    conda-pack takes such a file from conda's package cache, so executors would get the original one.
    """
    changed = list(_find_changed(root, environment, packages))
    if changed:
        more = f" and {len(changed) - _MOST_NAMES} others" if len(changed) > _MOST_NAMES else ""
        raise SparkSetupError(
            f"the conda environment {root}: files of conda's packages were changed after their installation, by pip or "
            f"by hand, and conda-pack packs the original ones: {', '.join(changed[:_MOST_NAMES])}{more}; install these "
            "packages again with conda, or remove them with `conda remove --force` and install them with pip"
        )


def _find_changed(root: pathlib.Path, environment: Any, packages: list[str]) -> Iterator[str]:
    for file in environment:
        installed = root / file.target
        # What has a placeholder differs by the path of the environment.
        if pathlib.Path(file.source) == installed or file.prefix_placeholder is not None:
            continue
        if not file.target.startswith(tuple(f"{directory}/" for directory in packages)):
            continue
        if os.path.islink(file.source) or os.path.isdir(file.source):
            continue
        # Most files are hard links to the cache.
        if not os.path.samefile(file.source, installed) and not filecmp.cmp(file.source, installed, shallow=False):
            yield file.target


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
