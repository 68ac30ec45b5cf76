"""What a task, actor or driver can ask about itself (Ray: ray.runtime_context)."""

from __future__ import annotations

from typing import Any

from sparkray._private import worker

__all__ = ["RuntimeContext", "get_runtime_context"]


class RuntimeContext:
    """Facts about this process and the task that runs in it. Ids are hexadecimal strings."""

    def get_job_id(self) -> str:
        """The driver program that this work belongs to."""
        return worker.core_worker().job_id

    def get_node_id(self) -> str:
        """The node of this process."""
        return worker.core_worker().node_id

    def get_worker_id(self) -> str:
        """This process."""
        return worker.core_worker().worker_id

    def get_task_id(self) -> str | None:
        """The task that runs on this thread, or None in a driver."""
        return _hex((_task() or {}).get("task_id"))

    def get_task_name(self) -> str | None:
        """Function, or Class.method, of the task that runs; None in a driver."""
        name = (_task() or {}).get("name")
        return None if name is None else str(name)

    get_task_function_name = get_task_name

    def get_actor_id(self) -> str | None:
        """The actor in whose worker this runs, or None."""
        return _hex(_actor().get("actor_id"))

    def get_actor_name(self) -> str | None:
        """The name that the actor was given, "" when it has none; None outside of an actor."""
        actor = _actor()
        return str(actor.get("name") or "") if actor else None

    @property
    def namespace(self) -> str:
        """The namespace in which this job finds named actors."""
        return worker.job_namespace()

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether the actor runs again after its worker died. False outside of an actor."""
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
        """The resources that the actor holds, for example {"CPU": 1.0}.

        Empty in a driver, and in tasks, whose workers are not told yet.
        """
        resources = (_task() or {}).get("resources") or _actor().get("resources") or {}
        return {str(name): float(amount) for name, amount in resources.items()}

    def get(self) -> dict[str, Any]:
        """Job, node and, inside of a task or actor, its ids."""
        facts = {
            "job_id": self.get_job_id(),
            "node_id": self.get_node_id(),
            "namespace": self.namespace,
            "task_id": self.get_task_id(),
            "actor_id": self.get_actor_id(),
        }
        return {name: value for name, value in facts.items() if value is not None}

    @property
    def job_id(self) -> str:
        """See get_job_id."""
        return self.get_job_id()

    @property
    def node_id(self) -> str:
        """See get_node_id."""
        return self.get_node_id()

    @property
    def worker_id(self) -> str:
        """See get_worker_id."""
        return self.get_worker_id()

    @property
    def task_id(self) -> str | None:
        """See get_task_id."""
        return self.get_task_id()

    @property
    def actor_id(self) -> str | None:
        """See get_actor_id."""
        return self.get_actor_id()


_FIRST_INCARNATION = 0


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

    Raises:
        RaySystemError: by its methods, when sparkray is not running in this process.
    """
    return _context
