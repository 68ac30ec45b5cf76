"""RayOnSpark's old names: which there are, and what their arguments become. Nothing is started here."""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from process.helpers import run_driver
from sparkray import spark
from support.compat import importable


@pytest.fixture(autouse=True)
def old_names() -> Iterator[None]:
    with importable("zoo"):
        yield


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """What would have been started: the name of our function, and its arguments. No SparkContext runs."""
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def record(name: str, result: Any) -> None:
        def call(*arguments: Any, **named: Any) -> Any:
            calls.append((name, arguments, named))
            return result

        monkeypatch.setattr(spark, name, call)

    record("init_spark_on_yarn", "a context on YARN")
    record("init_spark_on_local", "a context here")
    orca = importlib.import_module("sparkray_zoo_compat.orca")
    monkeypatch.setattr(orca, "running_spark", lambda: None)
    monkeypatch.setattr(orca, "OrcaRayContext", lambda **named: calls.append(("OrcaRayContext", (), named)))
    return calls


def translate(**given: Any) -> Any:
    return importlib.import_module("sparkray_zoo_compat.ray_context").translate(given)


def test_every_path_of_a_name_leads_to_the_same_thing() -> None:
    paths = {
        "init_spark_on_yarn": ["zoo", "zoo.common.nncontext", "bigdl.dllib.nncontext"],
        "init_spark_on_local": ["zoo", "zoo.common.nncontext", "bigdl.dllib.nncontext"],
        "RayContext": ["zoo.ray", "zoo.ray.util.raycontext", "bigdl.orca.ray"],
        "OrcaRayContext": ["bigdl.orca.ray"],
        "OrcaContext": ["bigdl.orca", "bigdl.orca.common", "zoo.orca", "zoo.orca.common"],
        "init_orca_context": ["bigdl.orca", "bigdl.orca.common", "zoo.orca", "zoo.orca.common"],
        "stop_orca_context": ["bigdl.orca", "bigdl.orca.common", "zoo.orca", "zoo.orca.common"],
    }
    for name, modules in paths.items():
        found = {id(getattr(importlib.import_module(module), name)) for module in modules}
        assert len(found) == 1, name
    assert issubclass(importlib.import_module("zoo.ray").RayContext, spark.RayContext)
    assert importlib.import_module("zoo").init_spark_on_local is spark.session.init_spark_on_local
    orca_ray = importlib.import_module("bigdl.orca.ray")
    assert orca_ray.RayOnSparkContext is orca_ray.RayContext


def test_the_first_articles_call_reaches_ours(started: list[Any]) -> None:
    sc = importlib.import_module("zoo").init_spark_on_yarn(
        hadoop_conf="/etc/hadoop/conf",
        conda_name="zoo",
        num_executor=3,
        executor_cores=4,
        executor_memory="2g",
        driver_memory="2g",
        driver_cores=4,
        extra_executor_memory_for_ray="3g",
    )
    assert sc == "a context on YARN"
    ((_, positional, named),) = started
    assert positional == ("/etc/hadoop/conf", "zoo", None, 4, "2g")
    assert named == {
        "num_executor": 3,
        "driver_memory": "2g",
        "driver_cores": 4,
        "extra_executor_memory_for_ray": "3g",
    }


def test_spark_conf_is_conf(started: list[Any]) -> None:
    init_spark_on_yarn = importlib.import_module("zoo").init_spark_on_yarn
    init_spark_on_yarn("/conf", None, 2, 1, spark_conf={"spark.ui.enabled": "false"})
    assert started[0][2]["conf"] == {"spark.ui.enabled": "false"}
    with pytest.raises(TypeError, match="conf and spark_conf"):
        init_spark_on_yarn("/conf", None, 2, 1, spark_conf={}, conf={})


