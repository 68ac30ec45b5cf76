"""Resources that are reserved together, on one node or several, for tasks and actors (Ray: ray.util.placement_group).

group = placement_group([{"CPU": 2}, {"CPU": 2}], strategy="SPREAD")
get(group.ready())
strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
f.options(scheduling_strategy=strategy).remote()
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sparkray._private import worker
from sparkray._private.ids import PlacementGroupID

if TYPE_CHECKING:
    from sparkray._native import ObjectRef

__all__ = [
    "VALID_PLACEMENT_GROUP_STRATEGIES",
    "PlacementGroup",
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]

VALID_PLACEMENT_GROUP_STRATEGIES = frozenset({"PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"})

# Every bundle offers some of it under this name.
_RESERVED_RESOURCE = "bundle"


class PlacementGroup:
    """A handle to a placement group; it can be passed to tasks and actors, and does not keep the group.

    Attributes:
        id: of the group, with `hex()`, `binary()` and `is_nil()`.
        bundle_cache: the bundles, when this process knows them already.
    """

    def __init__(self, id: PlacementGroupID, bundle_cache: list[dict[str, float]] | None = None) -> None:
        self.id = id
        self.bundle_cache = bundle_cache

    @staticmethod
    def empty() -> PlacementGroup:
        """The handle that stands for no group."""
        return PlacementGroup(PlacementGroupID.nil())

    @property
    def is_empty(self) -> bool:
        """Whether it stands for no group."""
        return self.id.is_nil()

    def ready(self) -> ObjectRef[PlacementGroup]:
        """A reference that is there when the group is created; for `get`, `wait` and `await`.

        Returns:
            The reference to this handle. When the group is removed before, getting it raises
            TaskPlacementGroupRemoved.

        Raises:
            RaySystemError: sparkray is not running in this process.
        """
        if self.is_empty:
            return worker.put(self)
        # It is imported by what this module is imported by.
        from sparkray._private import bundles

        ref: ObjectRef[PlacementGroup] = bundles.reservation_check(self)
        return ref

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Waits until the group is created.

        Args:
            timeout_seconds: how long at most, in seconds.

        Returns:
            Whether it is created.

        Raises:
            ValueError: the group was removed, or never existed.
            TypeError: timeout_seconds is no number.
            RaySystemError: sparkray is not running in this process.
        """
        timeout = worker.check_timeout(timeout_seconds)
        core = worker.core_worker()
        found = core.placement_group(self.id.binary(), float("inf") if timeout is None else timeout)
        if found is None or found["state"] == "REMOVED":
            raise ValueError(f"Placement group {self.id!r} does not exist: it was removed, or never created")
        return bool(found["state"] == "CREATED")

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """The bundles, as amounts by the names of resources. Raises ValueError when the cluster knows no such group."""
        if not self.bundle_cache:
            found = worker.core_worker().placement_group(self.id.binary())
            if found is None:
                raise ValueError(f"Placement group {self.id!r} does not exist")
            self.bundle_cache = found["bundles"]
        return self.bundle_cache

    @property
    def bundle_count(self) -> int:
        """How many bundles there are. Raises as `bundle_specs`."""
        return len(self.bundle_specs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroup) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"PlacementGroup({self.id!r})"


def placement_group(
    bundles: list[dict[str, float]],
    strategy: str = "PACK",
    name: str = "",
    lifetime: str | None = None,
    _soft_target_node_id: str | None = None,
    bundle_label_selector: list[dict[str, str]] | None = None,
) -> PlacementGroup:
    """Has resources reserved for a group of bundles: all of them, or none yet (Ray: ray.util.placement_group).

    Returns at once. The group waits until the nodes have room for all bundles together; `ready` and `wait` tell when.

    Args:
        bundles: for each bundle the amounts by the names of resources, for example [{"CPU": 1, "memory": 1e9}]. A
            bundle is on one node.
        strategy: "PACK" (on few nodes), "SPREAD" (on many), "STRICT_PACK" (on one), "STRICT_SPREAD" (each on another).
        name: for `get_placement_group`, in this driver's namespace; "": none.
        lifetime: None: the group ends with its driver program; "detached": it is there until `remove_placement_group`,
            or the end of the cluster.
        _soft_target_node_id, bundle_label_selector: not there yet.

    Returns:
        The handle. What ran in the group is killed when the group is removed.

    Raises:
        ValueError: no bundle, a bundle without resources, an unknown strategy or lifetime, or the name is taken.
        NotImplementedError: an argument that is not there yet.
        RaySystemError: sparkray is not running in this process.
    """
    core = worker.core_worker()
    _check_bundles(bundles)
    if strategy not in VALID_PLACEMENT_GROUP_STRATEGIES:
        raise ValueError(f"strategy is one of {', '.join(sorted(VALID_PLACEMENT_GROUP_STRATEGIES))}, not {strategy!r}")
    if lifetime not in (None, "detached"):
        raise ValueError(f"lifetime of a placement group is None or 'detached', not {lifetime!r}")
    if not isinstance(name, str):
        raise TypeError(f"name is a string, not a {type(name).__name__}")
    _refuse_later(bundles, _soft_target_node_id, bundle_label_selector)
    amounts = [{resource: float(amount) for resource, amount in bundle.items() if amount} for bundle in bundles]
    namespace = worker.job_namespace() if name else ""
    group_id = core.create_placement_group(amounts, strategy, name, namespace, lifetime == "detached")
    return PlacementGroup(PlacementGroupID(group_id.hex()), [dict(bundle) for bundle in bundles])


