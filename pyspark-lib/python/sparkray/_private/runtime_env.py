"""`runtime_env`: what a task, an actor or a job wants around its processes. So far environment variables.

A task or actor has what its own option names, over what its parent has: the task that calls it, or the driver's `init`.
Workers with other variables are other processes, forked from a zygote that was started with them, so that what reads a
variable when it is imported sees it too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from sparkray._private import worker

# Set by the raylet for workers of such an environment (runtime/raylet/src/workers/zygote.rs).
_VARIABLE = "SPARKRAY_RUNTIME_ENV"
# What changes nothing about the processes.
_WITHOUT_EFFECT = frozenset({"config", "_validate"})


def check(runtime_env: Any) -> dict[str, str]:
    """The variables of a `runtime_env`.

    Raises:
        TypeError: it is no dict, or env_vars are not strings by names that are strings.
        ValueError: a name that no variable can have, or that is sparkray's own.
        NotImplementedError: it has something else than env_vars.
    """
    if runtime_env is None:
        return {}
    if not isinstance(runtime_env, Mapping):
        raise TypeError(f"runtime_env is a dict, not a {type(runtime_env).__name__}")
    later = sorted(
        str(name) for name, value in runtime_env.items() if name != "env_vars" and name not in _WITHOUT_EFFECT and value
    )
    if later:
        raise NotImplementedError(
            f"runtime_env with {', '.join(later)} is not there yet, only env_vars: install packages where the workers "
            "run (on Spark in the environment that is shipped), and leave it out"
        )
    variables = runtime_env.get("env_vars")
    if variables is None:
        return {}
    wanted = "runtime_env['env_vars'] must be of type Dict[str, str]"
    if not isinstance(variables, Mapping):
        raise TypeError(f"{wanted}, got a {type(variables).__name__}")
    for name, value in variables.items():
        # Values may be secrets.
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"{wanted}, got a {type(value).__name__} for {name!r}")
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"runtime_env['env_vars'] has {name!r}, which cannot be an environment variable")
        if name.startswith("SPARKRAY_"):
            raise ValueError(f"runtime_env['env_vars'] has {name}: variables that begin with SPARKRAY_ are its own")
    return dict(variables)


def current() -> dict[str, str]:
    """The variables that what this process calls inherits: those of its task or actor, or of the driver's `init`."""
    if worker.state.is_driver:
        return worker.state.env_vars
    if worker.state.is_participant:
        return worker.job_env_vars()
    variables: dict[str, str] = json.loads(os.environ.get(_VARIABLE) or "{}").get("env_vars", {})
    return variables


def env_vars_of(options: Mapping[str, Any]) -> dict[str, str] | None:
    """The variables for workers that run something with these options; None: those of the node."""
    return {**current(), **check(options.get("runtime_env"))} or None
