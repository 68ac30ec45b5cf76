"""A small file system of its own, which can be filled."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

WITHOUT = "SPARKRAY_TESTS_WITHOUT_MOUNT"


@contextlib.contextmanager
def small_disk(directory: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes at `directory`. Whoever may not mount one says so, lest nobody notices that these
    tests do not run."""
    if os.environ.get(WITHOUT) == "1":
        pytest.skip(f"{WITHOUT}=1")
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(directory)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.fail(f"there is no command mount: set {WITHOUT}=1 to go without the tests of full disks")
    if done.returncode != 0:
        pytest.fail(
            f"a file system cannot be mounted here ({done.stderr.strip()}): run the tests as root, for instance by "
            f"`unshare --user --map-root-user --mount make test`, or set {WITHOUT}=1 to go without those of full disks"
        )
    yield directory
    # Fails when anything still has a file open there.
    subprocess.run(["umount", str(directory)], check=True)
