"""The arguments of RayContext: checked, and mapped to what the managers understand. Decides only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sparkray._private.init import check_gpus
from sparkray._private.memory import MEBIBYTE, parse_memory
from sparkray.spark.cluster_shape import ClusterShape

# Left out of `env`, as upstream does: they would break the workers' Python or undo what a task's CPUs decide.
_NOT_FOR_WORKERS = ("OMP_", "KMP_", "MKL_", "OPENBLAS_")
_NOT_FOR_WORKERS_EXACT = frozenset({"PYTHONHOME", "MALLOC_ARENA_MAX", "RAY_BACKEND_LOG_LEVEL"})
_LEAST_STORE = 16 * MEBIBYTE


@dataclass(frozen=True)
class NodeOptions:
    """What each node is to be. Two contexts with equal options may share a cluster."""

    expected_nodes: int
    node_cpus: float
    object_store_bytes: int
    node_resources: dict[str, float] = field(default_factory=dict)
    worker_env: dict[str, str] = field(default_factory=dict)
    # None: as the setting of the SparkContext says.
    encryption: bool | None = None

    def request(self) -> dict[str, Any]:
        """The part of a request for a cluster that these options are."""
        encryption = {} if self.encryption is None else {"encryption": self.encryption}
        return {
            **encryption,
            "expected_nodes": self.expected_nodes,
            "node_cpus": self.node_cpus,
            "object_store_bytes": self.object_store_bytes,
            "node_resources": self.node_resources,
            "worker_env": self.worker_env,
        }


def read_arguments(
    *,
    redis_port: int | None,
    redis_password: str | None,
    object_store_memory: str | None,
    env: Mapping[str, str] | None,
    extra_params: Mapping[str, Any] | None,
    num_ray_nodes: int | None,
    ray_node_cpu_cores: int | None,
    system_config: Mapping[str, Any] | None,
    encryption: bool | None,
    shape: ClusterShape,
) -> NodeOptions:
    """Checks the arguments of RayContext; see there.

    Raises:
        TypeError, ValueError: an argument is impossible.
        NotImplementedError: an argument asks for what is not there.
    """
    if redis_port is not None:
        raise NotImplementedError("redis_port: there is no Redis, and ports are chosen by the kernel: leave it out")
    if redis_password is not None:
        raise NotImplementedError(
            "redis_password: there is no Redis, and every cluster has a secret of its own: leave it out"
        )
    if system_config:
        raise NotImplementedError(f"system_config: there are no such settings here ({', '.join(system_config)})")
    if encryption is not None and not isinstance(encryption, bool):
        raise TypeError(f"encryption is True, False or None, not {encryption!r}")
    store = 0
    if object_store_memory is not None:
        store = parse_memory(object_store_memory, "object_store_memory")
        if store < _LEAST_STORE:
            raise ValueError(f"object_store_memory={object_store_memory!r} is too small: at least 16m")
    resources = _extra_resources(extra_params or {})
    return NodeOptions(
        expected_nodes=_node_count(num_ray_nodes, shape),
        node_cpus=_cores(ray_node_cpu_cores, shape),
        object_store_bytes=store,
        node_resources=resources,
        worker_env=_worker_env(env or {}),
        encryption=encryption,
    )


def _node_count(asked: int | None, shape: ClusterShape) -> int:
    if asked is None:
        if shape.executors is None:
            raise ValueError(
                "how many executors there will be is not in Spark's settings: set spark.executor.instances, or pass "
                "num_ray_nodes"
            )
        return shape.executors
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise ValueError(f"num_ray_nodes is a whole number above 0, not {asked!r}")
    if shape.executors is not None and asked > shape.executors:
        raise ValueError(
            f"num_ray_nodes={asked}, but Spark has {shape.executors} executors and each carries one node: ask for "
            "more executors"
        )
    return asked


def _cores(asked: int | None, shape: ClusterShape) -> float:
    if asked is None:
        return float(shape.cores)
    if isinstance(asked, bool) or not isinstance(asked, (int, float)) or not asked >= 0:
        raise ValueError(f"ray_node_cpu_cores is a number of at least 0, not {asked!r}")
    return float(asked)


def _extra_resources(extra_params: Mapping[str, Any]) -> dict[str, float]:
    resources: dict[str, float] = {}
    for key, value in extra_params.items():
        if not isinstance(key, str):
            raise TypeError(f"extra_params has {key!r}: its names are text")
        name = key.lstrip("-").replace("-", "_")
        if name == "num_gpus":
            check_gpus(_amount("num_gpus", value))
        elif name == "resources":
            try:
                given = json.loads(value) if isinstance(value, str) else value
            except ValueError as error:
                raise ValueError(f"extra_params['resources'] is not JSON: {value!r} ({error})") from error
            if not isinstance(given, Mapping):
                raise TypeError(f"extra_params['resources'] is a dict of amounts, not {value!r}")
            for resource, amount in given.items():
                if resource in ("CPU", "GPU", "memory", "object_store_memory"):
                    raise ValueError(f"extra_params['resources'] has {resource}: it has an argument of its own")
                resources[str(resource)] = _amount(str(resource), amount)
        else:
            raise NotImplementedError(
                f"extra_params[{key!r}] is an option of `ray start`, which does not exist here: resources is what can "
                "be given"
            )
    return resources


def _amount(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise ValueError(f"resource {name} is a number of at least 0, not {value!r}")
    return float(value)


def _worker_env(env: Mapping[str, str]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"env has {name!r}: {value!r}; names and values are text")
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"env has the impossible name or value {name!r}")
        if name.startswith(_NOT_FOR_WORKERS) or name in _NOT_FOR_WORKERS_EXACT:
            continue
        chosen[name] = value
    return chosen
