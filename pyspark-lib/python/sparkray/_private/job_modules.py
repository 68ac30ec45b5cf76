"""Modules that a driver can import since its cluster was started: `sys.path` changed, or Spark got another file.

The driver publishes its path (module_path.describe) in the head's table when it connects, and when it has changed
before a function, a class or an object is pickled. Each pickled function and class begins with the digest of what was
published then; a worker that has another one looks it up first. So in the usual case nothing is asked. A module that a
worker does not find is looked for once more after asking for what was published last: code that was sent long ago may
import what has come since.

Spark's files (`sc.addPyFile`) are in a directory of the driver. Workers that can read it do. The contents are published
too, as objects, for workers on other machines, which write them into their working directory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.machinery
import os
import pickle
import queue
import sys
import threading
import time
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sparkray._private import module_path

if TYPE_CHECKING:
    from sparkray._native import CoreWorker, ObjectRef

DIGEST_BYTES = 16
# How long a module that is not found waits for an answer, and for how long others do not ask when none has come.
_ANSWER_SECONDS = 1.0
_SILENCE_SECONDS = 30.0
_ARCHIVES = (".zip", ".egg", ".jar")


def _key(core: CoreWorker) -> bytes:
    return b"sparkray/modules/" + core.job_id.encode()


# ------------------------------------------------------------------------------------------- the driver


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a driver's modules come from beside its `sys.path`.

    Attributes:
        first: what comes before it in workers.
        files_root: the directory of Spark's files; None without Spark.
        ship_files: whether workers may be on machines that do not have that directory.
    """

    first: tuple[module_path.Entry, ...] = ()
    files_root: str | None = None
    ship_files: bool = False

    def entries(self) -> list[module_path.Entry]:
        """Where workers find modules now."""
        return [*self.first, *module_path.describe(sys.path, self.files_root)]


class _Driver:
    """What this process has published as a driver."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.core: CoreWorker | None = None
        self.path: list[Any] = []
        # What relative entries of the path are relative to; None when there are none.
        self.directory: str | None = None
        self.digest = b""
        self.origin = Origin()
        # By name: size and time, digest of the content, the content.
        self.files: dict[str, tuple[tuple[int, int], str, ObjectRef[bytes]]] = {}


_driver = _Driver()


def begin(core: CoreWorker, origin: Origin) -> None:
    """This process is now the driver of a job.

    Args:
        core: its connection.
        origin: what its modules come from.
    """
    with _driver.lock:
        _driver.core, _driver.origin = core, origin
        _driver.files = {}
        _publish(core)


def end() -> None:
    """It is no driver any more."""
    with _driver.lock:
        _driver.core = None
        _driver.files = {}


def publish_changes(files_too: bool = False) -> None:
    """Before something is pickled that workers may not be able to import. Does nothing in a worker.

    Args:
        files_too: also when only the content of Spark's files may have changed.
    """
    if _driver.core is None:
        return
    moved = _driver.directory is not None and _directory() != _driver.directory
    if not files_too and not moved and sys.path == _driver.path:
        return
    with _driver.lock:
        if _driver.core is not None:
            _publish(_driver.core)


def _publish(core: CoreWorker) -> None:
    path, entries = list(sys.path), _driver.origin.entries()
    _find_files(core)
    files = [(name, digest, pickle.dumps(content)) for name, (_, digest, content) in sorted(_driver.files.items())]
    digest = module_path.digest_of(entries, " ".join(name + digest for name, digest, _ in files))
    core.kv_put(_key(core), pickle.dumps((digest, entries, files)))
    _driver.path, _driver.digest, _driver.directory = path, digest, _directory()


def _directory() -> str | None:
    relative = any(isinstance(entry, str) and not entry.startswith(os.sep) for entry in sys.path)
    try:
        return os.getcwd() if relative else None
    except FileNotFoundError:  # it was deleted
        return None


def _find_files(core: CoreWorker) -> None:
    root = _driver.origin.files_root
    if root is None or not _driver.origin.ship_files:
        return
    found: dict[str, tuple[tuple[int, int], str, ObjectRef[bytes]]] = {}
    for name in os.listdir(root):
        path = os.path.join(root, name)
        if not name.endswith(".py") and not (name.endswith(_ARCHIVES) and path in sys.path):
            continue
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(path)
            stamp = (status.st_size, status.st_mtime_ns)
            known = _driver.files.get(name)
            if known is None or known[0] != stamp:
                with open(path, "rb") as file:
                    content = file.read()
                known = (stamp, hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest(), core.put(content))
            found[name] = known
    _driver.files = found


def digest() -> bytes:
    """What a pickled function or class begins with."""
    if _driver.core is None:
        return module_path.taken.digest.rjust(DIGEST_BYTES, b"\0")
    publish_changes()
    return _driver.digest


# ------------------------------------------------------------------------------------------- workers


class _Worker:
    """What this worker knows of what was published."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.core: CoreWorker | None = None
        self.directory = ""
        # Digests that code came with and for which the newest was looked up, by job.
        self.seen: set[tuple[str, bytes]] = set()


