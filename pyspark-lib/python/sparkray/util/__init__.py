"""Helpers (Ray: ray.util)."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import socket
from typing import Any

from sparkray._private import worker
from sparkray.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

__all__ = [
    "get_current_placement_group",
    "get_node_ip_address",
    "get_placement_group",
    "list_named_actors",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]

_LATER = frozenset(
    {
        "ActorPool",
        "accelerators",
        "as_completed",
        "collective",
        "connect",
        "disable_log_once_globally",
        "disconnect",
        "enable_periodic_logging",
        "get_node_instance_id",
        "log_once",
        "ray_debugpy",
        "inspect_serializability",
        "iter",
        "joblib",
        "map_unordered",
        "metrics",
        "multiprocessing",
        "pdb",
        "queue",
        "register_serializer",
        "deregister_serializer",
        "spark",
        "state",
    }
)


def __getattr__(name: str) -> Any:
    if name in _LATER:
        raise AttributeError(f"sparkray.util.{name} is not there yet (docs/STATUS.md lists what is missing)")
    raise AttributeError(f"module 'sparkray.util' has no attribute {name!r}")


def get_node_ip_address(address: str = "") -> str:
    """The address of this node, at which other nodes reach it (Ray: ray.util.get_node_ip_address).

    Args:
        address: accepted for compatibility, without effect.

    Returns:
        An IP address. In a cluster: the one that the cluster uses for this node. Otherwise: that of the route to the
        outside, or 127.0.0.1 when there is none.

    Raises:
        OSError: the cluster uses a host name for this node that cannot be resolved.
    """
    core = worker.state.core
    if core is not None:
        return address_of_host(core.node_ip)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent: this only asks for the route
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


@functools.cache
def address_of_host(host: str) -> str:
    """The IP address of a host that is given by name or address. Raises OSError when the name is not known."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host))
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    # IPv4 first: sparkray's listeners are on it.
    addresses = sorted(str(entry[4][0]) for entry in found if entry[0] == socket.AF_INET)
    return addresses[0] if addresses else str(found[0][4][0])


def list_named_actors(all_namespaces: bool = False) -> list[Any]:
    """Names of live actors (Ray: ray.util.list_named_actors).

    Args:
        all_namespaces: False: names in this driver's namespace; True: dicts with `name` and `namespace`, of all.

    Returns:
        Names, or those dicts, of actors that are not dead.

    Raises:
        RaySystemError: sparkray is not running in this process.
    """
    live = [actor for actor in worker.core_worker().actors() if actor["name"] and actor["state"] != "DEAD"]
    if all_namespaces:
        return [{"name": actor["name"], "namespace": actor["namespace"]} for actor in live]
    namespace = worker.job_namespace()
    return [actor["name"] for actor in live if actor["namespace"] == namespace]
