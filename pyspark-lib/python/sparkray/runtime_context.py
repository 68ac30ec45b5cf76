"""What a task, actor or driver can ask about itself (Ray: ray.runtime_context)."""

from __future__ import annotations

import json
from typing import Any

from sparkray._private import runtime_env, worker
from sparkray._private.ids import HexId, PlacementGroupID

__all__ = ["RuntimeContext", "get_runtime_context"]

# What Ray's RuntimeContext has.
_LATER = {
    "get_resource_ids": "GPUs are not assigned to tasks yet",
    "get_accelerator_ids": "GPUs are not assigned to tasks yet",
    "get_session_name": "sessions have no name",
    "get_temp_dir": "init() tells the driver its session_dir",
    "gcs_address": "init() tells the driver its address",
}


class RuntimeContext:
    """Facts about this process and the task that runs in it. Ids are hexadecimal strings.

    All methods raise RaySystemError when sparkray is not running in this process, and what Ray has and sparkray does
    not have yet raises NotImplementedError.
    """

    def __getattr__(self, name: str) -> Any:
        if name in _LATER:
            raise NotImplementedError(f"get_runtime_context().{name} is not there yet: {_LATER[name]}")
        raise AttributeError(f"'RuntimeContext' object has no attribute {name!r}")

    def get_job_id(self) -> str:
        """The driver program that this work belongs to.

        Returns:
            Its id, in hexadecimal.
        """
        return worker.core_worker().job_id

    def get_node_id(self) -> str:
        """The node of this process.

        Returns:
            Its id, in hexadecimal.
        """
        return worker.core_worker().node_id

    def get_worker_id(self) -> str:
        """This process.

        Returns:
            Its id, in hexadecimal.
        """
        return worker.core_worker().worker_id

    def get_task_id(self) -> str | None:
        """The task that runs on this thread or in this coroutine.

        Returns:
            Its id, in hexadecimal; None in a driver.
        """
        return _hex((_task() or {}).get("task_id"))

    def get_task_name(self) -> str | None:
        """The name of the task that runs.

        Returns:
            Function, or Class.method, or what `.options(name=...)` said; None in a driver.
        """
        name = (_task() or {}).get("name")
        return None if name is None else str(name)

    def get_task_function_name(self) -> str | None:
        """The function of the task that runs.

        Returns:
            As `get_task_name`: workers are told one name. Ray gives the function with its module.
        """
        return self.get_task_name()

    def is_canceled(self) -> bool:
        """Whether the task that runs was cancelled: a method of an actor, which is not interrupted, may look and end.

        Returns:
            Whether `cancel` was called for it, or for what called it with recursive=True.

        Raises:
            AssertionError: in a driver.
        """
        _only_in_workers()
        task = _task()
        return task is not None and worker.core_worker().is_cancelled(task["task_id"])

    def get_actor_id(self) -> str | None:
        """The actor in whose worker this runs.

        Returns:
            Its id, in hexadecimal; None outside of an actor.
        """
        return _hex(_actor().get("actor_id"))

    def get_actor_name(self) -> str | None:
        """The name of the actor in whose worker this runs.

        Returns:
            The name that it was given, "" when it has none; None outside of an actor.
        """
        actor = _actor()
        return str(actor.get("name") or "") if actor else None

    def get_placement_group_id(self) -> str | None:
        """The placement group that this task or actor is in.

        Returns:
            Its id, in hexadecimal; None outside of groups.
        """
        worker.core_worker()
        current = worker.state.placement_group
        return None if current is None else current.group_id.hex()

    @property
    def current_placement_group_id(self) -> PlacementGroupID:
        """See get_placement_group_id; with hex() and binary(), and the nil id outside of groups."""
        found = self.get_placement_group_id()
        return PlacementGroupID.nil() if found is None else PlacementGroupID(found)

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """Whether what is called from here goes into the placement group of this task or actor."""
        worker.core_worker()
        current = worker.state.placement_group
        return current is not None and current.captures_child_tasks

    def get_node_labels(self) -> dict[str, str]:
        """The labels of the node of this process.

        Returns:
            Values by name, as given to `init` or `add_node`.
        """
        core = worker.core_worker()
        for node in core.nodes():
            if node["node_id"] == core.node_id:
                return dict(node.get("labels", {}))
        return {}

    def get_runtime_env_string(self) -> str:
        """What this task, actor or driver has as its runtime environment.

        Returns:
            JSON, for example '{"env_vars": {"A": "1"}}'; "{}" when it has none.
        """
        return json.dumps(self.runtime_env)

    @property
    def runtime_env(self) -> dict[str, Any]:
        """See get_runtime_env_string; as a dict."""
        worker.core_worker()
        variables = runtime_env.current()
        return {"env_vars": dict(variables)} if variables else {}

    @property
    def namespace(self) -> str:
        """The namespace in which this job finds named actors."""
        return worker.job_namespace()

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether the actor runs again after its worker died. False in a task; AssertionError in a driver."""
        _only_in_workers()
        return int(_actor().get("incarnation") or 0) > _FIRST_INCARNATION

    @property
    def current_actor(self) -> Any:
        """The handle of the actor in whose worker this runs. Raises RuntimeError outside of one."""
        from sparkray._private.actor import handle_from_id

        actor = _actor()
        if "actor_id" not in actor or "handle_metadata" not in actor:
            raise RuntimeError("current_actor is only there inside an actor")
        return handle_from_id(actor["actor_id"], actor["handle_metadata"])

    def get_assigned_resources(self) -> dict[str, float]:
        """The resources that the actor holds.

        Returns:
            Amounts by name, for example {"CPU": 1.0}.

        Raises:
            AssertionError: in a driver.
            NotImplementedError: in a task, whose worker is not told yet.
        """
        _only_in_workers()
        actor = _actor()
        if not actor and _task() is not None:
            raise NotImplementedError(
                "get_assigned_resources() in a task is not there yet: its worker is not told; pass them as an argument"
            )
        resources = actor.get("resources") or {}
        return {str(name): float(amount) for name, amount in resources.items()}

    def get(self) -> dict[str, Any]:
        """Job, node and, inside of a task or actor, its ids.

        Returns:
            job_id, node_id, namespace, and where they exist task_id and actor_id.
        """
        facts = {
            "job_id": self.job_id,
            "node_id": self.node_id,
            "namespace": self.namespace,
            "task_id": _id(self.get_task_id()),
            "actor_id": _id(self.get_actor_id()),
        }
        return {name: value for name, value in facts.items() if value is not None}

    @property
    def job_id(self) -> HexId:
        """See get_job_id; with hex() and binary()."""
        return HexId(self.get_job_id())

    @property
    def node_id(self) -> HexId:
        """See get_node_id; with hex() and binary()."""
        return HexId(self.get_node_id())

    @property
    def worker_id(self) -> HexId:
        """See get_worker_id; with hex() and binary()."""
        return HexId(self.get_worker_id())

    @property
    def task_id(self) -> HexId | None:
        """See get_task_id; with hex() and binary(). AssertionError in a driver."""
        _only_in_workers()
        return _id(self.get_task_id())

    @property
    def actor_id(self) -> HexId | None:
        """See get_actor_id; with hex() and binary(). AssertionError in a driver."""
        _only_in_workers()
        return _id(self.get_actor_id())


_FIRST_INCARNATION = 0


def _only_in_workers() -> None:
    """Raises AssertionError in a driver, as Ray does."""
    worker.core_worker()
    if worker.state.is_driver:
        raise AssertionError("This method is only available when the process is a worker. Current mode: 0")


def _id(value: str | None) -> HexId | None:
    return None if value is None else HexId(value)


def _hex(value: Any) -> str | None:
    if value is None:
        return None
    return value if isinstance(value, str) else bytes(value).hex()


def _task() -> dict[str, Any] | None:
    worker.core_worker()
    if worker.state.is_driver:
        return None
    from sparkray._private import worker_main

    return worker_main.current_task()


def _actor() -> dict[str, Any]:
    worker.core_worker()
    if worker.state.is_driver:
        return {}
    from sparkray._private import worker_main

    return worker_main.actor_info


_context = RuntimeContext()


def get_runtime_context() -> RuntimeContext:
    """What is known about this process and its task (Ray: ray.get_runtime_context).

    Returns:
        An object whose methods tell it.

    Raises:
        RaySystemError: by its methods, when sparkray is not running in this process.
    """
    return _context
