"""init_spark_on_yarn: what is wrong is said in one sentence, before anything is started."""

from __future__ import annotations

import os
import pathlib
import socket
import stat
from collections.abc import Iterator
from typing import Any

import pytest
from pyspark import SparkContext

from process.helpers import children_of
from sparkray.spark import packaging
from sparkray.spark.errors import ClusterUnreachableError, SparkSetupError
from sparkray.spark.session import init_spark_on_local, init_spark_on_yarn


@pytest.fixture(autouse=True)
def nothing_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Iterator[None]:
    """A jar to name, no cluster from outside, and the check that no Java was started and no variable changed."""
    jar = tmp_path / "sparkray.jar"
    jar.touch()
    monkeypatch.setattr(packaging, "jar_path", lambda: str(jar))
    for name in ("HADOOP_CONF_DIR", "YARN_CONF_DIR", "PYSPARK_SUBMIT_ARGS", "PYSPARK_GATEWAY_PORT"):
        monkeypatch.delenv(name, raising=False)
    gateway, variables, children = SparkContext._gateway, dict(os.environ), set(children_of(os.getpid()))
    yield
    assert SparkContext._gateway is gateway
    assert set(children_of(os.getpid())) <= children
    assert {**os.environ} == {**variables, "PYTEST_CURRENT_TEST": os.environ["PYTEST_CURRENT_TEST"]}


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that nothing listens on, kept from others."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield unused.getsockname()[1]


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def conf_dir(tmp_path: pathlib.Path, listener: int) -> pathlib.Path:
    """A configuration whose ResourceManager and NameNode take connections."""
    return write_conf(tmp_path / "conf", resource_manager=listener, name_node=listener)


def write_conf(directory: pathlib.Path, resource_manager: int, name_node: int) -> pathlib.Path:
    directory.mkdir()
    write_site(directory / "core-site.xml", {"fs.defaultFS": f"hdfs://127.0.0.1:{name_node}"})
    write_site(directory / "yarn-site.xml", {"yarn.resourcemanager.address": f"127.0.0.1:{resource_manager}"})
    return directory


def write_site(path: pathlib.Path, properties: dict[str, str]) -> None:
    entries = "".join(f"<property><name>{k}</name><value>{v}</value></property>" for k, v in properties.items())
    path.write_text(f"<?xml version='1.0'?>\n<configuration>{entries}</configuration>\n")


def start(hadoop_conf: object, **arguments: Any) -> None:
    init_spark_on_yarn(**{"hadoop_conf": hadoop_conf, "num_executors": 2, "executor_cores": 1, **arguments})


def refused(hadoop_conf: object, kind: type[Exception] = SparkSetupError, **arguments: Any) -> str:
    with pytest.raises(kind) as raised:
        start(hadoop_conf, **arguments)
    message = str(raised.value)
    assert message and "\n" not in message
    return message


# -- the Hadoop configuration ---------------------------------------------------------------------------------------


def test_no_hadoop_configuration() -> None:
    assert "pass hadoop_conf= or set HADOOP_CONF_DIR" in refused(None)


def test_hadoop_configuration_that_does_not_exist(tmp_path: pathlib.Path) -> None:
    assert refused(tmp_path / "none").endswith("none does not exist")