def _check_bundles(bundles: Any) -> None:
    example = 'for example [{"CPU": 1}, {"CPU": 1, "memory": 1e9}]'
    if not isinstance(bundles, list):
        raise ValueError(f"bundles is a list of dicts, {example}, not a {type(bundles).__name__}")
    if not bundles:
        raise ValueError(f"bundles cannot be empty: write {example}")
    for bundle in bundles:
        if not isinstance(bundle, Mapping):
            raise ValueError(f"a bundle is a dict of names and amounts, {example}, not {bundle!r}")
        for name, amount in bundle.items():
            if not isinstance(name, str) or not isinstance(amount, (int, float)):
                raise ValueError(f"a bundle is a dict of names and numbers, {example}, not {bundle!r}")
            if name == _RESERVED_RESOURCE:
                raise ValueError(f"{name!r} is a name that placement groups use themselves: choose another one")
        if not any(bundle.values()):
            raise ValueError(f"a bundle cannot be empty or have only amounts of 0: {bundle!r}")


def _refuse_later(bundles: list[Any], target: Any, selector: Any) -> None:
    if target is not None:
        raise NotImplementedError("_soft_target_node_id is not there yet: leave it out")
    if selector is not None and len(selector) != len(bundles):
        raise ValueError(f"bundle_label_selector has {len(selector)} entries for {len(bundles)} bundles")
    if selector is not None and any(selector):
        raise NotImplementedError("bundle_label_selector is not there yet: leave it out")


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Removes a group (Ray: ray.util.remove_placement_group).

    Its resources are free again. Actors and tasks that run in it are killed (ActorDiedError, WorkerCrashedError), those
    that wait for it fail (TaskPlacementGroupRemoved, ActorUnschedulableError), and so does what asks for it later
    (TaskPlacementGroupRemoved, ActorPlacementGroupRemoved). A group that was removed before changes nothing.

    Args:
        placement_group: its handle.

    Raises:
        TypeError: not the handle of a placement group.
        RaySystemError: sparkray is not running in this process.
    """
    if not isinstance(placement_group, PlacementGroup):
        raise TypeError(f"remove_placement_group() takes the handle of a group, not a {type(placement_group).__name__}")
    worker.core_worker().remove_placement_group(placement_group.id.binary())


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """The group with a name in this driver's namespace (Ray: ray.util.get_placement_group).

    Args:
        placement_group_name: as it was given to `placement_group`.

    Returns:
        Its handle.

    Raises:
        ValueError: the name is empty, or no group that is not removed has it.
        RaySystemError: sparkray is not running in this process.
    """
    if not placement_group_name or not isinstance(placement_group_name, str):
        raise ValueError("the name of a placement group is a string that is not empty")
    found = worker.core_worker().named_placement_group(placement_group_name, worker.job_namespace())
    if found is None:
        raise ValueError(
            f"Failed to look up placement group with name: {placement_group_name}; check the name, and the namespace "
            "given to init()"
        )
    return PlacementGroup(PlacementGroupID(found["placement_group_id"]), found["bundles"])


def get_current_placement_group() -> PlacementGroup | None:
    """The group in which the task or actor runs that calls this (Ray: ray.util.get_current_placement_group).

    Returns:
        Its handle; None outside of groups, as in a driver.

    Raises:
        RaySystemError: sparkray is not running in this process.
    """
    worker.core_worker()
    current = worker.state.placement_group
    return None if current is None else PlacementGroup(PlacementGroupID(current.group_id.hex()))


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """What the cluster knows of groups (Ray: ray.util.placement_group_table).

    Args:
        placement_group: one of them; None: all, also the last ones that were removed.

    Returns:
        A dict with `placement_group_id`, `name`, `strategy`, `state` (PENDING, CREATED, RESCHEDULING, REMOVED),
        `bundles` and `bundles_to_node_id` (by index; "" while a bundle is on no node), and `stats` with
        `scheduling_attempt` and `scheduling_state` (INFEASIBLE when the nodes that there are could never have it;
        FINISHED, REMOVED, otherwise NO_RESOURCES). For all groups a dict of such dicts by id; for an unknown group an
        empty one.

    Raises:
        RaySystemError: sparkray is not running in this process.
    """
    core = worker.core_worker()
    if placement_group is None:
        return {found["placement_group_id"]: _row(found) for found in core.placement_groups()}
    found = core.placement_group(placement_group.id.binary())
    return {} if found is None else _row(found)


def _row(found: dict[str, Any]) -> dict[str, Any]:
    settled = {"CREATED": "FINISHED", "REMOVED": "REMOVED"}
    waits = "INFEASIBLE" if found["infeasible"] else "NO_RESOURCES"
    return {
        "placement_group_id": found["placement_group_id"],
        "name": found["name"],
        "bundles": dict(enumerate(found["bundles"])),
        "bundles_to_node_id": dict(enumerate(found["nodes"])),
        "strategy": found["strategy"],
        "state": found["state"],
        "stats": {
            "scheduling_attempt": found["attempts"],
            "scheduling_state": settled.get(found["state"], waits),
        },
    }
