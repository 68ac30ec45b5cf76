"""Directories that sparkray and Spark write to: /dev/shm and those for temporary files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from sparkray._private import mounts
from sparkray._private.doctor.finding import Finding, amount, error, ok, warning

_SHM = "/dev/shm"
# What others need of it; docker gives 64 MiB.
_LITTLE_SHM = 256 << 20
# Logs, spilled objects and Spark's own files go there.
_LEAST_FREE, _LITTLE_FREE = 64 << 20, 1 << 30
# Where Spark's plugin puts its library when it cannot be loaded from Java's temporary directory.
_OTHER_PLACES = ("/var/tmp", _SHM)


@dataclass(frozen=True)
class Place:
    """What a directory is like.

    Attributes:
        path: of it.
        kind: of its file system; "" when that is not known.
        is_writable: whether this process may make files in it.
        may_execute: whether programs and libraries in it may be run.
        total_bytes, free_bytes: of the file system; the free ones for this user.
        has_free_inodes: whether more files can be made.
    """

    path: str
    kind: str
    is_writable: bool
    may_execute: bool
    total_bytes: int
    free_bytes: int
    has_free_inodes: bool


def examine(environ: Mapping[str, str], root: str = "/") -> list[Finding]:
    """Looks at the directories.

    Args:
        environ: where TMPDIR is looked for.
        root: of the file system, for tests.
    """
    others = [place for path in _OTHER_PLACES if (place := look_at(path, root)) is not None]
    elsewhere = [place.path for place in others if place.is_writable and place.may_execute]
    # Python takes TMPDIR, Java /tmp.
    directories = dict.fromkeys([environ.get("TMPDIR") or "/tmp", "/tmp"])
    return [
        check_shm(look_at(_SHM, root)),
        *(check_temporary(path, look_at(path, root), elsewhere) for path in directories),
    ]


def look_at(path: str, root: str = "/") -> Place | None:
    """What a directory is like; None: it is not there.

    Args:
        path: absolute.
        root: of the file system, for tests.
    """
    real = os.path.join(root, path.lstrip("/"))
    try:
        file_system = os.statvfs(real)
    except OSError:
        return None
    if not os.path.isdir(real):
        return None
    try:
        mount = mounts.of_path(os.path.realpath(path) if root == "/" else path, root)
    except OSError:  # no /proc
        mount = None
    return Place(
        path=path,
        kind="" if mount is None else mount.kind,
        is_writable=os.access(real, os.W_OK | os.X_OK),
        may_execute=mount is None or "noexec" not in mount.options,
        total_bytes=file_system.f_blocks * file_system.f_frsize,
        free_bytes=file_system.f_bavail * file_system.f_frsize,
        # Some file systems do not count them.
        has_free_inodes=file_system.f_files == 0 or file_system.f_favail > 0,
    )


def check_shm(place: Place | None) -> Finding:
    """/dev/shm, which bounds others' shared memory and not sparkray's: its objects are in files without a name."""
    fix = "docker run --shm-size=1g, or an emptyDir with medium: Memory at /dev/shm of the pod"
    if place is None or not place.is_writable:
        what = "is not there" if place is None else "is not writable"
        return warning(_SHM, f"{what}: multiprocessing has no locks; sparkray's objects do not need it", fix)
    message = f"{place.kind or 'unknown file system'}, {amount(place.free_bytes)} of {amount(place.total_bytes)} free"
    if place.kind not in ("", "tmpfs"):
        return warning(_SHM, f"{message}: shared memory of other libraries is on a disk", "mount a tmpfs at /dev/shm")
    if place.free_bytes < _LITTLE_SHM:
        return warning(_SHM, f"{message}: little for PyTorch's DataLoader; sparkray's objects do not need it", fix)
    return ok(_SHM, f"{message}; sparkray's objects do not need it")


def check_temporary(path: str, place: Place | None, elsewhere: list[str]) -> Finding:
    """A directory for temporary files.

    Args:
        path: of it.
        place: what it is like; None: it is not there.
        elsewhere: other directories from which libraries can be loaded.
    """
    another = "set TMPDIR (Python) and -Djava.io.tmpdir (spark.driver.extraJavaOptions) to another directory"
    if place is None:
        return error(path, "is no directory", f"make it, or {another}")
    if not place.is_writable:
        return error(path, "is not writable for this user", f"chmod 1777 {path}, or {another}")
    if not place.has_free_inodes:
        return error(path, "has no free inodes: no file can be made", f"delete files, or {another}")
    message = f"{amount(place.free_bytes)} of {amount(place.total_bytes)} free"
    if place.free_bytes < _LEAST_FREE:
        return error(path, f"{message}: too little for logs and spilled objects", f"delete files, or {another}")
    if not place.may_execute:
        fix = f"mount -o remount,exec {path}, or {another}"
        if not elsewhere:
            return error(path, "is mounted noexec: Spark's plugin can load its library from no directory", fix)
        told = f"is mounted noexec: Spark's plugin uses {elsewhere[0]}, other Java libraries (snappy) may fail"
        return warning(path, told, fix)
    if place.free_bytes < _LITTLE_FREE:
        return warning(path, f"{message}: little for spilled objects and shuffles", f"delete files, or {another}")
    return ok(path, message)
