"""Environments that are kept in HDFS: a conda environment starts on YARN, twice, with one upload; what goes wrong."""

from __future__ import annotations

import concurrent.futures
import functools
import json
import pathlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

import sparkray
from process.helpers import run_driver, start_driver
from sparkray.spark import RayContext, cluster_cache, driver_log, gateway, init_spark_on_yarn
from sparkray.spark.spark_conf import ENVIRONMENT_CACHE, build_spark_conf, with_driver_java_option
from support.conda_prefix import SITE_PACKAGES, CondaPrefix
from support.minicluster import MiniCluster, wait_until

DAY = 86400.0
# In the user's home.
CHOSEN = "environments of zoo"

SECOND_START = """
    import json, sys
    from sparkray.spark import init_spark_on_yarn
    context = init_spark_on_yarn(**json.loads({arguments!r}))
    files = context._jvm.org.apache.hadoop.fs
    home = files.FileSystem.get(context._jsc.hadoopConfiguration())
    staging = files.Path(home.getHomeDirectory(), f".sparkStaging/{{context.applicationId}}")
    names = [str(status.getPath().getName()) for status in home.listStatus(staging)]
    prefix = context.parallelize([0], 1).map(lambda _: sys.prefix).first()
    context.stop()
    print(json.dumps([names, prefix]))
"""

UPLOAD = """
    import functools, json
    from sparkray.spark import cluster_cache, gateway
    conf, variables, archive = json.loads({request!r})
    gateway.start_context(conf, variables, functools.partial(cluster_cache.place, archive=archive))
"""


@pytest.fixture(scope="module")
def conda(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CondaPrefix]:
    """A conda environment with what sparkray needs, and a conda that knows it."""
    directory = tmp_path_factory.mktemp("conda")
    conda = CondaPrefix(directory)
    conda.install("hello", {f"{SITE_PACKAGES}/hello.py": "NAME = 'hello'\n"})
    conda.link_packages()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
        patch.setenv("CONDA_EXE", conda.program())
        yield conda


def arguments(cluster: MiniCluster, cache: str = CHOSEN) -> dict[str, Any]:
    return {
        "hadoop_conf": cluster.conf_dir,
        "conda_name": "zoo",
        "num_executors": 1,
        "executor_cores": 1,
        "executor_memory": "512m",
        "driver_cores": 1,
        "driver_memory": "600m",
        "extra_executor_memory_for_ray": "512m",
        "conf": {
            **cluster.spark_conf(),
            "spark.ui.enabled": "false",
            "spark.ray.init.timeout": "120s",
            ENVIRONMENT_CACHE: cache,
        },
    }


@pytest.fixture(scope="module")
def first(mini_cluster: MiniCluster, conda: CondaPrefix) -> Iterator[Any]:
    """The SparkContext of the first start."""
    context: Any = init_spark_on_yarn(**arguments(mini_cluster))
    yield context
    context.stop()
    gateway.end_gateway()
    wait_until(lambda: not mini_cluster.container_processes(), 60, "the containers end")


class Hdfs:
    """The file system, by the driver's Java."""

    def __init__(self, context: Any) -> None:
        self.jvm: Any = context._jvm
        self.classes: Any = self.jvm.org.apache.hadoop.fs
        self.files: Any = self.classes.FileSystem.get(context._jsc.hadoopConfiguration())

    def path(self, *names: str) -> Any:
        """A path below the user's home."""
        return self.classes.Path(self.files.getHomeDirectory(), "/".join(names))

    def list(self, directory: str) -> dict[str, Any]:
        """The status of each file by its name."""
        return {str(status.getPath().getName()): status for status in self.files.listStatus(self.path(directory))}

    def write(self, *names: str, age: float = 0.0) -> None:
        """Makes an empty file, so many seconds ago."""
        self.files.create(self.path(*names)).close()
        self.files.setTimes(self.path(*names), int((time.time() - age) * 1000), -1)


@pytest.fixture(scope="module")
def hdfs(first: Any) -> Hdfs:
    return Hdfs(first)


@pytest.fixture
def directory(hdfs: Hdfs, request: pytest.FixtureRequest) -> Iterator[str]:
    """A cache for one test, as the Java that was started has it set."""
    name = f"cache-of-{request.node.name}"
    hdfs.jvm.java.lang.System.setProperty(ENVIRONMENT_CACHE, name)
    yield name
    hdfs.jvm.java.lang.System.setProperty(ENVIRONMENT_CACHE, CHOSEN)


def start_again(cluster: MiniCluster, cache: str) -> tuple[list[str], str, str]:
    """Starts in another process: names in the staging directory, the executor's sys.prefix, and what was told."""
    done = run_driver(SECOND_START.format(arguments=json.dumps(arguments(cluster, cache))), timeout=240)
    assert done.returncode == 0, done.stderr
    names, prefix = json.loads(done.stdout.splitlines()[-1])
    return names, prefix, done.stderr


