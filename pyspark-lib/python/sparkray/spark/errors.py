"""What can be wrong with a Spark application, and with a cluster on it."""

from __future__ import annotations


class SparkSetupError(ValueError):
    """The Spark application cannot be started as asked; nothing was started. The message says what to change."""


class SparkStartError(RuntimeError):
    """Spark was asked to start and did not. The message has its reason, the cause Java's stack trace."""


class ClusterUnreachableError(SparkSetupError, ConnectionError):
    """The ResourceManager or the NameNode that the configuration names does not answer."""


class RayContextError(RuntimeError):
    """A Ray cluster cannot be started, is not there, or was lost. The message says why and what to do."""
