"""OrcaContext: what runs now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from sparkray import spark
from sparkray_zoo_compat.arguments import warn_ignored

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

# Settings about the start of Ray on Spark, and why nothing is lost. The others are about data and training.
_IGNORED = {
    "barrier_mode": "Ray is started in executors that are there, and by no Spark job",
    "log_output": "redirect_spark_log=False shows Spark's log, and the output of workers is shown anyway",
}


class _Settings(type):
    """Attributes of the class itself: programs set them before they start anything."""

    def __setattr__(cls, name: str, value: object) -> None:
        if name not in _IGNORED:
            raise _missing(name)
        warn_ignored("OrcaContext", {name: _IGNORED[name]})

    def __getattr__(cls, name: str) -> NoReturn:
        raise _missing(name)


class OrcaContext(metaclass=_Settings):
    """Gives the SparkContext and the RayContext of this program. Its settings ``barrier_mode`` and ``log_output`` are
    ignored with a warning; the others are not there.

    Upstream name: ``bigdl.orca.OrcaContext``, ``zoo.orca.OrcaContext``.
    """

    @staticmethod
    def get_spark_context() -> SparkContext:
        """The SparkContext that runs; RuntimeError when none does."""
        sc = running_spark()
        if sc is None:
            raise RuntimeError("no SparkContext runs: call init_orca_context() first")
        return sc

    @staticmethod
    def get_spark_session() -> SparkSession:
        """A SparkSession of the SparkContext that runs; RuntimeError when none does."""
        from pyspark.sql import SparkSession

        return SparkSession(OrcaContext.get_spark_context())

    @staticmethod
    def get_ray_context() -> spark.RayContext:
        """The RayContext of this program, whose cluster is started when there is none.

        Raises:
            RayContextError: no RayContext was made, or its cluster is lost.
        """
        return spark.RayContext.get()


def running_spark() -> Any:
    """The SparkContext that runs in this program; None when there is none."""
    from pyspark import SparkContext

    return SparkContext._active_spark_context


def _missing(name: str) -> AttributeError:
    return AttributeError(
        f"OrcaContext.{name} is not there: sparkray-zoo-compat has only what starts Ray on Spark (docs/migrating.md)"
    )
