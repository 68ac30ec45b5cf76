"""Watches an application on YARN while Spark starts it: progress, a deadline, and nothing left when it is given up.

Spark's own client polls YARN without an end and without a word, and an application that it has submitted stays in its
queue when the client goes. So another thread, with a connection of its own to the driver's Java, looks for the
application by a tag, tells where it is, and kills it when it does not start in time or the start is abandoned.

Invariants:
1. A watch that does not work never fails a start: its errors end nothing but the watch.
2. After `abort` the application is in a final state and its staging directory is gone, as far as YARN and the file
   system answer in time.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
import warnings
from collections.abc import Mapping
from typing import Any

from sparkray.spark import interruptible
from sparkray.spark.progress import Progress, print_progress
from sparkray.spark.spark_conf import START_TIMEOUT, parse_seconds, split_files

TAGS = "spark.yarn.tags"
EXECUTORS_TIMEOUT = "spark.scheduler.maxRegisteredResourcesWaitingTime"
RATIO = "spark.scheduler.minRegisteredResourcesRatio"

_POLL_SECONDS = 1.0
_EXECUTORS_POLL_SECONDS = 0.2
_PROGRESS_SECONDS = 5.0
_ABORT_SECONDS = 10.0
# A submission that was under way when the start was abandoned ends in this time.
_SUBMISSION_SECONDS = 5.0
_WAITING = ("NEW", "NEW_SAVING", "SUBMITTED", "ACCEPTED")
_FINAL = ("FINISHED", "FAILED", "KILLED")
# YARN's default for yarn.resourcemanager.application.max-tags.
_MOST_TAGS = 10
_LINE_LENGTH = 240


class ExecutorsMissingError(RuntimeError):
    """No executor came in time, or the application ended before one came."""


def with_tag(conf: Mapping[str, str]) -> tuple[dict[str, str], str | None]:
    """The configuration with one more tag for YARN, and that tag; None when YARN would not take one more."""
    tags = split_files(conf.get(TAGS))
    if len(tags) >= _MOST_TAGS:
        return dict(conf), None
    tag = f"sparkray-{uuid.uuid4().hex}"
    return {**conf, TAGS: ",".join([*tags, tag])}, tag


class StartWatch:
    """The watch over one start. Made by the thread that makes the SparkContext, right before.

    Arguments:
        jvm: the driver's Java.
        conf: the whole Spark configuration.
        tag: the tag that no other application has; None watches nothing.
        progress: takes lines to show.
    """

    def __init__(self, jvm: Any, conf: Mapping[str, str], tag: str | None, progress: Progress = print_progress) -> None:
        self._jvm = jvm
        self._conf = conf
        self._tag = tag
        self._progress = progress
        self._deadline_seconds = parse_seconds(conf.get(START_TIMEOUT, "600s"), START_TIMEOUT)
        # The Java thread that will make the SparkContext: each Python thread has one of its own.
        self._starter: Any = jvm.java.lang.Thread.currentThread()
        self._lock = threading.Lock()
        self._client: Any = None
        self._hadoop_conf: Any = None
        self._application: Any = None
        # Where Spark's client puts the application's files, when the start was abandoned.
        self._staging_directory: Any = None
        self._stop = threading.Event()
        self._watching: interruptible.Call[None] | None = None
        self._shown_at = time.monotonic()
        self._shown_state = ""
        # Why the application was killed.
        self.failure: str | None = None

    # ------------------------------------------------------------------------------------------ until it runs

    def begin(self) -> None:
        """Starts to watch."""
        if self._tag is not None:
            self._watching = interruptible.Call(self._watch, "sparkray-watch-yarn")

    def end(self) -> None:
        """Stops to watch: the application runs."""
        self._stop.set()
        if self._watching is not None:
            self._watching.join(_ABORT_SECONDS)

    def _watch(self) -> None:
        started = time.monotonic()
        submitted: float | None = None
        while not self._stop.wait(_POLL_SECONDS):
            # YARN may not answer for a while.
            with contextlib.suppress(Exception):
                now = time.monotonic()
                report = self._report()
                if report is None:
                    self._tell("", f"Spark on YARN: preparing and uploading files for {now - started:.0f} s")
                    continue
                submitted = submitted or now
                state = str(report.getYarnApplicationState().toString())
                if state not in _WAITING:
                    return
                waited = now - submitted
                self._tell(state, _where(report, state, waited))
                if 0 < self._deadline_seconds <= waited:
                    self.failure = _too_late(report, state, waited)
                    self._kill()
                    return

    def _tell(self, state: str, line: str) -> None:
        now = time.monotonic()
        if state == self._shown_state and now - self._shown_at < _PROGRESS_SECONDS:
            return
        self._shown_at, self._shown_state = now, state
        self._progress(line)

    # ------------------------------------------------------------------------------------------ until it has executors

    def wait_for_executors(self, context: Any) -> None:
        """Returns when all executors have registered; warns when only some have at the deadline.

        Raises:
            ExecutorsMissingError: none has, or the application has ended.
        """
        wanted = int(self._conf.get("spark.executor.instances", "0"))
        if float(self._conf.get(RATIO, "0")) > 0 or wanted == 0:
            # Spark itself has waited.
            return
        seconds = parse_seconds(self._conf.get(EXECUTORS_TIMEOUT, "120s"), EXECUTORS_TIMEOUT)
        self._stop.clear()
        present = interruptible.call(
            lambda: self._count_executors(context, wanted, seconds), self._stop.set, "sparkray-wait", _ABORT_SECONDS
        )
        if present >= wanted:
            return
        sentence = (
            f"{present} of {wanted} executors are there {seconds:g} s after the application {context.applicationId} "
            f"began{self._queue_words()}"
        )
        if present == 0:
            raise ExecutorsMissingError(
                f"{sentence}: ask for smaller or fewer executors, choose another queue with spark.yarn.queue, look "
                f"into the containers' logs, or wait longer with {EXECUTORS_TIMEOUT}; the application was ended"
            )
        warnings.warn(f"{sentence}; Spark goes on and takes the others when they come", RuntimeWarning, stacklevel=5)

    def _count_executors(self, context: Any, wanted: int, seconds: float) -> int:
        scala_context = context._jsc.sc()
        begun = time.monotonic()
        self._shown_at = begun
        while True:
            present = int(scala_context.getExecutorMemoryStatus().size()) - 1
            waited = time.monotonic() - begun
            if present >= wanted:
                return present
            if scala_context.isStopped():
                raise ExecutorsMissingError(self._ended_words(context.applicationId))
            if waited >= seconds or self._stop.wait(_EXECUTORS_POLL_SECONDS):
                return present
            if time.monotonic() - self._shown_at >= _PROGRESS_SECONDS:
                words = self._queue_words()
                self._shown_at = time.monotonic()
                self._progress(f"Spark on YARN: {present} of {wanted} executors after {waited:.0f} s{words}")

    def _queue_words(self) -> str:
        """How full the application's queue is, for a message."""
        with contextlib.suppress(Exception):
            report = self._report()
            queue = report.getQueue()
            used = float(self._yarn().getQueueInfo(queue).getCurrentCapacity())
            diagnostics = _one_line(report.getDiagnostics())
            return f"; {used:.0%} of its queue {queue} is in use{f', YARN says: {diagnostics}' if diagnostics else ''}"
        return ""

    def _ended_words(self, application_id: str) -> str:
        words = f"the application {application_id} ended before its executors came"
        with contextlib.suppress(Exception):
            report = self._report()
            diagnostics = _one_line(report.getDiagnostics())
            words += f" ({report.getYarnApplicationState().toString()}: {diagnostics or 'YARN gives no reason'})"
        return f"{words}: look into the containers' logs"

    # ------------------------------------------------------------------------------------------ the end

    def abort(self) -> None:
        """Leaves no application behind. Waits ten seconds at most."""
        self._stop.set()
        if self._tag is not None:
            interruptible.Call(self._abort, "sparkray-abort-yarn").join(_ABORT_SECONDS)

    def _abort(self) -> None:
        deadline = time.monotonic() + _SUBMISSION_SECONDS
        while self._report() is None:
            self._stop_submission()
            if not self._is_starting() or time.monotonic() > deadline:
                # Once more: it may have been submitted, or have made its directory, between the two looks.
                self._stop_submission()
                if self._report() is None:
                    return
                break
            threading.Event().wait(_EXECUTORS_POLL_SECONDS)
        self._kill()

    def _stop_submission(self) -> None:
        """Spark's client stops to wait, or to upload.

        An upload to HDFS goes on when its thread is interrupted, but ends in an error when its file is gone. Spark's
        client then removes the directory itself; not when the call that makes it arrives after that.
        """
        with contextlib.suppress(Exception):
            self._starter.interrupt()
        self._find_staging_directory()
        with contextlib.suppress(Exception):
            self._remove_staging_directory()

    def _is_starting(self) -> bool:
        frames = self._starter.getStackTrace()
        return any("org.apache.spark.SparkContext.<init>" in str(frame.toString()) for frame in frames)

    def _kill(self) -> None:
        report = self._report()
        if str(report.getYarnApplicationState().toString()) not in _FINAL:
            # Returns when it is in a final state.
            self._yarn().killApplication(report.getApplicationId())
        self._remove_staging_directory()

    def _find_staging_directory(self) -> None:
        """Asks Spark's client, which exists before YARN knows the application; its accessors are public for Java."""
        with contextlib.suppress(Exception):
            if self._staging_directory is None:
                companion = self._jvm.java.lang.Class.forName("org.apache.spark.SparkContext$")
                field = companion.getDeclaredField("contextBeingConstructed")
                field.setAccessible(True)
                backend = field.get(companion.getField("MODULE$").get(None)).get().schedulerBackend()
                client = getattr(backend, f"{_accessor(backend)}client")()
                self._staging_directory = getattr(client, f"{_accessor(client)}stagingDirPath")()

    def _remove_staging_directory(self) -> None:
        if self._conf.get("spark.yarn.preserve.staging.files", "false").lower() == "true":
            return
        directory = self._staging_directory
        if directory is None and self._application is not None:
            directory = self._staging_directory_of(str(self._application.toString()))
        if directory is not None:
            directory.getFileSystem(self._hadoop_conf).delete(directory, True)

    def _staging_directory_of(self, application_id: str) -> Any:
        """Where Spark's client puts the files of an application."""
        path_of = self._jvm.org.apache.hadoop.fs.Path
        given = self._conf.get("spark.yarn.stagingDir")
        if given:
            user = self._jvm.org.apache.hadoop.security.UserGroupInformation.getCurrentUser().getShortUserName()
            base = path_of(path_of(given), user)
        else:
            base = self._jvm.org.apache.hadoop.fs.FileSystem.get(self._hadoop_conf).getHomeDirectory()
        return path_of(base, f".sparkStaging/{application_id}")

    def close(self) -> None:
        """The application has started: YARN is not asked any more."""
        with contextlib.suppress(Exception), self._lock:
            if self._client is not None:
                self._client.stop()

    # ------------------------------------------------------------------------------------------ YARN

    def _yarn(self) -> Any:
        with self._lock:
            if self._client is None:
                spark_conf = self._jvm.org.apache.spark.SparkConf()
                hadoop_conf = self._jvm.org.apache.spark.deploy.SparkHadoopUtil.get().newConfiguration(spark_conf)
                self._hadoop_conf = self._jvm.org.apache.hadoop.yarn.conf.YarnConfiguration(hadoop_conf)
                client = self._jvm.org.apache.hadoop.yarn.client.api.YarnClient.createYarnClient()
                client.init(self._hadoop_conf)
                client.start()
                self._client = client
            return self._client

    def _report(self) -> Any:
        """YARN's report of the application, None before it is submitted."""
        client = self._yarn()
        if self._application is None:
            protocol = self._jvm.org.apache.hadoop.yarn.api.protocolrecords
            tags = self._jvm.java.util.HashSet()
            tags.add(self._tag)
            request = protocol.GetApplicationsRequest.newInstance()
            request.setApplicationTags(tags)
            found = client.getApplications(request)
            if found.isEmpty():
                return None
            self._application = found.get(0).getApplicationId()
        return client.getApplicationReport(self._application)


def _accessor(instance: Any) -> str:
    """What Scala's compiler puts before the names of private members that others see."""
    return f"{instance.getClass().getName().replace('.', '$')}$$"


def _where(report: Any, state: str, waited: float) -> str:
    diagnostics = _one_line(report.getDiagnostics())[:_LINE_LENGTH]
    return (
        f"Spark on YARN: {report.getApplicationId().toString()} is {state} in queue {report.getQueue()} for "
        f"{waited:.0f} s{f': {diagnostics}' if diagnostics else ''}"
    )


def _too_late(report: Any, state: str, waited: float) -> str:
    diagnostics = _one_line(report.getDiagnostics())
    return (
        f"YARN did not start {report.getApplicationId().toString()} in {waited:.0f} s: it is {state} in queue "
        f"{report.getQueue()}{f' ({diagnostics})' if diagnostics else ''}, and was ended; wait until the queue has "
        f"room, choose another with spark.yarn.queue, ask for less, or wait longer with {START_TIMEOUT}"
    )


def _one_line(text: Any) -> str:
    return " ".join(str(text or "").split())