def test_what_moved_between_versions_goes_by_name_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        importlib.import_module("zoo").init_spark_on_yarn("/conf", None, 2, 1, "2g", "1g")
    with pytest.raises(TypeError, match="positional"):
        importlib.import_module("zoo.ray").RayContext(None, None, None, "1g", False, None, {})
    with pytest.raises(TypeError, match="positional"):
        importlib.import_module("bigdl.orca").init_orca_context("local", 4)


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("init_spark_standalone", "spark-submit .*SparkContext.getOrCreate.*init_spark_on_local"),
        ("init_spark_on_k8s", "init_spark_on_yarn.*init_spark_on_local"),
        ("init_spark_on_yarn_cluster", "init_spark_on_yarn runs"),
        ("init_nncontext", "SparkContext.getOrCreate.*RayContext"),
    ],
)
def test_starts_that_are_not_there_say_what_to_use(name: str, instead: str) -> None:
    with pytest.raises(NotImplementedError, match=f"{name} is not there: .*{instead}"):
        getattr(importlib.import_module("zoo"), name)(num_executors=2, executor_cores=1)


def test_arguments_without_a_meaning_are_ignored_by_name() -> None:
    ours, ignored = translate(
        redis_port=6379,
        password="123456",
        redis_password="123456",
        local_ray_node_num=2,
        waiting_time_sec=8,
        system_config={"object_spilling_config": "{}"},
        num_ray_nodes=2,
        namespace="az",
        include_webui=True,
    )
    assert ours == {"num_ray_nodes": 2, "namespace": "az", "include_webui": True}
    assert set(ignored) == {
        *("redis_port", "password", "redis_password", "local_ray_node_num", "waiting_time_sec", "system_config"),
    }
    assert translate(redis_port=None, password=None, system_config={}) == ({}, {})


def test_options_of_ray_start_are_ignored_refused_or_passed_on() -> None:
    options = {"temp-dir": "/tmp/ray2/", "--dashboard-port": 8265, "resources": {"slot": 2}, "num-gpus": 0}
    ours, ignored = translate(extra_params=options)
    assert ours == {"extra_params": {"resources": {"slot": 2}, "num_gpus": 0}}
    assert set(ignored) == {"extra_params['temp-dir']", "extra_params['--dashboard-port']"}
    for option, instead in {
        "num-cpus": "ray_node_cpu_cores",
        "object-store-memory": "object_store_memory",
        "memory": "extra_executor_memory_for_ray",
    }.items():
        with pytest.raises(ValueError, match=f"argument of its own: pass {instead}"):
            translate(extra_params={option: 1})


def test_trainers_and_parameter_servers_are_resources_of_nodes() -> None:
    assert translate(trainer_per_node=2, ps_per_node=1)[0] == {"extra_params": {"resources": {"trainer": 2, "ps": 1}}}
    with pytest.raises(ValueError, match="put all into"):
        translate(trainer_per_node=2, extra_params={"resources": {"slot": 1}})


def test_a_name_that_no_version_had_is_an_error_with_what_was_meant() -> None:
    with pytest.raises(TypeError, match="did you mean 'ray_node_cpu_cores'"):
        translate(ray_node_cpu_core=2)
    with pytest.raises(TypeError, match="did you mean 'object_store_memory'"):
        importlib.import_module("bigdl.orca").init_orca_context(object_store_memroy="2g")


def test_a_context_warns_once_and_then_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(spark.RayContext, "__init__", lambda self, sc, **named: given.update(named, sc=sc))
    with pytest.warns(UserWarning, match="RayContext: redis_port is ignored: .*; password is ignored: ") as warned:
        importlib.import_module("zoo.ray").RayContext("sc", 6379, "123456", "2g", env={"A": "b"}, num_ray_nodes=1)
    assert len(warned) == 1 and warned[0].filename == __file__
    assert given == {
        "sc": "sc",
        "object_store_memory": "2g",
        "verbose": False,
        "env": {"A": "b"},
        "num_ray_nodes": 1,
    }
    OrcaRayContext = importlib.import_module("bigdl.orca.ray").OrcaRayContext
    with pytest.warns(UserWarning, match="cores is ignored: Spark's executors"):
        OrcaRayContext(cores=2, sc="sc")
    with pytest.raises(TypeError, match="needs sc="):
        OrcaRayContext()
    with pytest.raises(NotImplementedError, match=r"call ray.init\(\)"):
        OrcaRayContext(runtime="ray", sc="sc")


