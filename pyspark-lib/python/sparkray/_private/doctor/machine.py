"""Limits of this process and its container."""

from __future__ import annotations

import math
import resource

from sparkray._private import limits
from sparkray._private.doctor.finding import Finding, amount, error, ok, warning

# A raylet has three descriptors for each worker and one for each connection, and raises its limit to the hard one.
_FEWEST_FILES, _FEW_FILES = 256, 4096
# Threads count, of all programs of the user: Spark's JVMs have some hundred each, workers a few.
_FEWEST_PROCESSES, _FEW_PROCESSES = 256, 4096
_FEWEST_IN_GROUP, _FEW_IN_GROUP = 64, 512
_LEAST_MEMORY, _LITTLE_MEMORY = 256 << 20, 1 << 30


def examine() -> list[Finding]:
    """Looks at the limits of this process."""
    return [
        check_open_files(*_limits(resource.RLIMIT_NOFILE)),
        check_processes(_limits(resource.RLIMIT_NPROC)[0]),
        check_locked_memory(_limits(resource.RLIMIT_MEMLOCK)[0]),
        *examine_container(),
    ]


def examine_container(root: str = "/") -> list[Finding]:
    """Looks at the limits of the control groups.

    Args:
        root: of the file system, for tests.
    """
    return [
        check_cpus(limits.cpus(root), limits.cpu_quota(root)),
        check_memory(limits.available_memory(root)),
        check_group(limits.processes_left(root)),
    ]


def check_open_files(soft: float, hard: float) -> Finding:
    """The limits of open files."""
    message = _number(soft) + (f", which raylets raise to {_number(hard)}" if hard > soft else "")
    fix = "ulimit -n 65536, `nofile` in /etc/security/limits.conf, or docker run --ulimit nofile=65536:65536"
    if soft < _FEWEST_FILES:
        return error("open files", f"{message}: too few for a driver", fix)
    if hard < _FEW_FILES:
        return warning("open files", f"{message}: too few for a node with many workers and connections", fix)
    return ok("open files", message)


def check_processes(soft: float) -> Finding:
    """The limit of the user's processes."""
    message = f"{_number(soft)} processes and threads of this user"
    fix = "ulimit -u 65536, or `nproc` in /etc/security/limits.conf"
    least, little = (_FEWEST_PROCESSES, "too few for Spark and a node"), (_FEW_PROCESSES, "too few for many workers")
    return _graded("processes", soft, message, least, little, fix)


def check_locked_memory(soft: float) -> Finding:
    """The limit of locked memory, which is low in many containers."""
    allowed = "unlimited" if soft == math.inf else amount(int(soft))
    return ok("locked memory", f"{allowed}; sparkray locks no memory")


def check_cpus(cpus: int, quota: float | None) -> Finding:
    """CPUs that this process may use.

    Args:
        cpus: how many `init()` takes.
        quota: CPUs' worth of time that the container pays; None: as much as there is.
    """
    if quota is not None and quota < 1:
        advice = "give the container a whole CPU: docker run --cpus, or limits.cpu of the pod"
        return warning("cpus", f"the container's quota is {quota:g} of a CPU: starts may take long", advice)
    return ok("cpus", f"{cpus}" + ("" if quota is None else f", the container's quota is {quota:g}"))


def check_memory(available: int) -> Finding:
    """Memory that is free, within the limits of machine and container."""
    message = f"{amount(available)} free within the limits of machine and container"
    fix = "end other programs, or give the container more: docker run --memory, or limits.memory of the pod"
    least, little = (_LEAST_MEMORY, "too little for a node"), (_LITTLE_MEMORY, "little for objects and workers")
    return _graded("memory", available, message, least, little, fix)


def check_group(left: int | None) -> Finding:
    """Processes that the container still allows; None: it sets no limit."""
    if left is None:
        return ok("container", "no limit on processes")
    message = f"{left} more processes and threads are allowed"
    fix = "give the container more: docker run --pids-limit, or podPidsLimit of the kubelet"
    least, little = (_FEWEST_IN_GROUP, "too few for a node"), (_FEW_IN_GROUP, "too few for Spark and many workers")
    return _graded("container", left, message, least, little, fix)


def _graded(
    subject: str, value: float, message: str, least: tuple[float, str], little: tuple[float, str], fix: str
) -> Finding:
    """An error below `least`, a warning below `little`, each with what it is too little for."""
    for (bound, words), finding in ((least, error), (little, warning)):
        if value < bound:
            return finding(subject, f"{message}: {words}", fix)
    return ok(subject, message)


def _limits(which: int) -> tuple[float, float]:
    """The soft and the hard one; infinite where there is none."""
    soft, hard = (math.inf if limit == resource.RLIM_INFINITY else limit for limit in resource.getrlimit(which))
    return soft, hard


def _number(limit: float) -> str:
    return "unlimited" if limit == math.inf else f"{limit:.0f}"
