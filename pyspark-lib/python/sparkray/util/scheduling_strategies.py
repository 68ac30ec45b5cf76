"""Where tasks and actors run, for the option `scheduling_strategy` (Ray: ray.util.scheduling_strategies).

Besides the objects of this module there are the strings "DEFAULT" (near the caller and the arguments while there is
room) and "SPREAD" (on one node after the other).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparkray.util.placement_group import PlacementGroup

__all__ = [
    "DoesNotExist",
    "Exists",
    "In",
    "NodeAffinitySchedulingStrategy",
    "NodeLabelSchedulingStrategy",
    "NotIn",
    "PlacementGroupSchedulingStrategy",
]


class NodeAffinitySchedulingStrategy:
    """Runs on one node.

    Args:
        node_id: the node's id in hexadecimal, as `nodes()` and `get_runtime_context().get_node_id()` give it.
        soft: True: elsewhere when that node is dead or can never have the resources. False: then the task fails with
            TaskUnschedulableError, and calls of the actor with ActorUnschedulableError.

    While the node is alive but busy, the task or actor waits for it in both cases.

    Raises:
        TypeError: soft is no bool.
        ValueError: node_id is no id of a node.
        NotImplementedError: one of Ray's private arguments is True.
    """

    def __init__(
        self,
        node_id: str,
        soft: bool,
        _spill_on_unavailable: bool = False,
        _fail_on_unavailable: bool = False,
    ) -> None:
        self.node_id = node_id if isinstance(node_id, str) else node_id.hex()
        self.soft = soft
        if not isinstance(soft, bool):
            raise TypeError(f"soft is True or False, not a {type(soft).__name__}")
        if _spill_on_unavailable or _fail_on_unavailable:
            raise NotImplementedError(
                "_spill_on_unavailable and _fail_on_unavailable are not there yet: leave them out"
            )
        self._spill_on_unavailable = False
        self._fail_on_unavailable = False
        try:
            is_id = len(bytes.fromhex(self.node_id)) == 16
        except ValueError:
            is_id = False
        if not is_id:
            raise ValueError(f"node_id is 32 hexadecimal digits, as nodes() gives them, not {self.node_id!r}")

    def __repr__(self) -> str:
        return f"NodeAffinitySchedulingStrategy({self.node_id!r}, soft={self.soft})"


class _Operator:
    """What the value of a label must be."""

    _symbol: str

    def __init__(self) -> None:
        self.values: list[str] = []

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.values))})"


class _OperatorOfValues(_Operator):
    def __init__(self, *values: str) -> None:
        super().__init__()
        if not values:
            raise ValueError(f"{type(self).__name__} needs at least one value")
        for value in values:
            if not isinstance(value, str):
                raise TypeError(f"values of labels are strings, not {value!r}")
        self.values = list(values)


class In(_OperatorOfValues):
    """The label has one of these values."""

    _symbol = "in"


class NotIn(_OperatorOfValues):
    """The label has none of these values, or is not there."""

    _symbol = "!in"


class Exists(_Operator):
    """There is such a label."""

    _symbol = "exists"


class DoesNotExist(_Operator):
    """There is no such label."""

    _symbol = "!exists"


class NodeLabelSchedulingStrategy:
    """Runs on nodes with labels, as `init(labels=...)` gives them.

    Args:
        hard: operators (In, NotIn, Exists, DoesNotExist) by the name of a label; a node must meet all of them. Without
            such a node the task or actor waits for one.
        soft: the same for nodes that come first.

    Raises:
        TypeError: a name is no string, or a value no operator.
        ValueError: hard and soft are empty.
    """

    def __init__(self, hard: Mapping[str, _Operator] | None = None, *, soft: Mapping[str, _Operator] | None = None):
        self.hard = _checked("hard", hard)
        self.soft = _checked("soft", soft)
        if not self.hard and not self.soft:
            raise ValueError("hard and soft cannot both be empty")

    def __repr__(self) -> str:
        return f"NodeLabelSchedulingStrategy(hard={self.hard}, soft={self.soft})"


def _checked(name: str, operators: Mapping[str, _Operator] | None) -> dict[str, _Operator]:
    if operators is None:
        return {}
    if not isinstance(operators, Mapping):
        raise TypeError(f"{name} is a dict of labels and operators, not a {type(operators).__name__}")
    for key, operator in operators.items():
        if not isinstance(key, str) or not key:
            raise TypeError(f"names of labels in {name} are strings that are not empty, not {key!r}")
        if not isinstance(operator, _Operator):
            raise TypeError(f"write In({operator!r}), NotIn(...), Exists() or DoesNotExist() for {key!r} in {name}")
    return dict(operators)


class PlacementGroupSchedulingStrategy:
    """Runs in a placement group.

    Args:
        placement_group: the group; None: in no group.
        placement_group_bundle_index: the bundle, from 0; -1: any of them.
        placement_group_capture_child_tasks: whether tasks and actors that are called from there, and that name no
            strategy, go into the group too; None: as it is for the caller, which in a driver is False.

    What cannot fit into the group is refused by `remote()` with a ValueError, an index that there is not too.
    """

    def __init__(
        self,
        placement_group: PlacementGroup | None,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks

    def __repr__(self) -> str:
        return f"PlacementGroupSchedulingStrategy({self.placement_group!r}, {self.placement_group_bundle_index})"
