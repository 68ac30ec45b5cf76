"""Where a local cluster keeps its logs and spilled objects: `<tmp>/sparkray-<uid>/session_<time>_<pid>_<cluster>`."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
import time
from pathlib import Path

_SESSION = re.compile(r"session_\d+-\d+_(\d+)_[0-9a-f]{8}")
# A line that tells of trouble, as `tracing` writes it.
_TROUBLE = re.compile(r"^\S+\s+(WARN|ERROR)\s", re.MULTILINE)


class Session:
    """The directory of one local cluster.

    Attributes:
        path: the directory.
        log_dir: logs of head, raylets, zygotes and workers.
    """

    def __init__(self, cluster_id: str, root: str | None = None) -> None:
        parent = _own_directory(Path(root or tempfile.gettempdir()) / f"sparkray-{os.getuid()}")
        _sweep(parent)
        name = f"session_{time.strftime('%Y%m%d-%H%M%S')}_{os.getpid()}_{cluster_id[:8]}"
        self.path = parent / name
        self.path.mkdir(mode=0o700)
        self.log_dir = self.path / "logs"
        self.log_dir.mkdir(mode=0o700)

    def spill_dir(self, node_id: str) -> Path:
        """A directory for the spilled objects of a node."""
        path = self.path / f"spill-{node_id[:8]}"
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def remove(self) -> None:
        """Removes everything, but keeps the logs when one of them tells of trouble or SPARKRAY_KEEP_LOGS is set."""
        for path in self.path.iterdir() if self.path.is_dir() else ():
            if path != self.log_dir:
                shutil.rmtree(path, ignore_errors=True)
        if os.environ.get("SPARKRAY_KEEP_LOGS") or self.has_trouble():
            return
        shutil.rmtree(self.path, ignore_errors=True)

    def has_trouble(self) -> bool:
        """Whether a log has a line of level WARN or ERROR."""
        for path in self.log_dir.glob("*.log"):
            with contextlib.suppress(OSError):
                if _TROUBLE.search(path.read_text(errors="replace")):
                    return True
        return False


def _own_directory(path: Path) -> Path:
    """Makes or checks a directory that is ours alone: /tmp belongs to everybody."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700, parents=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(
            f"{path} is not a directory that only this user may write to: remove it, or set TMPDIR to another directory"
        )
    return path


def _sweep(parent: Path) -> None:
    """Removes sessions of this user whose driver was killed, unless they keep logs that tell of trouble."""
    for path in parent.glob("session_*"):
        match = _SESSION.fullmatch(path.name)
        if match is None or os.path.exists(f"/proc/{match.group(1)}"):
            continue
        for spill in path.glob("spill-*"):
            shutil.rmtree(spill, ignore_errors=True)
        age = time.time() - path.stat().st_mtime
        if age > 7 * 24 * 3600:
            shutil.rmtree(path, ignore_errors=True)
