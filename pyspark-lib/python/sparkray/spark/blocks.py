"""Blocks of DataFrames: what Spark's tasks report of them, and what Spark's tasks need to find them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparkray._private import failures
from sparkray._private.error_codes import ErrorCode
from sparkray.spark import unify

if TYPE_CHECKING:
    from sparkray._native import CoreWorker, ObjectRef


@dataclass(frozen=True)
class Block:
    """One object that a task wrote."""

    object_id: bytes
    # Hexadecimal.
    node_id: str
    node_address: str
    rows: int
    size: int


@dataclass(frozen=True)
class Partition:
    """What the task of one partition wrote, in the order of the rows."""

    index: int
    blocks: tuple[Block, ...]


def read_report(text: str) -> list[Partition]:
    """What org.sparkray.data.Feed returned."""
    partitions = []
    for report in json.loads(text):
        found = tuple(
            Block(
                object_id=bytes.fromhex(block["object_id"]),
                node_id=block["node_id"],
                node_address=block["node_address"],
                rows=block["rows"],
                size=block["bytes"],
            )
            for block in report["blocks"]
        )
        partitions.append(Partition(report["partition"], found))
    return partitions


def on_dead_nodes(core: CoreWorker, partitions: Sequence[Partition]) -> list[int]:
    """Indexes of the partitions of which a block lies on a node that is not alive."""
    alive = {node["node_id"] for node in core.nodes() if node["alive"]}
    return [
        partition.index for partition in partitions if any(block.node_id not in alive for block in partition.blocks)
    ]


def _nodes(core: CoreWorker) -> list[tuple[bytes, str]]:
    return [(bytes.fromhex(node["node_id"]), node["address"]) for node in core.nodes() if node["alive"]]


def adopt(core: CoreWorker, feed_id: bytes, partitions: Sequence[Partition]) -> list[ObjectRef[Any]]:
    """Makes this process the owner of these blocks; every other block of the feed is dropped."""
    found = [block for partition in sorted(partitions, key=lambda one: one.index) for block in partition.blocks]
    winners = [(block.object_id, block.size, bytes.fromhex(block.node_id), block.node_address) for block in found]
    return core.adopt_blocks(feed_id, winners, _nodes(core))


def abort(core: CoreWorker, feed_id: bytes) -> None:
    """Drops all blocks of a feed."""
    core.adopt_blocks(feed_id, [], _nodes(core))


def describe(core: CoreWorker, refs: Sequence[ObjectRef[Any]], hold_bytes: int) -> list[dict[str, Any]]:
    """What tasks need to get the objects, and where Spark should run them. Waits until all exist.

    ``hold_bytes``: what blocks may occupy of a node's store until the tasks that read them end.

    Raises the exception of a task that should have made one; TypeError for a value that is no table.
    """
    executors = {}
    for node in core.nodes():
        executor_id = node["labels"].get("executor_id")
        if node["alive"] and executor_id and executor_id != "driver":
            host = node["address"].rpartition(":")[0]
            executors[node["node_id"]] = (f"executor_{host}_{executor_id}", host)
    described: list[dict[str, Any]] = []
    for index, (object_id, size, locations, is_error) in enumerate(core.object_locations(refs, None)):
        if is_error:
            # Raises what the task raised.
            core.get([refs[index]], None)
        if not locations:
            raise TypeError(
                f"reference {index} is not a pyarrow.Table but a small value of another type: to_spark takes tables"
            )
        places = [(node_id.hex(), address) for node_id, address in locations]
        preferred = [name for node_id, _ in places for name in executors.get(node_id, ())]
        described.append(
            {
                "cluster_id": core.cluster_id,
                "object_id": object_id.hex(),
                "size": size,
                "locations": places,
                "index": index,
                "hold_bytes": hold_bytes,
                "preferred": list(dict.fromkeys(preferred)),
            }
        )
    return described


def common_schema(rows: Sequence[Any], described: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The columns of the DataFrame over all blocks, as a StructType in JSON.

    Raises ValueError that names the first block and column that do not go together, or what is wrong with a block.
    """
    ordered = sorted(rows, key=lambda row: row["block"])
    for row in ordered:
        if row["error"] is not None:
            raise _block_error(row["error_code"], row["error"])
    # Most blocks have a schema that another one has too.
    different = {row["schema"]: row["block"] for row in reversed(ordered) if row["schema"] is not None}
    parsed = [(index, json.loads(schema)) for schema, index in different.items()]
    parsed.sort(key=lambda one: one[0])
    columns = unify.Columns(parsed[0][1]["fields"])
    for index, schema in parsed[1:]:
        columns.add(schema["fields"], f"block {index} (object {described[index]['object_id']})")
    return {"type": "struct", "fields": columns.fields}


def _block_error(code: int, message: str) -> Exception:
    if code == ErrorCode.NOT_FOUND:
        # The object holds something else than a table.
        return TypeError(message)
    return failures.from_failure(code, message)
