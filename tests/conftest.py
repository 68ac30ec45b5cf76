"""What holds for all tests."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import signal
import tempfile
from collections.abc import Iterator

import pytest

# A runner that was started in the background of a shell ignores SIGINT and SIGQUIT, one under nohup SIGHUP. So would
# every driver that the tests start and interrupt, because an ignored signal stays ignored in children.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _ignored in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(_ignored, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def _spark_home() -> Iterator[None]:
    """Spark's home is a folder of these tests with links to the installed Spark, and goes with them.

    The master local-cluster leaves its executors' directories there, with a copy of every jar: in the installed package
    they would stay, and nobody could tell whose they are.
    """
    spec = importlib.util.find_spec("pyspark")
    if spec is None or not spec.submodule_search_locations:
        yield
        return
    installed = pathlib.Path(os.environ.get("SPARK_HOME") or spec.submodule_search_locations[0])
    # Executors may still be ending.
    with tempfile.TemporaryDirectory(prefix="sparkray-spark-home-", ignore_cleanup_errors=True) as home:
        for path in installed.iterdir():
            if path.name not in ("work", "logs"):
                pathlib.Path(home, path.name).symlink_to(path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SPARK_HOME", home)
            yield
