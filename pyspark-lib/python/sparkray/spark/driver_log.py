"""Sends the log of the driver's JVM to a file."""

from __future__ import annotations

import pathlib
import tempfile

LOG_NAME = "sparkray-spark.log"
LEVELS = ("ALL", "DEBUG", "ERROR", "FATAL", "INFO", "OFF", "TRACE", "WARN")

_PROPERTIES = """\
rootLogger.level = {level}
rootLogger.appenderRef.file.ref = file
appender.file.type = File
appender.file.name = file
appender.file.fileName = {path}
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{yy/MM/dd HH:mm:ss}} %p %c{{1}}: %m%n%ex
"""


def redirect_driver_log(level: str) -> tuple[str, str]:
    """Makes a directory with a log4j2 configuration.

    Arguments:
        level: log4j's name of a level.

    Returns:
        The path of the log, and the Java option that makes a JVM write there.
    """
    directory = pathlib.Path(tempfile.mkdtemp(prefix="sparkray-log-"))
    log = directory / LOG_NAME
    properties = directory / "log4j2.properties"
    properties.write_text(_PROPERTIES.format(level=level.lower(), path=log))
    return str(log), f"-Dlog4j2.configurationFile=file:{properties}"