def archive_file(directory: pathlib.Path, number: int = 1, size: int = 3 << 20) -> str:
    path = directory / f"{number:032x}.tar.gz"
    with path.open("wb") as file:
        file.truncate(size)
    return str(path)


def place(hdfs: Hdfs, archive: str) -> tuple[str, list[str]]:
    """What YARN is told to take as the environment, and the lines of progress."""
    lines: list[str] = []
    entries = cluster_cache.place(hdfs.jvm, archive, lines.append)[cluster_cache.ARCHIVES].split(",")
    (entry,) = [entry for entry in entries if entry.endswith("#python_env")]
    return entry.removesuffix("#python_env"), lines


def refused(hdfs: Hdfs, archive: str) -> str:
    """Why the environment is not kept."""
    with pytest.warns(RuntimeWarning) as warned:
        assert cluster_cache.place(hdfs.jvm, archive, print) == {}
    (warning,) = warned
    assert "so Spark uploads it for this application only" in str(warning.message)
    return str(warning.message)


@sparkray.remote
def where() -> tuple[str, str]:
    import hello  # type: ignore[import-not-found]

    return sys.prefix, hello.__file__


def test_conda_environment_runs_on_yarn(first: Any, hdfs: Hdfs) -> None:
    def look(_: object) -> Iterator[tuple[str, str, bool]]:
        import hello

        yield sys.prefix, hello.__file__, pathlib.Path("python_env/conda-meta/hello-1.0-0.json").is_file()

    ((prefix, file, is_conda),) = first.parallelize([0], 1).mapPartitions(look).collect()
    assert prefix.endswith("/python_env") and file == f"{prefix}/{SITE_PACKAGES}/hello.py" and is_conda
    context = RayContext(first, object_store_memory="64m")
    context.init()
    try:
        assert sparkray.get(where.remote()) == (prefix, file)
    finally:
        context.stop()


def test_second_start_uploads_nothing(mini_cluster: MiniCluster, first: Any, hdfs: Hdfs) -> None:
    assert not [name for name in hdfs.list(f".sparkStaging/{first.applicationId}") if name.endswith(".tar.gz")]
    before = {name: status.getModificationTime() for name, status in hdfs.list(CHOSEN).items()}
    archive, mark = sorted(before)
    assert mark == f"{archive}.used"
    names, prefix, told = start_again(mini_cluster, CHOSEN)
    assert names and not [name for name in names if name.endswith(".tar.gz")]
    assert prefix.endswith("/python_env")
    assert f"python environment: on the cluster already, {hdfs.path(CHOSEN, archive).toString()}" in told
    after = {name: status.getModificationTime() for name, status in hdfs.list(CHOSEN).items()}
    assert after[archive] == before[archive] and after[mark] > before[mark] and len(after) == 2


def test_start_without_a_usable_cache(mini_cluster: MiniCluster, hdfs: Hdfs) -> None:
    hdfs.write("no directory")
    names, prefix, told = start_again(mini_cluster, "no directory")
    assert len([name for name in names if name.endswith(".tar.gz")]) == 1
    assert prefix.endswith("/python_env")
    assert told.count("RuntimeWarning: the Python environment is not kept on the cluster (") == 1


def test_two_starts_at_once_need_one_archive(hdfs: Hdfs, directory: str, tmp_path: pathlib.Path) -> None:
    archive = archive_file(tmp_path)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        (one, _), (other, _) = pool.map(functools.partial(place, hdfs), [archive, archive])
    name = pathlib.Path(archive).name
    assert one == other == str(hdfs.path(directory, name).toUri().toString())
    there = hdfs.list(directory)
    assert set(there) == {name, f"{name}.used"}
    assert there[name].getLen() == 3 << 20
    assert str(there[name].getPermission().toString()) == "rw-------"
    assert str(hdfs.files.getFileStatus(hdfs.path(directory)).getPermission().toString()) == "rwx------"
    third, lines = place(hdfs, archive)
    assert third == one and len(lines) == 1 and "on the cluster already" in lines[0]


def test_default_is_in_the_home_directory(hdfs: Hdfs, tmp_path: pathlib.Path) -> None:
    hdfs.jvm.java.lang.System.clearProperty(ENVIRONMENT_CACHE)
    try:
        uri, lines = place(hdfs, archive_file(tmp_path))
    finally:
        hdfs.jvm.java.lang.System.setProperty(ENVIRONMENT_CACHE, CHOSEN)
    assert uri == str(hdfs.path(".sparkray/environments", f"{1:032x}.tar.gz").toString())
    assert lines[0].startswith("python environment: uploading 3 MB to hdfs://")
    assert lines[-1].startswith("python environment: uploaded in ")