def test_hadoop_configuration_that_is_a_file(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert refused(str(file)).endswith("file is not a directory")


def test_empty_hadoop_configuration(tmp_path: pathlib.Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refused(empty).endswith("empty has no core-site.xml and no yarn-site.xml")


def test_hadoop_configuration_of_the_environment_is_used(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("HADOOP_CONF_DIR", str(tmp_path / "from-environment"))
        assert "from-environment does not exist" in refused(None)


def test_configuration_that_is_not_xml(conf_dir: pathlib.Path) -> None:
    (conf_dir / "yarn-site.xml").write_text("yarn.resourcemanager.address=x\n")
    assert "yarn-site.xml cannot be read as a Hadoop configuration" in refused(conf_dir)


def test_configuration_without_a_resource_manager(conf_dir: pathlib.Path) -> None:
    write_site(conf_dir / "yarn-site.xml", {})
    assert "names no ResourceManager" in refused(conf_dir)


def test_resource_manager_that_does_not_answer(tmp_path: pathlib.Path, listener: int, free_port: int) -> None:
    conf = write_conf(tmp_path / "conf", resource_manager=free_port, name_node=listener)
    message = refused(conf, ClusterUnreachableError)
    assert message.startswith(f"the ResourceManager does not answer at 127.0.0.1:{free_port} (")


def test_name_node_that_does_not_answer(tmp_path: pathlib.Path, listener: int, free_port: int) -> None:
    conf = write_conf(tmp_path / "conf", resource_manager=listener, name_node=free_port)
    message = refused(conf, ConnectionError)
    assert message.startswith(f"the NameNode does not answer at 127.0.0.1:{free_port} (")
    assert "fs.defaultFS" in message


def test_host_that_is_not_known(conf_dir: pathlib.Path) -> None:
    write_site(conf_dir / "yarn-site.xml", {"yarn.resourcemanager.hostname": "no-such-host.invalid"})
    assert "no-such-host.invalid:8032" in refused(conf_dir, ClusterUnreachableError)


def test_one_of_two_resource_managers_is_enough(
    conf_dir: pathlib.Path, listener: int, free_port: int, tmp_path: pathlib.Path
) -> None:
    write_site(
        conf_dir / "yarn-site.xml",
        {
            "yarn.resourcemanager.ha.enabled": "true",
            "yarn.resourcemanager.ha.rm-ids": "rm1, rm2",
            "yarn.resourcemanager.address.rm1": f"127.0.0.1:{free_port}",
            "host": "127.0.0.1",
            "yarn.resourcemanager.address.rm2": "${host}:" + str(listener),
        },
    )
    # It comes as far as the NameNode.
    write_site(conf_dir / "core-site.xml", {"fs.defaultFS": f"hdfs://127.0.0.1:{free_port}"})
    assert "the NameNode does not answer" in refused(conf_dir)


# -- arguments ------------------------------------------------------------------------------------------------------


def test_unknown_keyword_names_the_one_that_was_meant(conf_dir: pathlib.Path) -> None:
    message = refused(conf_dir, TypeError, exra_executor_memory_for_ray="2g")
    assert message.endswith("no argument 'exra_executor_memory_for_ray'; did you mean 'extra_executor_memory_for_ray'?")


def test_unknown_keyword_like_nothing(conf_dir: pathlib.Path) -> None:
    assert refused(conf_dir, TypeError, zzz=1) == "init_spark_on_yarn() has no argument 'zzz'"


def test_unknown_keyword_of_the_local_function() -> None:
    with pytest.raises(TypeError, match="did you mean 'cores'"):
        init_spark_on_local(core=2)


def test_local_arguments_are_in_upstream_s_order() -> None:
    import inspect

    upstream = ["cores", "conf", "python_location", "spark_log_level", "redirect_spark_log"]
    assert list(inspect.signature(init_spark_on_local).parameters)[:5] == upstream
    with pytest.raises(SparkSetupError, match="python_location='/usr/bin/other': the workers run the interpreter of "):
        init_spark_on_local(2, None, "/usr/bin/other")
    with pytest.raises(TypeError, match="conf is a dictionary of Spark settings, not '2g'"):
        init_spark_on_local(2, "2g")  # type: ignore[arg-type]


def test_old_and_new_spelling_together(conf_dir: pathlib.Path) -> None:
    assert "num_executor, its old spelling" in refused(conf_dir, TypeError, num_executor=2)


def test_old_spelling_alone_is_accepted(tmp_path: pathlib.Path) -> None:
    assert "does not exist" in refused(tmp_path / "none", num_executors=None, num_executor=2)


@pytest.mark.parametrize("name", ["num_executors", "executor_cores"])
def test_missing_sizes(conf_dir: pathlib.Path, name: str) -> None:
    assert refused(conf_dir, TypeError, **{name: None}) == f"init_spark_on_yarn() needs {name}"


@pytest.mark.parametrize("value", [0, -1, "2", 1.5, True])
def test_sizes_that_are_not_whole_numbers(conf_dir: pathlib.Path, value: object) -> None:
    assert "num_executors is a whole number above 0" in refused(conf_dir, num_executors=value)


@pytest.mark.parametrize("name", ["executor_memory", "driver_memory", "extra_executor_memory_for_ray"])
@pytest.mark.parametrize("value", ["2048", "1.5g", "2x"])
def test_memory_without_or_with_a_wrong_unit(conf_dir: pathlib.Path, name: str, value: str) -> None:
    sizes: dict[str, Any] = {name: value}
    assert refused(conf_dir, ValueError, **sizes).startswith(f"{name}={value!r} has ")


def test_heap_smaller_than_spark_allows(conf_dir: pathlib.Path) -> None:
    assert "at least 450m" in refused(conf_dir, executor_memory="200m")


def test_conda_that_cannot_be_asked(conf_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("CONDA_EXE", "/no/such/conda")
        message = refused(conf_dir, conda_name="zoo")
    assert "conda_name='zoo'" in message and "conda not being on your PATH" in message and "penv_archive=" in message


@pytest.mark.parametrize("name", ["penv_archive", "additional_archive", "jars", "py_files", "extra_python_lib"])
def test_files_that_do_not_exist(conf_dir: pathlib.Path, name: str) -> None:
    files: dict[str, Any] = {name: "/no/such/file.tar.gz"}
    assert refused(conf_dir, **files) == f"{name}: there is no file /no/such/file.tar.gz"


def test_archive_that_yarn_does_not_unpack(conf_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    archive = tmp_path / "environment.tar.zst"
    archive.touch()
    assert "YARN unpacks only .tar.gz, .tgz, .zip" in refused(conf_dir, penv_archive=str(archive))


def test_log_level_that_is_none(conf_dir: pathlib.Path) -> None:
    assert "spark_log_level='LOUD' is not one of ALL, DEBUG" in refused(conf_dir, spark_log_level="LOUD")


def test_conf_against_an_argument(conf_dir: pathlib.Path) -> None:
    message = refused(conf_dir, conf={"spark.executor.memory": "4g"})
    assert "conf sets spark.executor.memory=4g, but executor_memory makes it 2048m" in message


def test_conf_with_another_master(conf_dir: pathlib.Path) -> None:
    assert "spark.master=local[2]" in refused(conf_dir, conf={"spark.master": "local[2]"})


# -- this machine ---------------------------------------------------------------------------------------------------


def fake_java(directory: pathlib.Path, script: str) -> pathlib.Path:
    java = directory / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\n{script}\n")
    java.chmod(java.stat().st_mode | stat.S_IXUSR)
    return directory


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("""echo 'java version "1.7.0_80"' >&2""", "is Java 7, too old for Spark"),
        ("""echo 'openjdk version "25" 2025-09-16' >&2""", "is Java 25, too new for Spark"),
        ("echo 'Error: could not create the Java Virtual Machine.' >&2; exit 1", "could not create"),
        ("exit 0", "no output"),
    ],
)
def test_java_that_spark_cannot_use(
    conf_dir: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, script: str, says: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("JAVA_HOME", str(fake_java(tmp_path / "jdk", script)))
        assert says in refused(conf_dir)


def test_java_that_spark_cannot_use_for_the_local_function(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("JAVA_HOME", str(fake_java(tmp_path / "jdk", """echo 'java version "1.7.0_80"' >&2""")))
        with pytest.raises(SparkSetupError, match="is Java 7, too old for Spark") as raised:
            init_spark_on_local()
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", ["2048", "1.5g", "2x", ""])
def test_memory_of_the_local_function(value: str) -> None:
    with pytest.raises(ValueError, match="^memory=") as raised:
        init_spark_on_local(memory=value)
    assert "\n" not in str(raised.value)


def test_java_home_without_java(
    conf_dir: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("JAVA_HOME", str(tmp_path / "nothing"))
        assert "JAVA_HOME is" in refused(conf_dir)


def test_no_java_at_all(conf_dir: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.delenv("JAVA_HOME", raising=False)
        patch.setenv("PATH", str(tmp_path))
        assert refused(conf_dir).startswith("no Java: install a JDK 8, 11 or 17")


def test_jar_that_is_missing(conf_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    def missing() -> str:
        raise SparkSetupError("sparkray.jar is missing")

    monkeypatch.setattr(packaging, "jar_path", missing)
    assert "sparkray.jar is missing" in refused(conf_dir)


def test_spark_context_that_is_active(conf_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Active:
        applicationId = "local-1"
        master = "local[2]"

    with monkeypatch.context() as patch:
        patch.setattr(SparkContext, "_active_spark_context", Active())
        assert "has a SparkContext already (local-1 on local[2])" in refused(conf_dir)


def test_program_that_spark_submit_started(conf_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PYSPARK_GATEWAY_PORT", "1")
        assert "run the program with plain python" in refused(conf_dir)
