"""Importing the package; names; `import ray`."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import ast
import importlib.metadata
import inspect
import platform
import re
import sys
import sysconfig
from pathlib import Path

import pytest

import sparkray
from process.helpers import run_driver
from sparkray import _native, actor, cluster_utils, exceptions, runtime_context, util
from support.compat import importable


def run_with_ray(script):
    """In an environment that has the compat package, installed or from the source tree."""
    with importable("ray"):
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


def test_the_installed_distribution_is_for_this_python_and_says_what_it_needs():
    distribution = importlib.metadata.distribution("sparkray")
    assert distribution.version == sparkray.__version__
    assert distribution.metadata["Requires-Python"] == ">=3.10"
    assert "spark" in distribution.metadata.get_all("Provides-Extra", [])
    of_spark = [line for line in distribution.requires or [] if re.search("extra == ['\"]spark['\"]", line)]
    assert len(of_spark) == 1 and of_spark[0].startswith("pyspark")
    assert [entry.name for entry in distribution.entry_points] == ["sparkray"]
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert re.search(
        rf"^Tag: {tag}-{tag}-\w+_{platform.machine()}$", distribution.read_text("WHEEL") or "", re.MULTILINE
    )
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    native = [
        path.name for path in distribution.files or [] if path.name.startswith("_native") and path.suffix == ".so"
    ]
    assert native == [f"_native{suffix}"]


def public_callables():
    """(name, function) of everything that users call; methods of classes too."""
    modules = [sparkray, exceptions, util, actor, cluster_utils, runtime_context]
    for module in modules:
        for name in module.__all__:
            if name in ("__version__", "RAY_EXCEPTION_TYPES"):
                continue
            value = getattr(module, name)
            if inspect.ismodule(value):
                continue
            yield f"{module.__name__}.{name}", value
            if isinstance(value, type):
                for member, _ in inspect.getmembers(value):
                    static = inspect.getattr_static(value, member)
                    if member.startswith("_") or not callable(getattr(value, member)) or isinstance(static, type):
                        continue
                    if str(getattr(getattr(value, member), "__module__", "")).startswith("sparkray"):
                        yield f"{module.__name__}.{name}.{member}", getattr(value, member)


def undocumented(name, value):
    """What the docstring of a function or class lacks."""
    text = inspect.getdoc(value) or ""
    if not text:
        yield f"{name}: docstring"
        return
    if isinstance(value, type):
        return
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # of Rust
        return
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name not in ("self", "cls")]
    for parameter in parameters:
        if parameter.name.startswith("_arguments") or parameter.name == "_options":
            continue
        if parameter.annotation is inspect.Parameter.empty:
            yield f"{name}: annotation of {parameter.name}"
        if not re.search(rf"\b{parameter.name}\b.*:", text) and "not there yet" not in text:
            yield f"{name}: parameter {parameter.name}"
    if signature.return_annotation is inspect.Signature.empty:
        yield f"{name}: annotation of what it returns"
    returns_something = str(signature.return_annotation) not in ("None", "NoReturn")
    if returns_something and "Returns:" not in text and not re.search("not there yet|Same as", text):
        yield f"{name}: Returns"


def test_everything_public_is_documented():
    lacking = {line for name, value in public_callables() for line in undocumented(name, value)}
    assert not lacking, "\n".join(sorted(lacking))


@pytest.mark.parametrize("name", ["data", "tune", "train", "serve", "rllib", "timeline", "get_gpu_ids"])
def test_what_ray_has_and_we_do_not_says_so(name):
    with pytest.raises(AttributeError, match="not there yet"):
        getattr(sparkray, name)


def test_the_stub_describes_the_module_and_the_module_is_in_the_stub():
    stub = ast.parse((Path(sparkray.__file__).parent / "_native.pyi").read_text())
    missing = []
    described = set()
    for node in stub.body:
        if isinstance(node, ast.AnnAssign):
            described.add(ast.unparse(node.target))
        elif isinstance(node, ast.FunctionDef):
            described.add(node.name)
            if not hasattr(_native, node.name):
                missing.append(f"module: {node.name}")
        elif isinstance(node, ast.ClassDef) and not any(getattr(base, "id", "") == "Protocol" for base in node.bases):
            described.add(node.name)
            found = getattr(_native, node.name, None)
            if found is None:
                missing.append(f"module: {node.name}")
                continue
            names = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
            missing += [f"module: {node.name}.{name}" for name in names if not hasattr(found, name)]
            public = {name for name in vars(found) if not name.startswith("__")}
            missing += [f"stub: {node.name}.{name}" for name in public - names]
    names = {name for name in vars(_native) if name == "__version__" or not name.startswith("__")}
    missing += [f"stub: {name}" for name in names - described]
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
        "import ray.services; ray.services.start_ray",
        "import ray.actor; ray.actor.make_actor",
        "import ray.cluster_utils; ray.cluster_utils.AutoscalingCluster",
        "import ray.runtime_context; ray.runtime_context.nothing",
        "import ray.rllib.agents",
    ],
)
def test_what_import_ray_lacks_says_so(statement):
    done = run_with_ray(f"{statement}\n")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "sparkray" in last, last


def test_asking_whether_ray_has_a_module_is_no_error():
    done = run_with_ray(
        """
        import importlib.util
        import ray

        assert importlib.util.find_spec("ray.tune") is None
        assert importlib.util.find_spec("ray.util") is not None
        try:
            import ray.tune
        except ImportError as error:
            assert "sparkray" in str(error)
        """
    )
    assert done.returncode == 0, done.stderr


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
