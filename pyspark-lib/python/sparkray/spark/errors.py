"""What can be wrong before a Spark application runs."""

from __future__ import annotations


class SparkSetupError(ValueError):
    """The Spark application cannot be started as asked; nothing was started. The message says what to change."""


class SparkStartError(RuntimeError):
    """Spark was asked to start and did not. The message has its reason, the cause Java's stack trace."""


class ClusterUnreachableError(SparkSetupError, ConnectionError):
    """The ResourceManager or the NameNode that the configuration names does not answer."""
