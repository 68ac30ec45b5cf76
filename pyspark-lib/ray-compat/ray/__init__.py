"""`import ray` on top of sparkray, for programs that were written for Ray.

Everything here is sparkray's own: `ray.get is sparkray.get`. What Ray has and sparkray does not have yet raises an
AttributeError or ImportError that says so. This package cannot share an environment with the official Ray.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib import metadata
from importlib.abc import MetaPathFinder
from typing import Any


def _refuse_official_ray() -> None:
    """Both packages put files into the same folder; whichever came last has overwritten the other's."""
    try:
        version = metadata.version("ray")
    except metadata.PackageNotFoundError:
        return
    raise ImportError(
        f"the official Ray {version} and sparkray-ray-compat are installed in one environment, and both provide `ray`: "
        "uninstall both with `pip uninstall ray sparkray-ray-compat`, then install the one that you want"
    )


_refuse_official_ray()

import sparkray  # noqa: E402
from ray import actor, exceptions, services, util  # noqa: E402
from sparkray import (  # noqa: E402
    ActorClass,
    ActorHandle,
    ObjectRef,
    RemoteFunction,
    available_resources,
    cancel,
    cluster_resources,
    get,
    get_actor,
    get_runtime_context,
    init,
    is_initialized,
    kill,
    method,
    nodes,
    put,
    remote,
    shutdown,
    wait,
)

__all__ = [
    "ActorClass",
    "ActorHandle",
    "ObjectID",
    "ObjectRef",
    "RemoteFunction",
    "actor",
    "available_resources",
    "cancel",
    "cluster_resources",
    "exceptions",
    "get",
    "get_actor",
    "get_runtime_context",
    "init",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "services",
    "shutdown",
    "util",
    "wait",
]

__version__ = sparkray.__version__
ObjectID = ObjectRef


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module 'ray' has no attribute {name!r}")
    if name in ("cluster_utils", "runtime_context"):
        import importlib

        return importlib.import_module(f"ray.{name}")
    raise AttributeError(
        f"ray.{name} is not there: `ray` is sparkray {__version__} here (sparkray-ray-compat), and it lacks that yet"
    )


def _is_question() -> bool:
    """Whether a program only asks if there is such a module, by importlib.util.find_spec, and gets None."""
    caller = sys._getframe(2)
    while caller is not None and "importlib._bootstrap" in caller.f_code.co_filename:
        caller = caller.f_back
    return caller is not None and caller.f_code is importlib.util.find_spec.__code__


class _MissingModules(MetaPathFinder):
    """Says what is the matter when a module of Ray is imported that sparkray does not have. Asked last."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname.startswith("ray.") and not _is_question():
            # Not a ModuleNotFoundError, which `from ray import x` would replace by a sentence of its own.
            raise ImportError(
                f"{fullname} is not there: `ray` is sparkray {__version__} here (sparkray-ray-compat), "
                "and it lacks that yet",
                name=fullname,
            )


if not any(type(finder).__name__ == "_MissingModules" for finder in sys.meta_path):
    sys.meta_path.append(_MissingModules())
