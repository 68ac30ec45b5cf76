"""Tasks and actors in bundles of placement groups: what their options say, and whether they fit."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparkray._private import worker
from sparkray.util.placement_group import PlacementGroup, get_current_placement_group
from sparkray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

# Ray's older options, instead of a PlacementGroupSchedulingStrategy.
OLDER_OPTIONS = frozenset({"placement_group", "placement_group_bundle_index", "placement_group_capture_child_tasks"})
_ANY_BUNDLE = -1


@dataclass(frozen=True)
class Place:
    """Where in a group something is to run."""

    group: PlacementGroup
    # One bundle; -1: any.
    index: int
    # Whether what it calls goes to the group too.
    captures_child_tasks: bool

    def native(self) -> tuple[Any, ...]:
        """As the native side takes it."""
        index = None if self.index == _ANY_BUNDLE else self.index
        return ("BUNDLE", self.group.id.binary(), index, self.captures_child_tasks)


def check(options: Mapping[str, Any]) -> None:
    """Checks the kinds of what options say of a group. Raises TypeError or ValueError."""
    group = options.get("placement_group", "default")
    strategy = options.get("scheduling_strategy")
    if group not in ("default", None) and strategy is not None:
        raise ValueError("placement_group and scheduling_strategy exclude each other: use scheduling_strategy alone")
    if isinstance(strategy, PlacementGroupSchedulingStrategy):
        group, index = strategy.placement_group, strategy.placement_group_bundle_index
        captures = strategy.placement_group_capture_child_tasks
    else:
        index = options.get("placement_group_bundle_index", _ANY_BUNDLE)
        captures = options.get("placement_group_capture_child_tasks")
    if group not in ("default", None) and not isinstance(group, PlacementGroup):
        raise TypeError(f"placement_group is what placement_group() gives, or None, not a {type(group).__name__}")
    if isinstance(index, bool) or not isinstance(index, int):
        raise TypeError(f"placement_group_bundle_index is an int, not a {type(index).__name__}")
    if captures is not None and not isinstance(captures, bool):
        raise TypeError(f"placement_group_capture_child_tasks is True, False or None, not a {type(captures).__name__}")


def place_of(options: Mapping[str, Any]) -> Place | None:
    """Where the options, or what runs here, want a task or actor; None: in no group.

    Without a strategy it goes where its caller is, if that was to capture what it calls.

    Raises:
        TypeError, ValueError: the options cannot be read, or the group has no such bundle.
    """
    check(options)
    strategy = options.get("scheduling_strategy")
    if isinstance(strategy, PlacementGroupSchedulingStrategy):
        group: Any = strategy.placement_group
        index = strategy.placement_group_bundle_index
        captures = strategy.placement_group_capture_child_tasks
    elif strategy is None and not options.get("label_selector"):
        group = options.get("placement_group", "default")
        index = options.get("placement_group_bundle_index", _ANY_BUNDLE)
        captures = options.get("placement_group_capture_child_tasks")
    else:
        return None
    if captures is None:
        current = worker.state.placement_group
        captures = current is not None and current.captures_child_tasks
    if group == "default":
        group = get_current_placement_group() if captures else None
    if group is None or group.is_empty:
        if index != _ANY_BUNDLE:
            raise ValueError(f"placement_group_bundle_index is {index}, and there is no placement group: leave it out")
        return None
    count = group.bundle_count
    if not _ANY_BUNDLE <= index < count:
        raise ValueError(
            f"placement group bundle index {index} is invalid: {group.id!r} has the indexes 0 to {count - 1}, and -1 "
            "for any of them"
        )
    return Place(group, index, captures)


def check_fit(place: Place, resources: Mapping[str, float], placement: Mapping[str, float], what: str) -> None:
    """Raises ValueError when no bundle of the group can have this, however long it waits.

    Args:
        place: where it is to run; also when it asks for one bundle, any of them counts, as in Ray.
        resources: what it takes while it runs.
        placement: what has to be there for it to be placed.
        what: task or actor, for the message.
    """
    specs = place.group.bundle_specs
    if not _fits(resources, specs):
        raise ValueError(
            f"{what} cannot fit into any bundle of its placement group: it asks for {dict(resources)}, and the "
            f"bundles are {specs}"
        )
    if not _fits(placement, specs):
        raise ValueError(
            f"{what} cannot fit into any bundle of its placement group: it needs {placement.get('CPU', 0)} CPU to be "
            f"created, and the bundles are {specs}; write num_cpus=0, or reserve CPUs in a bundle"
        )


def _fits(resources: Mapping[str, float], specs: list[dict[str, float]]) -> bool:
    return any(all(bundle.get(name, 0) >= amount for name, amount in resources.items()) for bundle in specs)


def reservation_check(group: PlacementGroup) -> Any:
    """A reference that is there when the group is: to what a task in it returns that asks for nothing."""
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=False)
    return _reservation_check().options(scheduling_strategy=strategy).remote(group)


@functools.cache
def _reservation_check() -> Any:
    from sparkray._private.remote_function import RemoteFunction

    return RemoteFunction(_same, {"num_cpus": 0, "max_retries": -1, "name": "PlacementGroup.ready"})


def _same(group: PlacementGroup) -> PlacementGroup:
    return group
