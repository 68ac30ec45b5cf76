"""Checks what `@remote(...)` and `.options(...)` are given."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

from sparkray._private import bundles, runtime_env, scheduling

# Ray's options that mean something only when they differ from these values; they are not there yet.
_LATER: dict[str, tuple[Any, ...]] = {
    "fallback_strategy": (None, []),
    "accelerator_type": (None,),
    "_generator_backpressure_num_objects": (None, -1),
    "max_calls": (0,),
    "max_task_retries": (0,),
    "max_pending_calls": (-1,),
    "concurrency_groups": (None, {}, []),
    "enable_tensor_transport": (None, False),
    "object_store_memory": (None,),
}
# Accepted without effect.
_WITHOUT_EFFECT = frozenset({"enable_task_events", "_labels", "_metadata"})

# Checked together.
_PLACE = frozenset({"scheduling_strategy", "label_selector"}) | bundles.OLDER_OPTIONS

_COMMON = _PLACE | {"num_cpus", "num_gpus", "memory", "resources", "name", "runtime_env"}
TASK_OPTIONS = _COMMON | {"num_returns", "max_retries", "retry_exceptions"}
ACTOR_OPTIONS = _COMMON | {
    "namespace",
    "lifetime",
    "max_restarts",
    "max_concurrency",
    "get_if_exists",
    "allow_out_of_order_execution",
}


def check(options: Mapping[str, Any], *, is_actor: bool) -> dict[str, Any]:
    """The options that were given and mean something. Raises TypeError or ValueError for the others."""
    known = ACTOR_OPTIONS if is_actor else TASK_OPTIONS
    what = "actors" if is_actor else "tasks"
    checked: dict[str, Any] = {}
    for name, value in options.items():
        if name in known:
            if name not in _PLACE:
                _check_value(name, value)
            checked[name] = value
        elif name in _LATER:
            if not any(value is allowed or value == allowed for allowed in _LATER[name]):
                raise NotImplementedError(f"option {name}={value!r} is not there yet: leave it out")
        elif name not in _WITHOUT_EFFECT:
            raise ValueError(unknown(f"option {name!r} for {what}", name, known))
    scheduling.check(checked)
    return checked


METHOD_OPTIONS = frozenset({"num_returns", "name"})
# As _LATER, for methods of actors.
_LATER_FOR_METHODS: dict[str, tuple[Any, ...]] = {
    "concurrency_group": (None,),
    "max_task_retries": (None, 0),
    "retry_exceptions": (None, False),
    "_generator_backpressure_num_objects": (None, -1),
    "tensor_transport": (None,),
}


def check_method(options: Mapping[str, Any]) -> int | None:
    """Checks options of an actor's method; gives `num_returns`. Raises as `check`."""
    for name, value in options.items():
        if name in METHOD_OPTIONS:
            if value is not None:
                _check_value(name, value)
        elif name in _LATER_FOR_METHODS:
            if not any(value is allowed or value == allowed for allowed in _LATER_FOR_METHODS[name]):
                raise NotImplementedError(f"option {name}={value!r} of actor methods is not there yet: leave it out")
        elif name not in _WITHOUT_EFFECT:
            known = METHOD_OPTIONS | _LATER_FOR_METHODS.keys()
            raise ValueError(unknown(f"option {name!r} for actor methods", name, known))
    count: int | None = options.get("num_returns")
    return count


def unknown(what: str, name: str, known: Any) -> str:
    """The sentence about a name that nothing has, with the most similar one that exists."""
    similar = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f"did you mean {similar[0]!r}?" if similar else f"there are: {', '.join(sorted(known))}"
    return f"unknown {what}; {hint}"


def _check_value(name: str, value: Any) -> None:
    if name in ("num_cpus", "num_gpus", "memory"):
        if value is not None:
            check_quantity(name, value)
    elif name == "resources":
        check_resources(value)
    elif name == "runtime_env":
        runtime_env.check(value)
    elif name in ("max_retries", "max_restarts"):
        _check_integer(name, value, -1, "-1 for no limit, or at least 0")
    elif name == "max_concurrency":
        if value is not None:
            _check_integer(name, value, 1, "at least 1")
    elif name == "num_returns":
        if value in ("dynamic", "streaming"):
            raise NotImplementedError(f"num_returns={value!r} is not there yet: return a list, or use a fixed number")
        if value is not None:
            _check_integer(name, value, 0, "at least 0")
    elif name == "retry_exceptions":
        if isinstance(value, (list, tuple)):
            raise NotImplementedError("retry_exceptions as a list is not there yet: use True or False")
        _check_kind(name, value, bool, "True or False")
    elif name == "lifetime":
        if value not in (None, "detached", "non_detached"):
            raise ValueError(f"lifetime is 'detached', 'non_detached' or None, not {value!r}")
    elif name == "allow_out_of_order_execution":
        if value is not None:
            _check_kind(name, value, bool, "True, False or None")
    elif name == "get_if_exists":
        _check_kind(name, value, bool, "True or False")
    elif value is not None:  # name, namespace
        _check_kind(name, value, str, "a string")
        if not value:
            raise ValueError(f"{name} is a string that is not empty, or None")


def _check_kind(name: str, value: Any, kind: type, wanted: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} is {wanted}, not a {type(value).__name__}")


def _check_integer(name: str, value: Any, least: int, wanted: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is an int, not a {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} is {wanted}, not {value}")


# What amounts of resources are counted in.
_FINEST = 0.0001


def check_quantity(name: str, value: Any) -> float:
    """An amount of a resource: a number of at least 0. What is finer than 0.0001 is cut off."""
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name} is a number, not a {type(value).__name__}")
    amount = float(value)
    if not 0 <= amount < 2**53:
        raise ValueError(f"{name} is a number of at least 0, not {value}")
    if 0 < amount < _FINEST:
        raise ValueError(f"{name} goes in steps of 0.0001, and {value} is finer")
    steps = amount / _FINEST
    nearest = round(steps)
    # 0.29 is meant to be 2900 steps, although it is a little less.
    is_meant = abs(steps - nearest) <= 1e-6 * max(1.0, steps)
    return (nearest if is_meant else math.floor(steps)) / 10000


def check_resources(resources: Any) -> dict[str, float]:
    """Custom resources: a dict of names and amounts, without CPU and GPU."""
    if resources is None:
        return {}
    _check_kind("resources", resources, dict, "a dict of names and amounts")
    checked: dict[str, float] = {}
    for name, amount in resources.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"names of resources are strings, not {name!r}")
        if name in ("CPU", "GPU"):
            raise ValueError(f"write num_{name.lower()}s={amount!r} instead of {name!r} in resources")
        checked[name] = check_quantity(f"resource {name!r}", amount)
    return checked


def resources_of(options: Mapping[str, Any]) -> dict[str, float]:
    """The resources that the options name, without defaults."""
    resources = check_resources(options.get("resources"))
    for option, resource in (("num_cpus", "CPU"), ("num_gpus", "GPU"), ("memory", "memory")):
        amount = options.get(option)
        if amount is not None:
            counted = check_quantity(option, amount)
            resources[resource] = float(int(counted)) if option == "memory" else counted
    return resources
