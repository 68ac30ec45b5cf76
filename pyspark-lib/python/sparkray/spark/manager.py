"""The managers inside Spark's JVMs, as Python calls them: org.sparkray.RayContext by py4j."""

from __future__ import annotations

import contextlib
import os
import pathlib
import queue
import tempfile
import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sparkray import _native
from sparkray.spark import attach
from sparkray.spark.errors import RayContextError

if TYPE_CHECKING:
    from pyspark import SparkContext

_CANCEL_SECONDS = 5.0
# Of a cluster's id.
_ID_BYTES = 16


def spark_context_of(given: Any) -> SparkContext:
    """The SparkContext itself, or that of a SparkSession.

    Raises:
        RayContextError: it is stopped, or a Spark Connect session, which has none.
        TypeError: it is something else.
    """
    from pyspark import SparkContext

    if type(given).__module__.startswith("pyspark.sql.connect"):
        raise RayContextError(
            "this is a Spark Connect session: its driver runs elsewhere and Python has no SparkContext there, so no "
            "cluster can be attached; start Spark with init_spark_on_yarn, or with a classic SparkSession"
        )
    context = given if isinstance(given, SparkContext) else getattr(given, "sparkContext", None)
    if not isinstance(context, SparkContext):
        raise TypeError(f"RayContext needs a SparkContext, not {type(given).__name__}")
    check_alive(context)
    return context


def check_alive(context: SparkContext) -> None:
    """Raises RayContextError when the SparkContext was stopped."""
    java_context: Any = getattr(context, "_jsc", None)
    stopped = java_context is None
    if not stopped:
        try:
            stopped = bool(java_context.sc().isStopped())
        except Exception as error:
            raise RayContextError(f"Spark's driver does not answer any more ({error}): start a new one") from error
    if stopped:
        raise RayContextError("the SparkContext was stopped: start a new one, and a RayContext for it")


class Manager:
    """The driver's manager."""

    def __init__(self, context: SparkContext, java_context: Any) -> None:
        self._spark = context
        self._java = java_context

    @classmethod
    def find(cls, context: SparkContext) -> Manager:
        """The manager of a SparkContext. One that was started without the plugin is given what the plugin brings.

        Raises:
            RayContextError: it cannot be given that.
            SparkSetupError: this sparkray was installed without its jar.
        """
        jvm: Any = context._jvm
        java_class = attach.find_class(jvm)
        found = None if java_class is None else cls._call(java_class.current)
        if found is None:
            found = cls._call(attach.attach, context._jsc, jvm)
        return cls(context, found)

    def init(self, request: dict[str, Any]) -> dict[str, Any]:
        """Starts a cluster. The result holds the token. When it fails, nothing of the cluster is left; another one that
        runs already is not touched.

        Arguments:
            request: what `_native.encode_init_request` needs but for the cluster's id, and allow_unauthenticated_spark.

        Returns:
            What `_native.decode_init_result` returns.

        Java is called from another thread, so that Ctrl-C works: pyspark's handler for it talks to Java itself, which
        it cannot while this thread waits for an answer from there.
        """
        cluster_id = os.urandom(_ID_BYTES).hex()
        answers: queue.SimpleQueue[dict[str, Any] | BaseException] = queue.SimpleQueue()
        cancelled = threading.Event()

        def call() -> None:
            try:
                answers.put(self._init({**request, "cluster_id": cluster_id}))
                if cancelled.is_set():
                    # The stop came before Java had begun.
                    self.stop(cluster_id)
            except BaseException as error:
                answers.put(error)

        thread = threading.Thread(target=call, name="sparkray-init", daemon=True)
        thread.start()
        try:
            answer = answers.get()
        except BaseException:
            # Cancels the start, upon which the thread ends.
            cancelled.set()
            self.stop(cluster_id)
            thread.join(_CANCEL_SECONDS)
            raise
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def status(self) -> dict[str, Any]:
        """What `_native.decode_status` returns."""
        return _native.decode_status(self._call(self._java.status))

    def takes_sparks_memory(self) -> bool:
        """Whether nobody has set memory aside for Ray in the executors' containers, if they are such. Only where the
        SparkContext was started without the plugin; with it, that is an error."""
        return bool(self._call(self._java.takesSparksMemory))

    def _init(self, request: dict[str, Any]) -> dict[str, Any]:
        """Request and result go through files that only this user can read: they hold secrets, and py4j logs what it
        carries."""
        directory = self._call(self._java.workDirectory)
        options = dict(request)
        allow_unauthenticated = options.pop("allow_unauthenticated_spark")
        with tempfile.TemporaryDirectory(dir=directory, prefix="init-") as name:
            question, answer = pathlib.Path(name, "request"), pathlib.Path(name, "result")
            question.touch(0o600)
            question.write_bytes(_native.encode_init_request(**options))
            self._call(
                self._java.initWithFiles,
                str(question),
                str(answer),
                options["cluster_id"],
                allow_unauthenticated,
            )
            return _native.decode_init_result(answer.read_bytes())

    def stop(self, cluster_id: str) -> None:
        """Ends a cluster, also one that is starting. Does nothing when it is not the current one, and when Spark's
        driver is gone: it took the cluster with it. Warns when it cannot be sure that all processes have ended."""
        with contextlib.suppress(RayContextError):
            unanswered = _native.decode_stop_result(self._call(self._java.stop, cluster_id))
            if unanswered:
                warnings.warn(
                    f"cluster {cluster_id} was stopped, but these have not said that their processes ended: "
                    f"{', '.join(unanswered)}; the processes end when the connection to them does",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def stop_before_spark(self, stop: Callable[[], None]) -> None:
        """Has `stop` called by the SparkContext's own stop(), ahead of it."""
        context: Any = self._spark
        stop_spark = type(context).stop

        def stop_both() -> None:
            del context.stop
            try:
                stop()
            finally:
                stop_spark(context)

        context.stop = stop_both

    def publish_after_files(self) -> None:
        """Has the SparkContext's own addPyFile() tell workers of the file."""
        from sparkray._private import job_modules

        context: Any = self._spark
        add = type(context).addPyFile

        def add_and_publish(path: str) -> None:
            add(context, path)
            job_modules.publish_changes(files_too=True)

        context.addPyFile = add_and_publish

    @staticmethod
    def _call(method: Callable[..., Any], *arguments: Any) -> Any:
        from py4j.protocol import Py4JError, Py4JJavaError

        try:
            return method(*arguments)
        except Py4JJavaError as error:
            message = error.java_exception.getMessage() or str(error.java_exception)
            raise RayContextError(message) from None
        except (Py4JError, OSError) as error:
            raise RayContextError(f"Spark's driver does not answer any more ({error}): start a new one") from error
