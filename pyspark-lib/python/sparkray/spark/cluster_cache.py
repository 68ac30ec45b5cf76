"""Packed environments that are kept on the cluster's file system, so that a second start uploads nothing.

Each is ``<hash>.tar.gz`` in a directory of its user, from where YARN takes it to the hosts. YARN refuses a file that
has changed since an application named it, so an archive is never written again, nor touched: when it was used last is
the time of an empty directory beside it.

Invariants:
1. What has an archive's name is whole: an upload goes to another name, and is renamed when it is complete.
2. Nobody but its user can have written an archive that is used.
3. A start marks an archive as used before it looks for it, and one that deletes looks at the mark right before.
4. What does not work here costs a start nothing but a warning: then Spark uploads the archive itself.
"""

from __future__ import annotations

import dataclasses
import os
import re
import threading
import time
import uuid
import warnings
from collections.abc import Mapping
from typing import Any

from sparkray.spark import interruptible
from sparkray.spark.java_errors import one_line
from sparkray.spark.progress import ByteProgress, Progress, mebibytes, print_progress
from sparkray.spark.spark_conf import ENVIRONMENT_CACHE, ENVIRONMENT_NAME, split_files

ARCHIVES = "spark.yarn.dist.archives"
# In the user's home directory; RayConf.java declares the setting.
DEFAULT_DIRECTORY = ".sparkray/environments"

_OFF = ("", "false")
_KEPT_ARCHIVES = 4
# An application of this age has its containers, and what an upload left is nobody's any more.
_YOUNG_SECONDS = 86400.0
_ARCHIVE = re.compile(r"[0-9a-f]{32}\.tar\.gz")
_MARK = ".used"
_TEMPORARY = ".uploading-"
_BUFFER_BYTES = 1 << 20
_POLL_SECONDS = 0.2
_CANCEL_SECONDS = 10.0
_OTHERS_MAY_WRITE = 0o022


class _UnusableError(Exception):
    """The cache cannot be used. The message says why."""


def place(jvm: Any, archive: str, show: Progress = print_progress) -> dict[str, str]:
    """Has YARN take an environment from the cluster's file system, where it is brought to if it is not there.

    Arguments:
        jvm: the driver's Java, before it has a SparkContext.
        archive: path of the archive on this machine, one of ``environment.pack_environment``. It is among the archives
            that Java was started with.
        show: called with lines of progress.

    Returns:
        Settings for the SparkContext, over those that Java was started with. None when ``spark.ray.environment.cache``
        says so, and, with a warning, when the archive cannot be kept there.

    When the call is interrupted, what was uploaded is removed.
    """
    conf = jvm.org.apache.spark.SparkConf()
    given = str(conf.get(ENVIRONMENT_CACHE, DEFAULT_DIRECTORY)).strip()
    if given.lower() in _OFF:
        return {}
    placing = _Placing(jvm, conf, given, archive, show)
    try:
        uri = interruptible.call(placing.run, placing.cancel, "sparkray-environment", _CANCEL_SECONDS)
    except Exception as error:
        warnings.warn(
            f"the Python environment is not kept on the cluster ({one_line(error)}), so Spark uploads it for this "
            f"application only; set {ENVIRONMENT_CACHE} to a directory that can be used, or to false",
            RuntimeWarning,
            stacklevel=5,
        )
        return {}
    return {} if uri is None else {ARCHIVES: with_environment(str(conf.get(ARCHIVES, "")), uri)}


def with_environment(archives: str, uri: str) -> str:
    """A list of archives as Spark has it, in which the environment is another file."""
    entries = split_files(archives)
    name = f"#{ENVIRONMENT_NAME}"
    return ",".join(f"{uri}{name}" if entry.endswith(name) else entry for entry in entries)


def removable(times: Mapping[str, float], now: float) -> list[str]:
    """What may be deleted of the files of a cache.

    Kept are the archives that were used last, and all that were used within a day.

    Arguments:
        times: seconds since 1970 by the name of each file: when it was written, and for marks when they were set.
        now: the time of now.

    Returns:
        Their names; the mark of an archive goes with it. What the cache has not made is not among them.
    """
    archives = [name for name in times if _ARCHIVE.fullmatch(name)]
    used = {name: max(times[name], times.get(name + _MARK, 0.0)) for name in archives}
    archives.sort(key=lambda name: used[name], reverse=True)
    old = [name for name in archives[_KEPT_ARCHIVES:] if now - used[name] > _YOUNG_SECONDS]
    for name, written in times.items():
        archive = name.removesuffix(_MARK)
        is_lone_mark = name != archive and _ARCHIVE.fullmatch(archive) is not None and archive not in used
        if (is_lone_mark or name.startswith(_TEMPORARY)) and now - written > _YOUNG_SECONDS:
            old.append(name)
    return old


