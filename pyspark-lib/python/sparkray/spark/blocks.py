"""Blocks of DataFrames: what Spark's tasks report of them, and what Spark's tasks need to find them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparkray import _native
from sparkray._private import failures
from sparkray._private.error_codes import ErrorCode
from sparkray.spark import unify

if TYPE_CHECKING:
    from sparkray._native import CoreWorker, ObjectRef


@dataclass(frozen=True)
class Block:
    """One object that a task wrote."""

    object_id: bytes
    node_id: bytes
    node_address: str
    rows: int
    size: int


@dataclass(frozen=True)
class Partition:
    """What the task of one partition wrote, in the order of the rows."""

    index: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Source:
    """One object that tasks are to read."""

    object_id: bytes
    size: int
    # Id and address of each node that has it.
    locations: list[tuple[bytes, str]]
    # Hosts and executors, in Spark's words.
    preferred: list[str]


def encode_request(core: CoreWorker, feed_id: bytes, max_block_bytes: int) -> bytes:
    """What org.sparkray.data.Feed needs. This process will own the blocks."""
    return _native.encode_feed_request(bytes.fromhex(core.cluster_id), feed_id, core.worker_address(), max_block_bytes)


def read_report(report: bytes) -> list[Partition]:
    """What org.sparkray.data.Feed returned."""
    return [
        Partition(index, tuple(Block(*block) for block in found)) for index, found in _native.decode_feed_report(report)
    ]


def on_dead_nodes(core: CoreWorker, partitions: Sequence[Partition]) -> list[int]:
    """Indexes of the partitions of which a block lies on a node that is not alive."""
    alive = {node_id for node_id, _ in _nodes(core)}
    return [
        partition.index for partition in partitions if any(block.node_id not in alive for block in partition.blocks)
    ]


def _nodes(core: CoreWorker) -> list[tuple[bytes, str]]:
    return [(bytes.fromhex(node["node_id"]), node["address"]) for node in core.nodes() if node["alive"]]


def adopt(core: CoreWorker, feed_id: bytes, partitions: Sequence[Partition]) -> list[ObjectRef[Any]]:
    """Makes this process the owner of these blocks; every other block of the feed is dropped."""
    found = [block for partition in sorted(partitions, key=lambda one: one.index) for block in partition.blocks]
    winners = [(block.object_id, block.size, block.node_id, block.node_address) for block in found]
    return core.adopt_blocks(feed_id, winners, _nodes(core))


def abort(core: CoreWorker, feed_id: bytes) -> None:
    """Drops all blocks of a feed."""
    core.adopt_blocks(feed_id, [], _nodes(core))


def describe(core: CoreWorker, refs: Sequence[ObjectRef[Any]]) -> list[Source]:
    """Where the objects are, and where Spark should read them. Waits until all exist.

    Raises the exception of a task that should have made one; TypeError for a value that is no table.
    """
    executors = {}
    for node in core.nodes():
        executor_id = node["labels"].get("executor_id")
        if node["alive"] and executor_id and executor_id != "driver":
            host = node["address"].rpartition(":")[0]
            executors[bytes.fromhex(node["node_id"])] = (f"executor_{host}_{executor_id}", host)
    described = []
    for index, (object_id, size, locations, is_error) in enumerate(core.object_locations(refs, None)):
        if is_error:
            # Raises what the task raised.
            core.get([refs[index]], None)
        if not locations:
            raise TypeError(
                f"reference {index} is not a pyarrow.Table but a small value of another type: to_spark takes tables"
            )
        preferred = [name for node_id, _ in locations for name in executors.get(node_id, ())]
        described.append(Source(object_id, size, locations, list(dict.fromkeys(preferred))))
    return described


def encode_table(core: CoreWorker, described: Sequence[Source], hold_bytes: int) -> bytes:
    """What org.sparkray.data.RayTables needs.

    ``hold_bytes``: what blocks may occupy of a node's store until the tasks that read them end.
    """
    blocks = [(one.object_id, one.size, one.locations, one.preferred) for one in described]
    return _native.encode_table(bytes.fromhex(core.cluster_id), blocks, hold_bytes)


def common_schema(schemas: bytes, described: Sequence[Source]) -> dict[str, Any]:
    """The columns of the DataFrame over all blocks, as a StructType in JSON.

    ``schemas``: what the tasks found, joined.

    Raises ValueError that names the first block and column that do not go together, or what is wrong with a block.
    """
    ordered = sorted(_native.decode_table_schemas(schemas), key=lambda block: block[0])
    for _, _, failure in ordered:
        if failure is not None:
            raise _block_error(*failure)
    # Most blocks have a schema that another one has too.
    different = {schema: index for index, schema, _ in reversed(ordered) if schema is not None}
    parsed = [(index, json.loads(schema)) for schema, index in different.items()]
    parsed.sort(key=lambda one: one[0])
    columns = unify.Columns(parsed[0][1]["fields"])
    for index, schema in parsed[1:]:
        columns.add(schema["fields"], f"block {index} (object {described[index].object_id.hex()})")
    return {"type": "struct", "fields": columns.fields}


def _block_error(code: int, message: str) -> Exception:
    if code == ErrorCode.NOT_FOUND:
        # The object holds something else than a table.
        return TypeError(message)
    return failures.from_failure(code, message)
