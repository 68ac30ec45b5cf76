"""What is mounted where, as the kernel tells this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Mount:
    """One line of /proc/self/mountinfo.

    Attributes:
        place: where it is mounted.
        root: which part of the file system is there.
        kind: of file system, such as "tmpfs".
        options: of this place, such as "noexec".
        options_of_file_system: those of the file system, wherever it is mounted.
    """

    place: str
    root: str
    kind: str
    options: frozenset[str]
    options_of_file_system: str


def read(root: str = "/") -> Iterator[Mount]:
    """All that is mounted, in the order in which that was done. Raises OSError.

    Args:
        root: of the file system, for tests.
    """
    with open(os.path.join(root, "proc/self/mountinfo"), encoding="utf-8", errors="replace") as file:
        lines = file.read().splitlines()
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 6 or not kind:
            continue
        yield Mount(_unescaped(fields[4]), _unescaped(fields[3]), kind[0], frozenset(fields[5].split(",")), kind[-1])


def of_path(path: str, root: str = "/") -> Mount | None:
    """On which a path is: the one with the longest name, of several the last.

    Args:
        path: absolute, without symbolic links.
        root: of the file system, for tests.
    """
    found: Mount | None = None
    for mount in read(root):
        is_above = (path + "/").startswith(mount.place.rstrip("/") + "/")
        if is_above and (found is None or len(mount.place) >= len(found.place)):
            found = mount
    return found


def _unescaped(text: str) -> str:
    return text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
