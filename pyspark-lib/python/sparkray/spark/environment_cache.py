"""Packed environments that are kept: each under a hash of what went in, the last few of them."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
import time
from collections.abc import Callable

from sparkray.spark.progress import Progress, mebibytes

_KEPT_ARCHIVES = 4


def cache_dir() -> pathlib.Path:
    """Where archives are kept: ``$XDG_CACHE_HOME/sparkray/environments``, with ``~/.cache`` when it is not set."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = pathlib.Path(base) if os.path.isabs(base) else pathlib.Path.home() / ".cache"
    return root / "sparkray" / "environments"


def find_or_write(
    content_hash: str, root: pathlib.Path, summary: str, write: Callable[[pathlib.Path], None], show: Progress
) -> str:
    """The archive of an environment: that of an earlier call, or a new one.

    Arguments:
        content_hash: of everything that goes in.
        root: the environment, for the lines of progress.
        summary: how much goes in, for the same.
        write: writes the archive to a path, where there is an empty file.
        show: called with lines of progress.

    Returns:
        Path of a ``.tar.gz``. Valid until a few other environments have been packed.
    """
    archive = cache_dir() / f"{content_hash}.tar.gz"
    if archive.is_file():
        os.utime(archive)
        show(f"python environment {root}: packed before, {mebibytes(archive.stat().st_size)}")
        return str(archive)
    archive.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    show(f"python environment {root}: packing {summary}")
    started = time.monotonic()
    descriptor, temporary = tempfile.mkstemp(dir=archive.parent, prefix=".packing-", suffix=".tar.gz")
    os.close(descriptor)
    try:
        write(pathlib.Path(temporary))
        os.replace(temporary, archive)
    except BaseException:
        os.unlink(temporary)
        raise
    seconds = time.monotonic() - started
    show(f"python environment {root}: packed in {seconds:.1f} s, {mebibytes(archive.stat().st_size)}")
    _remove_old_archives(archive)
    return str(archive)


def _remove_old_archives(newest: pathlib.Path) -> None:
    archives = [path for path in newest.parent.glob("*.tar.gz") if not path.name.startswith(".") and path != newest]
    with contextlib.suppress(FileNotFoundError):
        archives.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in archives[_KEPT_ARCHIVES - 1 :]:
            path.unlink()