_worker = _Worker()


def begin_worker(core: CoreWorker) -> None:
    """This process is a worker."""
    _worker.core = core
    try:
        directory = os.getcwd()
    except FileNotFoundError:  # it was deleted since the zygote began in it
        directory = os.sep
        os.chdir(directory)
    _worker.directory = os.path.join(directory, f".sparkray-files-{core.cluster_id[:8]}")
    sys.meta_path.append(_LateFinder())


def _after_fork_in_child() -> None:
    """A process that user code forks is neither driver nor worker."""
    _driver.__init__()  # type: ignore[misc]
    _worker.__init__()  # type: ignore[misc]


os.register_at_fork(after_in_child=_after_fork_in_child)


def before(blob: bytes) -> None:
    """A pickled function or class is about to be loaded, or what it is called with: has it find its modules."""
    core = _worker.core
    if core is None:
        return
    wanted = bytes(blob[:DIGEST_BYTES])
    if wanted == module_path.taken.digest or (core.job_id, wanted) in _worker.seen:
        return
    with _worker.lock:
        published = core.kv_get(_key(core))
        if published is not None:
            _take(core, published)
        _worker.seen.add((core.job_id, wanted))


def _take(core: CoreWorker, published: bytes) -> bool:
    """Finds modules by what was published; whether that is something else than before."""
    digest, entries, files = pickle.loads(published)
    if digest == module_path.taken.digest:
        return False
    files_root = _write_files(core, entries, files)
    path = module_path.resolve(entries, module_path.taken.own, files_root)
    module_path.take_later(path, digest)
    return True


def _write_files(
    core: CoreWorker, entries: Sequence[module_path.Entry], files: Sequence[tuple[str, str, bytes]]
) -> str | None:
    """Where Spark's files are on this machine, if the driver's directory is not here; None: nowhere."""
    if not files or any(how == "files" and module_path.has_files(where[0]) for how, _, *where in entries):
        return None
    together = hashlib.blake2b(repr([file[:2] for file in files]).encode(), digest_size=8).hexdigest()
    directory = os.path.join(_worker.directory, together)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    for name, _, reference in files:
        target = os.path.join(directory, name)
        if os.path.exists(target):
            continue
        content = core.get([pickle.loads(reference)], None)[0]
        unfinished = f"{target}.{os.getpid()}"
        with open(unfinished, "wb") as file:
            file.write(content)
        os.replace(unfinished, target)  # other workers of this node write the same
    return directory


class _LateFinder:
    """Asked after all others: looks once more when the driver has published something since.

    Programs try to import what need not be there, so this may not wait for a head that does not answer: once it has not
    answered in time, it is left alone for a while.
    """

    def __init__(self) -> None:
        self._not_before = 0.0

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See importlib.abc.MetaPathFinder."""
        core = _worker.core
        if core is None or path is not None or time.monotonic() < self._not_before:
            return None
        with _worker.lock:
            try:
                published = self._newest(core)
                if published is None or not _take(core, published):
                    return None
            except Exception:  # the cluster ends, for example: the module is not found, as before
                return None
        return importlib.machinery.PathFinder.find_spec(name)

    def _newest(self, core: CoreWorker) -> bytes | None:
        answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(core.kv_get(_key(core)))
            except Exception:  # the cluster ends
                answers.put(None)

        threading.Thread(target=ask, name="sparkray-modules", daemon=True).start()
        try:
            return answers.get(timeout=_ANSWER_SECONDS)
        except queue.Empty:
            self._not_before = time.monotonic() + _SILENCE_SECONDS
            return None
