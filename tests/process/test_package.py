"""Importing the package; names; `import ray`."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import sparkray
from process.helpers import run_driver
from sparkray import _native

COMPAT = Path(__file__).parents[2] / "pyspark-lib" / "ray-compat"


def run_with_ray(script):
    """In an environment that has the compat package, installed or from the source tree."""
    if not any((Path(entry) / "ray").is_dir() for entry in sys.path if entry):
        sys.path.append(str(COMPAT))
        try:
            return run_driver(script)
        finally:
            sys.path.remove(str(COMPAT))
    return run_driver(script)


def test_import_needs_neither_pyspark_nor_pyarrow_and_starts_no_thread():
    done = run_driver(
        """
        import os, sys
        import sparkray
        assert not {"pyspark", "pyarrow", "pandas"} & set(sys.modules), sorted(sys.modules)
        assert len(os.listdir("/proc/self/task")) == 1
        assert not sparkray.is_initialized()
        """
    )
    assert done.returncode == 0, done.stderr


def test_versions_agree():
    assert sparkray.__version__ == _native.__version__


def test_every_public_name_is_there_and_has_a_docstring():
    on_spark = {"RayContext", "from_spark", "to_spark", "init_spark_on_local", "init_spark_on_yarn"}
    for name in set(sparkray.__all__) - on_spark:
        value = getattr(sparkray, name)
        assert isinstance(value, str) or value.__doc__, name


@pytest.mark.parametrize("name", ["data", "tune", "train", "serve", "rllib", "timeline", "get_gpu_ids"])
def test_what_ray_has_and_we_do_not_says_so(name):
    with pytest.raises(AttributeError, match="not there yet"):
        getattr(sparkray, name)


def test_cancel_says_so():
    with pytest.raises(NotImplementedError, match="not there yet"):
        sparkray.cancel(None)


def test_placement_groups_say_so():
    with pytest.raises(AttributeError, match="not there yet"):
        _ = sparkray.util.placement_group


def test_the_stub_describes_the_module():
    stub = ast.parse((Path(sparkray.__file__).parent / "_native.pyi").read_text())
    missing = []
    for node in stub.body:
        if isinstance(node, ast.ClassDef) and not any(getattr(base, "id", "") == "Protocol" for base in node.bases):
            found = getattr(_native, node.name, None)
            if found is None:
                missing.append(node.name)
                continue
            names = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
            missing += [f"{node.name}.{name}" for name in names if not hasattr(found, name)]
        elif isinstance(node, ast.FunctionDef) and not hasattr(_native, node.name):
            missing.append(node.name)
    assert not missing


def test_import_ray_is_sparkray():
    done = run_with_ray(
        """
        import ray, sparkray
        import ray.services as services
        from ray.exceptions import RayTaskError, GetTimeoutError
        from ray.util import get_node_ip_address

        assert ray.get is sparkray.get and ray.ObjectRef is sparkray.ObjectRef
        assert RayTaskError is sparkray.exceptions.RayTaskError

        @ray.remote
        class TestRay:
            def hostname(self):
                import socket
                return socket.gethostname()

            def ip(self):
                import ray.services as rservices
                return rservices.get_node_ip_address()

        ray.init(num_cpus=2)
        actors = [TestRay.remote() for i in range(0, 2)]
        print([ray.get(actor.hostname.remote()) for actor in actors])
        assert [ray.get(actor.ip.remote()) for actor in actors] == [services.get_node_ip_address()] * 2

        @ray.remote
        def fail():
            raise ValueError("through ray")

        try:
            ray.get(fail.remote())
        except RayTaskError as error:
            assert isinstance(error, ValueError)
        ray.shutdown()
        """
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "statement",
    [
        "import ray.tune",
        "from ray import data",
        "import ray; ray.cluster",
        "from ray.train import Trainer",
        "import ray.rllib.agents",
    ],
)
def test_what_import_ray_lacks_says_so(statement):
    done = run_with_ray(f"{statement}\n")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "sparkray" in last, last


def test_import_ray_refuses_the_official_one_beside_it(tmp_path):
    metadata = tmp_path / "ray-2.60.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: ray\nVersion: 2.60.0\n")
    sys.path.append(str(tmp_path))
    try:
        done = run_with_ray("import ray\n")
    finally:
        sys.path.remove(str(tmp_path))
    assert done.returncode == 1
    assert "uninstall" in done.stderr.strip().splitlines()[-1]