def test_orca_on_yarn(started: list[Any]) -> None:
    init_orca_context = importlib.import_module("bigdl.orca").init_orca_context
    with pytest.warns(UserWarning, match="container_image is ignored: .*cluster_mode='yarn-client'"):
        sc = init_orca_context(
            "yarn-client",
            cores=4,
            memory="10g",
            num_nodes=3,
            hadoop_conf="/conf",
            extra_executor_memory_for_ray="3g",
            object_store_memory="2g",
            container_image="an image",
        )
    assert sc == "a context on YARN"
    (_, positional, named), (_, _, ray) = started
    assert positional == ("/conf",)
    assert named == {
        "num_executors": 3,
        "executor_cores": 4,
        "executor_memory": "10g",
        "extra_executor_memory_for_ray": "3g",
    }
    assert ray == {"sc": "a context on YARN", "object_store_memory": "2g"}


def test_orca_here_and_defaults(started: list[Any]) -> None:
    init_orca_context = importlib.import_module("bigdl.orca").init_orca_context
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert init_orca_context() == "a context here"
        init_orca_context(cluster_mode="local", cores=4, memory="4g", conf={"spark.ui.enabled": "false"})
    spark_calls = [(positional, named) for name, positional, named in started if name != "OrcaRayContext"]
    assert spark_calls == [
        (("*",), {"memory": "2g"}),
        ((4,), {"memory": "4g", "conf": {"spark.ui.enabled": "false"}}),
    ]
    with pytest.warns(UserWarning, match="num_nodes is ignored"):
        init_orca_context("local", num_nodes=2)
    with pytest.warns(UserWarning, match="2 cores"):
        init_orca_context("yarn", hadoop_conf="/conf")


@pytest.mark.parametrize(
    ("mode", "instead"),
    [("yarn-cluster", "yarn-client"), ("standalone", "spark-submit"), ("k8s-client", "YARN"), ("k8s-cluster", "YARN")],
)
def test_orca_says_what_to_use_for_clusters_that_are_not_there(mode: str, instead: str, started: list[Any]) -> None:
    with pytest.raises(NotImplementedError, match=instead):
        importlib.import_module("bigdl.orca").init_orca_context(mode, cores=1)
    with pytest.raises(ValueError, match="not 'mesos'"):
        importlib.import_module("bigdl.orca").init_orca_context("mesos")
    assert not started