def test_a_switched_off_cache_is_not_looked_at(hdfs: Hdfs, directory: str, tmp_path: pathlib.Path) -> None:
    hdfs.jvm.java.lang.System.setProperty(ENVIRONMENT_CACHE, "false")
    assert cluster_cache.place(hdfs.jvm, archive_file(tmp_path), print) == {}
    assert not hdfs.files.exists(hdfs.path("false"))


def test_old_archives_and_cut_uploads_go(hdfs: Hdfs, directory: str, tmp_path: pathlib.Path) -> None:
    names = {number: f"{number:032x}.tar.gz" for number in range(1, 9)}
    for number in range(2, 9):
        hdfs.write(directory, names[number], age=number * 2 * DAY)
    # The oldest one was used now.
    hdfs.files.mkdirs(hdfs.path(directory, f"{names[8]}.used"))
    hdfs.write(directory, ".uploading-old", age=2 * DAY)
    hdfs.write(directory, ".uploading-new")
    place(hdfs, archive_file(tmp_path, 1))
    archives = {names[number] for number in (1, 2, 3, 8)}
    assert set(hdfs.list(directory)) == archives | {f"{names[1]}.used", f"{names[8]}.used", ".uploading-new"}


def test_what_others_may_have_written_is_not_used(hdfs: Hdfs, directory: str, tmp_path: pathlib.Path) -> None:
    archive = archive_file(tmp_path)
    place(hdfs, archive)
    target = hdfs.path(directory, pathlib.Path(archive).name)
    hdfs.files.setOwner(target, "somebody", None)
    assert f"{target.toString()} belongs to somebody" in refused(hdfs, archive)
    hdfs.files.setPermission(hdfs.path(directory), hdfs.classes.permission.FsPermission("770"))
    assert f"others may write to {hdfs.path(directory).toString()}, which is rwxrwx---" in refused(hdfs, archive)


def test_a_quota_is_named(hdfs: Hdfs, directory: str, tmp_path: pathlib.Path) -> None:
    hdfs.files.mkdirs(hdfs.path(directory), hdfs.classes.permission.FsPermission("700"))
    hdfs.files.setQuota(hdfs.path(directory), hdfs.jvm.java.lang.Long.MAX_VALUE, 1 << 20)
    message = refused(hdfs, archive_file(tmp_path))
    assert "quota" in message and "\n" not in message and "\tat" not in message
    assert not [name for name in hdfs.list(directory) if name.startswith(".uploading")]


def test_a_directory_that_cannot_be_made_is_named(hdfs: Hdfs, directory: str, tmp_path: pathlib.Path) -> None:
    hdfs.write(directory)
    assert directory in refused(hdfs, archive_file(tmp_path))


def test_another_file_system_than_that_of_the_staging_is_refused(
    hdfs: Hdfs, directory: str, tmp_path: pathlib.Path
) -> None:
    hdfs.jvm.java.lang.System.setProperty(ENVIRONMENT_CACHE, f"file://{tmp_path}/cache")
    message = refused(hdfs, archive_file(tmp_path))
    assert f"{tmp_path}/cache is not on the file system of Spark's staging directories, hdfs://" in message


def test_interrupted_upload_leaves_nothing(
    mini_cluster: MiniCluster, hdfs: Hdfs, directory: str, tmp_path: pathlib.Path
) -> None:
    # Its upload takes longer than the test, were it not interrupted.
    archive = archive_file(tmp_path, size=8 << 30)
    _, option = driver_log.redirect_driver_log("WARN")
    conf = build_spark_conf(
        num_executors=1,
        executor_cores=1,
        executor_memory="512m",
        driver_cores=1,
        driver_memory="600m",
        extra_executor_memory_for_ray=None,
        environment_archive=archive,
        driver_python=sys.executable,
        plugin_jar=None,
        conf={**mini_cluster.spark_conf(), "spark.ui.enabled": "false", ENVIRONMENT_CACHE: directory},
    )
    variables = {"HADOOP_CONF_DIR": mini_cluster.conf_dir}
    applications = {row["id"] for row in mini_cluster.applications()}
    request = json.dumps([with_driver_java_option(conf, option), variables, archive])
    with start_driver(UPLOAD.format(request=request)) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if " MB of 8192 MB" in line:
                break
        assert any(name.startswith(".uploading-") for name in hdfs.list(directory)), lines
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in err
    assert set(hdfs.list(directory)) == {f"{pathlib.Path(archive).name}.used"}
    assert {row["id"] for row in mini_cluster.applications()} == applications
