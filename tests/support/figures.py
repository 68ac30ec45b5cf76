"""What nodes say of themselves, once they have said it.

A node's figures are in its reports, which it sends several times each second. Whoever looks right after an action sees
figures from before it, most of all on a busy machine; so tests ask here.
"""

from __future__ import annotations

from typing import Any

import sparkray
from process.helpers import wait_until


def _living() -> dict[str, dict[str, Any]]:
    return {node["NodeID"]: node for node in sparkray.nodes() if node["Alive"]}


def reported_nodes() -> list[dict[str, Any]]:
    """The living nodes, as `sparkray.nodes()` has them, with figures that hold everything that ended before this call.

    One report may have been on its way when the call began, so every node has to send two more.
    """
    before = {node_id: node["ReportCount"] for node_id, node in _living().items()}

    def reported() -> bool:
        return all(node["ReportCount"] >= before.get(node_id, 0) + 2 for node_id, node in _living().items())

    wait_until(reported, what="every node reports twice")
    return list(_living().values())


def reported_stores() -> list[dict[str, int]]:
    """The figures of the object store of every living node, in the order of `reported_nodes`."""
    return [node["ObjectStore"] for node in reported_nodes()]
