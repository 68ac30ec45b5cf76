"""The options `scheduling_strategy` and `label_selector`: checked, and as the native side takes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sparkray._private import bundles
from sparkray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

# Key, operator ("in", "!in", "exists", "!exists"), values.
_Constraint = tuple[str, str, list[str]]

# Letters, digits and ._- between letters or digits; the domain before the slash of a key has a dot (ray.io/node-id).
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_DOMAIN = r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_KEY = re.compile(rf"(?:{_DOMAIN}/)?{_NAME}")
_VALUE = re.compile(rf"(?:{_NAME})?")
_SELECTION = re.compile(r"(?P<not>!?)(?:in\((?P<list>[^()]*)\)|(?P<value>[^()!]*))")


def check(options: Mapping[str, Any]) -> None:
    """Checks what options say of nodes and groups. Raises as `strategy_of`, but asks nobody about a group."""
    bundles.check(options)
    _of_node(options)


def strategy_of(
    options: Mapping[str, Any], resources: Mapping[str, float], placement: Mapping[str, float], what: str
) -> tuple[Any, ...] | None:
    """Where something is to run, for the native side; None: on any node, as Ray's DEFAULT.

    Args:
        options: its own.
        resources: what it takes while it runs.
        placement: what has to be there for it to be placed.
        what: task or actor, for messages.

    Raises:
        TypeError, ValueError: an option cannot be read, or a placement group can never have this.
        NotImplementedError: options that cannot be combined yet.
    """
    of_node = _of_node(options)
    place = bundles.place_of(options)
    if place is None:
        return of_node
    bundles.check_fit(place, resources, placement, what)
    return place.native()


def _of_node(options: Mapping[str, Any]) -> tuple[Any, ...] | None:
    strategy = _native(options.get("scheduling_strategy"))
    if options.get("label_selector") and (
        isinstance(options.get("scheduling_strategy"), PlacementGroupSchedulingStrategy)
        or options.get("placement_group") not in (None, "default")
    ):
        raise NotImplementedError("label_selector together with a placement group is not there yet: leave one out")
    selections = _selections(options.get("label_selector"))
    if not selections:
        return strategy
    if strategy is not None:
        raise NotImplementedError(
            "label_selector together with scheduling_strategy is not there yet: use "
            "NodeLabelSchedulingStrategy(hard=..., soft=...)"
        )
    return ("NODE_LABELS", selections, [])


def _native(strategy: Any) -> tuple[Any, ...] | None:
    if strategy is None or strategy == "DEFAULT" or isinstance(strategy, PlacementGroupSchedulingStrategy):
        return None
    if strategy == "SPREAD":
        return ("SPREAD",)
    if isinstance(strategy, NodeAffinitySchedulingStrategy):
        return ("NODE_AFFINITY", bytes.fromhex(strategy.node_id), strategy.soft)
    if isinstance(strategy, NodeLabelSchedulingStrategy):
        constraints = [
            [
                (check_key(key), operator._symbol, [check_value(key, value) for value in operator.values])
                for key, operator in operators.items()
            ]
            for operators in (strategy.hard, strategy.soft)
        ]
        return ("NODE_LABELS", *constraints)
    if isinstance(strategy, str):
        raise ValueError(f"scheduling_strategy is 'DEFAULT', 'SPREAD' or an object, not {strategy!r}")
    raise TypeError(
        "scheduling_strategy is 'DEFAULT', 'SPREAD' or an object of sparkray.util.scheduling_strategies, not a "
        f"{type(strategy).__name__}"
    )


def _selections(selector: Any) -> list[_Constraint]:
    if selector is None:
        return []
    if not isinstance(selector, Mapping):
        raise TypeError(f"label_selector is a dict of labels and values, not a {type(selector).__name__}")
    return [_selection(key, text) for key, text in selector.items()]


def _selection(key: Any, text: Any) -> _Constraint:
    check_key(key)
    if not isinstance(text, str):
        raise TypeError(f"the value for {key!r} in label_selector is a string, not a {type(text).__name__}")
    match = _SELECTION.fullmatch(text)
    if match is None:
        raise _bad_selection(key, text)
    if match["list"] is not None:
        values = [value.strip() for value in match["list"].split(",")]
        if not all(values):
            raise _bad_selection(key, text)
    else:
        values = [match["value"]]
        if match["not"] and not match["value"]:
            raise _bad_selection(key, text)
    if not all(_VALUE.fullmatch(value) for value in values):
        raise _bad_selection(key, text)
    return (key, f"{match['not']}in", values)


def _bad_selection(key: str, text: str) -> ValueError:
    return ValueError(
        f"label_selector[{key!r}] is a value, !value, in(value, value) or !in(value, value), not {text!r}; values have "
        "at most 63 letters, digits, dots, dashes and underscores, and begin and end with a letter or digit"
    )


def check_labels(labels: Any) -> dict[str, str]:
    """Labels of a node. Raises TypeError or ValueError."""
    if labels is None:
        return {}
    if not isinstance(labels, Mapping):
        raise TypeError(f"labels is a dict of names and values, not a {type(labels).__name__}")
    return {check_key(key): check_value(key, value) for key, value in labels.items()}


def check_key(key: Any) -> str:
    """The name of a label. Raises TypeError or ValueError."""
    if not isinstance(key, str):
        raise TypeError(f"names of labels are strings, not {key!r}")
    if not _KEY.fullmatch(key):
        raise ValueError(
            f"{key!r} is no name of a label: at most 63 letters, digits, dots, dashes and underscores that begin and "
            "end with a letter or digit; before it there may be a domain and a slash, as in ray.io/node-id"
        )
    return key


def check_value(key: str, value: Any) -> str:
    """The value of a label. Raises TypeError or ValueError."""
    if not isinstance(value, str):
        raise TypeError(f"values of labels are strings, and that of {key!r} is {value!r}")
    if not _VALUE.fullmatch(value):
        raise ValueError(
            f"{value!r}, the value of {key!r}, is no value of a label: at most 63 letters, digits, dots, dashes and "
            "underscores that begin and end with a letter or digit"
        )
    return value