@dataclasses.dataclass
class _Placing:
    """One start's use of the cache."""

    _jvm: Any
    _conf: Any
    _given: str
    _archive: str
    _show: Progress
    _cancelled: threading.Event = dataclasses.field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Has an upload end in an error."""
        self._cancelled.set()

    def run(self) -> str | None:
        """The URI of the archive on the cluster; None when Spark would copy it from there."""
        files = self._jvm.org.apache.hadoop.fs
        hadoop_conf = self._jvm.org.apache.spark.deploy.SparkHadoopUtil.get().newConfiguration(self._conf)
        default = files.FileSystem.get(hadoop_conf)
        directory = files.Path(default.getHomeDirectory(), self._given)
        self._files: Any = directory.getFileSystem(hadoop_conf)
        self._directory: Any = self._files.makeQualified(directory)
        if not self._is_taken_from_there(default, hadoop_conf):
            return None
        self._check_directory()
        name = os.path.basename(self._archive)
        target = self._path(name)
        self._mark(name)
        if self._files.exists(target):
            self._check_owner(self._files.getFileStatus(target))
            self._show(f"python environment: on the cluster already, {target.toString()}")
        else:
            self._upload(target)
        self._remove_old()
        return str(target.toUri().toString())

    def _is_taken_from_there(self, default: Any, hadoop_conf: Any) -> bool:
        """Whether YARN takes files from there itself: Spark copies what is not on the file system of its staging."""
        given = str(self._conf.get("spark.yarn.stagingDir", ""))
        staging = self._jvm.org.apache.hadoop.fs.Path(given).getFileSystem(hadoop_conf) if given else default
        if not staging.getUri().equals(self._files.getUri()):
            raise _UnusableError(
                f"{self._directory.toString()} is not on the file system of Spark's staging directories, "
                f"{staging.getUri().toString()}"
            )
        return str(self._files.getUri().getScheme()) != "file"

    def _path(self, name: str) -> Any:
        return self._jvm.org.apache.hadoop.fs.Path(self._directory, name)

    # ------------------------------------------------------------------------------------------ whose it is

    def _check_directory(self) -> None:
        if not self._files.exists(self._directory):
            self._files.mkdirs(self._directory)
            self._files.setPermission(self._directory, self._permission("700"))
        self._check_owner(self._files.getFileStatus(self._directory))

    def _permission(self, octal: str) -> Any:
        return self._jvm.org.apache.hadoop.fs.permission.FsPermission(octal)

    def _check_owner(self, status: Any) -> None:
        """Executors run what is in an archive, with all that its user may do."""
        user = str(self._jvm.org.apache.hadoop.security.UserGroupInformation.getCurrentUser().getShortUserName())
        path, owner, permission = status.getPath().toString(), str(status.getOwner()), status.getPermission()
        if owner != user:
            raise _UnusableError(f"{path} belongs to {owner}, and this program runs as {user}")
        if int(permission.toShort()) & _OTHERS_MAY_WRITE:
            raise _UnusableError(f"others may write to {path}, which is {permission.toString()}")

    # ------------------------------------------------------------------------------------------ there and away

    def _mark(self, name: str) -> None:
        mark = self._path(name + _MARK)
        self._files.mkdirs(mark)
        self._files.setTimes(mark, int(time.time() * 1000), -1)

    def _upload(self, target: Any) -> None:
        size = os.path.getsize(self._archive)
        self._show(f"python environment: uploading {mebibytes(size)} to {self._directory.toString()}")
        progress = ByteProgress("python environment: uploaded", size, self._show)
        started = time.monotonic()
        temporary = self._path(_TEMPORARY + uuid.uuid4().hex)
        source = self._jvm.java.io.FileInputStream(self._archive)
        try:
            sink = self._files.create(temporary)
            try:
                self._files.setPermission(temporary, self._permission("600"))
                self._copy(source, sink, progress)
                if int(sink.getPos()) != size:
                    raise _UnusableError(f"{self._archive} has changed while it was uploaded")
            finally:
                sink.close()
            # Not renamed where another start was quicker: it has the same content.
            if not self._files.rename(temporary, target) and not self._files.exists(target):
                raise _UnusableError(f"{temporary.toString()} cannot be renamed to {target.toString()}")
        finally:
            source.close()
            self._files.delete(temporary, False)
        self._show(f"python environment: uploaded in {time.monotonic() - started:.1f} s, {target.toString()}")

    def _copy(self, source: Any, sink: Any, progress: ByteProgress) -> None:
        copy = self._jvm.org.apache.hadoop.io.IOUtils.copyBytes
        copying = interruptible.Call(lambda: copy(source, sink, _BUFFER_BYTES, False), "sparkray-upload")
        while not copying.join(_POLL_SECONDS):
            if self._cancelled.is_set():
                # The next read is an error.
                source.close()
            progress.set(int(sink.getPos()))
        copying.result()

    def _remove_old(self) -> None:
        times = {}
        for status in self._files.listStatus(self._directory):
            times[str(status.getPath().getName())] = int(status.getModificationTime()) / 1000
        for name in removable(times, time.time()):
            if _ARCHIVE.fullmatch(name):
                if self._is_marked(name):
                    continue
                self._files.delete(self._path(name), False)
                name += _MARK
            self._files.delete(self._path(name), True)

    def _is_marked(self, name: str) -> bool:
        """Whether a start has marked it meanwhile."""
        mark = self._path(name + _MARK)
        if not self._files.exists(mark):
            return False
        return time.time() - int(self._files.getFileStatus(mark).getModificationTime()) / 1000 < _YOUNG_SECONDS
