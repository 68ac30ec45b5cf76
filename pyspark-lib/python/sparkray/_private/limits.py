"""What this process may use of its machine: the one place that reads the limits of its container.

A container is bounded by control groups, which are nested: each level may have a limit of its own, and the smallest
one holds. Version 1 has a hierarchy for each kind of resource, version 2 one for all; both may be mounted, anywhere.
Inside a container the path of the process may be said relative to the machine, of which the container sees a part only;
then the part that it sees is taken.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from sparkray._private import mounts

_MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class _Mount:
    """A hierarchy of control groups that can be read."""

    # Where it is, and which part of the hierarchy is there.
    place: str
    root: str
    # Of version 1; empty for version 2.
    controllers: frozenset[str]


def cpus(root: str = "/") -> int:
    """CPUs that this process may use at a time, at least 1: those that it may run on, and of which its quota pays.

    Args:
        root: of the file system, for tests.
    """
    allowed = len(os.sched_getaffinity(0))
    quota = cpu_quota(root)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def cpu_quota(root: str = "/") -> float | None:
    """CPUs' worth of time that the smallest quota allows; None: as much as there is."""
    quotas: list[float] = []
    for directory in _groups("cpu", root):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = _read(directory, "cpu.max").split()
            quotas.append(int(quota) / int(period))
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            limit = int(_read(directory, "cpu.cfs_quota_us"))
            if limit > 0:
                quotas.append(limit / int(_read(directory, "cpu.cfs_period_us")))
    return min(quotas, default=None)


def available_memory(root: str = "/") -> int:
    """Bytes that this process may still use: what the kernel has, within the limits of its groups.

    Args:
        root: of the file system, for tests.
    """
    available = 1024 * _MEBIBYTE
    with contextlib.suppress(OSError, ValueError):
        for line in _read(root, "proc/meminfo").splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    for directory in _groups("memory", root):
        for limit, used, cache in (
            ("memory.max", "memory.current", "inactive_file "),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "),
        ):
            with contextlib.suppress(OSError, ValueError):
                left = int(_read(directory, limit)) - int(_read(directory, used)) + _counted(directory, cache)
                available = min(available, max(0, left))
    return available


def processes_left(root: str = "/") -> int | None:
    """Processes and threads that the groups of this process still allow; None: they set no limit.

    Args:
        root: of the file system, for tests.
    """
    left: list[int] = []
    for directory in _groups("pids", root):
        with contextlib.suppress(OSError, ValueError):
            left.append(max(0, int(_read(directory, "pids.max")) - int(_read(directory, "pids.current"))))
    return min(left, default=None)


def _counted(directory: str, name: str) -> int:
    """Of the memory in use, what the kernel gives up by itself: pages of files that nobody has read for a while."""
    with contextlib.suppress(OSError, ValueError):
        for line in _read(directory, "memory.stat").splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0


def _groups(controller: str, root: str) -> Iterator[str]:
    """Directories of the groups of this process that may limit a kind of resource, with those that they are in."""
    try:
        lines = _read(root, "proc/self/cgroup").splitlines()
        hierarchies = list(_mounts(root))
    except OSError:
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        for mount in hierarchies:
            of_version_2 = not names and not mount.controllers
            if not of_version_2 and not (controller in names.split(",") and controller in mount.controllers):
                continue
            top = os.path.join(root, mount.place.lstrip("/"))
            directory = os.path.normpath(os.path.join(top, _inside(path, mount.root)))
            if not os.path.isdir(directory):
                directory = os.path.normpath(top)
            while True:
                yield directory
                if directory == os.path.normpath(top):
                    break
                directory = os.path.dirname(directory)


def _inside(path: str, root: str) -> str:
    """The path of a group below what is mounted of its hierarchy."""
    if root != "/" and (path + "/").startswith(root + "/"):
        path = path[len(root) :]
    # Above what a container sees: "/../..".
    return "/".join(part for part in path.split("/") if part not in ("", ".."))


def _mounts(root: str) -> Iterator[_Mount]:
    for mount in mounts.read(root):
        if mount.kind in ("cgroup", "cgroup2"):
            of_version_1 = mount.kind == "cgroup"
            controllers = frozenset(mount.options_of_file_system.split(",")) if of_version_1 else frozenset()
            yield _Mount(mount.place, mount.root, controllers)


def _read(directory: str, name: str) -> str:
    with open(os.path.join(directory, name), encoding="utf-8", errors="replace") as file:
        return file.read()