def test_orca_ignores_what_spark_submit_says_and_names_each(
    started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyspark.SparkContext.getOrCreate", lambda: "a context of spark-submit")
    init_orca_context = importlib.import_module("bigdl.orca").init_orca_context
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert init_orca_context("spark-submit", object_store_memory="1g") == "a context of spark-submit"
    with pytest.warns(UserWarning) as warned:
        init_orca_context(cluster_mode="bigdl-submit", cores=4, memory="10g", num_nodes=2, driver_memory="2g")
    (warning,) = warned
    assert warning.filename == __file__
    for name, option in {
        "cores": "--executor-cores",
        "memory": "--executor-memory",
        "num_nodes": "--num-executors",
        "driver_memory": "its own options",
    }.items():
        assert f"{name} is ignored: spark-submit has {option}" in str(warning.message)
    assert [name for name, _, _ in started] == ["OrcaRayContext"] * 2


def test_orca_takes_a_spark_context_that_runs_and_names_what_it_ignores(
    started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    orca = importlib.import_module("sparkray_zoo_compat.orca")
    monkeypatch.setattr(orca, "running_spark", lambda: "a context that runs")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert orca.init_orca_context(object_store_memory="1g") == "a context that runs"
        assert orca.init_orca_context("spark-submit") == "a context that runs"
    with pytest.warns(UserWarning) as warned:
        orca.init_orca_context("local", cores=4, memory="10g", num_nodes=1, conf={})
    (warning,) = warned
    assert warning.filename == __file__
    for name in ("cluster_mode", "cores", "memory", "num_nodes", "conf"):
        assert f"{name} is ignored: there is a SparkContext" in str(warning.message)
    assert [(name, named.get("sc")) for name, _, named in started] == [("OrcaRayContext", "a context that runs")] * 3


def test_a_ray_context_that_fails_stops_only_spark_that_orca_has_started(
    started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    orca = importlib.import_module("sparkray_zoo_compat.orca")
    stopped: list[str] = []

    def fail(**_named: Any) -> None:
        raise ValueError("no such cluster")

    own = SimpleNamespace(stop=lambda: stopped.append("own"))
    other = SimpleNamespace(stop=lambda: stopped.append("other"))
    monkeypatch.setattr(spark, "init_spark_on_local", lambda *_arguments, **_named: own)
    monkeypatch.setattr(orca, "OrcaRayContext", fail)
    with pytest.raises(ValueError, match="no such cluster"):
        orca.init_orca_context("local")
    assert stopped == ["own"]
    monkeypatch.setattr(orca, "running_spark", lambda: other)
    with pytest.raises(ValueError, match="no such cluster"):
        orca.init_orca_context()
    assert stopped == ["own"]


def test_stop_orca_context_stops_the_spark_context_whoever_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    orca = importlib.import_module("sparkray_zoo_compat.orca")
    stopped: list[str] = []
    monkeypatch.setattr(orca, "running_spark", lambda: SimpleNamespace(stop=lambda: stopped.append("other")))
    orca.stop_orca_context()
    assert stopped == ["other"]
    monkeypatch.setattr(orca, "running_spark", lambda: None)
    orca.stop_orca_context()
    assert stopped == ["other"]


def test_orca_contexts_settings_are_ignored_by_name_or_not_there() -> None:
    OrcaContext = importlib.import_module("bigdl.orca").OrcaContext
    with pytest.warns(UserWarning, match="barrier_mode is ignored: ") as warned:
        OrcaContext.barrier_mode = False
    assert warned[0].filename == __file__
    with pytest.warns(UserWarning, match="log_output is ignored: redirect_spark_log=False"):
        OrcaContext.log_output = True
    with pytest.raises(AttributeError, match="train_data_store is not there.*migrating"):
        OrcaContext.train_data_store = "DISK_2"
    with pytest.raises(AttributeError, match="get_sql_context is not there"):
        OrcaContext.get_sql_context()
    with pytest.raises(RuntimeError, match=r"call init_orca_context\(\) first"):
        OrcaContext.get_spark_context()


@pytest.mark.parametrize(
    "statement",
    [
        "from bigdl.orca.learn.pytorch import Estimator",
        "import bigdl.chronos",
        "from zoo import init_internal_nncontext",
        "import zoo.automl.search",
    ],
)
def test_parts_that_are_not_here_say_so(statement: str) -> None:
    done = run_driver(f"{statement}\n")
    assert done.returncode == 1
    assert "is of sparkray-zoo-compat here" in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(("name", "module"), [("analytics-zoo", "zoo"), ("bigdl-orca-spark3", "bigdl.orca")])
def test_the_original_beside_it_is_refused(name: str, module: str, tmp_path: Any) -> None:
    folder = tmp_path / f"{name.replace('-', '_')}-2.4.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.4.0\n")
    sys.path.append(str(tmp_path))
    try:
        done = run_driver(f"import {module}\n")
    finally:
        sys.path.remove(str(tmp_path))
    assert done.returncode == 1
    assert f"pip uninstall {name} sparkray-zoo-compat" in done.stderr.strip().splitlines()[-1]


def test_the_page_on_migrating_has_every_argument() -> None:
    """Those of the old names, and those of ours that they lead to."""
    page = (Path(__file__).parents[2] / "docs" / "migrating.md").read_text()
    orca = importlib.import_module("sparkray_zoo_compat.orca")
    ours = [spark.init_spark_on_yarn, spark.init_spark_on_local, spark.RayContext, orca.init_orca_context]
    names = {name for function in ours for name in inspect.signature(function).parameters}
    names |= importlib.import_module("sparkray_zoo_compat.ray_context").KNOWN
    names |= orca._OF_LOCAL | orca._OF_YARN | orca._OF_OTHERS
    names -= {"unknown", "arguments"}
    assert not {name for name in names if f"`{name}`" not in page}
