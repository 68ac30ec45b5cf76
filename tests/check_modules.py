"""Checks that modules inside a crate depend on each other in one direction, and that no file of ours is too long.

tests/check_modules.py                 checks everything
tests/check_modules.py --show CRATE    prints what each module of a crate uses today, to fill or mend its table
"""

from __future__ import annotations

import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from rust_modules import Module, Use, read_crate, undeclared_files

ROOT = Path(__file__).resolve().parent.parent

MAX_LINES = 700

# Crate -> its parts from the bottom to the top, each with the parts that it may use. A part is a module with all below
# it that is no part of its own. What a part may use stands above it in the table, so no table can have a circle.
# lib.rs and main.rs may use everything.
TABLES: dict[str, dict[str, str]] = {
    "runtime/common": {
        "sync": "",
        "config": "",
        "error": "",
        "ids": "sync",
        "address": "ids",
        "metrics": "",
        "node_lease": "",
        "python_start": "",
        "resources": "",
        "bundle": "ids resources",
        "scheduling_strategy": "bundle ids resources",
        "worker_key": "",
        "shared_moment": "",
        "telemetry": "",
        "token": "",
        "value": "",
    },
    "runtime/proto": {
        "generated": "",
        "frame_kind": "",
        "convert": "generated",
        "strategy": "convert generated",
        "worker_key": "convert generated",
        "bridge": "convert generated",
    },
    "runtime/rpc": {
        "refusal": "",
        "error": "refusal",
        "agreement": "error",
        "handshake": "agreement refusal",
        "records": "error",
        "noise": "agreement error records",
        "frame": "error",
        "session": "",
        "half_open": "",
        "reachability": "",
        "moment_file": "",
        "socket": "",
        "exact_io": "",
        "secured_socket": "agreement error exact_io noise records socket",
        "dial": "error exact_io handshake noise secured_socket socket",
        "accept": "agreement error exact_io half_open handshake refusal secured_socket socket",
        "local_answers": "accept exact_io socket",
        "frame_connection": "error exact_io frame reachability records secured_socket socket",
        "blocking": "agreement error frame handshake socket",
        "tonic_records": "records",
        "tonic_bridge": "dial error handshake secured_socket socket tonic_records",
    },
    "runtime/object-store": {
        "error": "",
        "config": "",
        "checksum": "",
        "nameless_file": "",
        "shm": "nameless_file",
        "allocator": "shm",
        "spill": "allocator checksum nameless_file shm",
        "io": "allocator shm spill",
        "event": "io shm spill",
        "store::slot": "allocator event spill",
        "store::dead_owners": "",
        "store::metrics": "",
        "store": "allocator config error event io shm spill store::dead_owners store::metrics store::slot",
        "client::segments": "error shm",
        "client": "client::segments error shm",
    },
    "runtime/gcs": {
        "error": "",
        "effects": "",
        "death": "",
        "spec": "",
        "group": "",
        "placement": "spec",
        "bundle_placement": "placement",
        "record": "death group spec",
        "journal": "record",
        "tables": "death group record spec",
        "live": "placement record tables",
        "change": "effects live placement record tables",
        "commands": "bundle_placement change death group live placement record spec tables",
        "state": "change commands effects live record tables",
        "service": "effects journal record state",
        "server": "error journal service state tables",
        "simulation": "effects state tables",
    },
    "runtime/core-worker": {
        "error": "",
        "hash": "",
        "slab_map": "hash",
        "aligned": "",
        "fork": "",
        "kick": "",
        "dropped": "fork kick",
        "store": "dropped",
        "values": "aligned store",
        "state::ids": "",
        "state::limits": "",
        "state::process": "error state::ids",
        "state::deaths": "hash",
        "state::events": "",
        "state::outbox": "error state::events state::ids values",
        "state::links": "error hash state::deaths state::events state::ids state::outbox state::process",
        "state::objects": "aligned error hash slab_map state::events state::ids state::limits state::links"
        " state::outbox store values",
        "state::tasks": "error slab_map state::events state::ids state::links state::objects",
        "state::base": "state::links state::objects state::tasks",
        "state::leases": "error hash state::base state::events state::ids state::limits state::links state::objects"
        " state::tasks",
        "state::actors": "dropped error hash state::base state::events state::ids state::limits state::links"
        " state::objects"
        " state::tasks",
        "state::execution": "error hash state::base state::ids state::limits state::links state::objects state::outbox",
        "state": "dropped error state::actors state::base state::deaths state::events state::execution state::ids"
        " state::leases state::limits state::links state::objects state::outbox state::process state::tasks store",
        "io::connection": "",
        "io::names": "kick state::ids",
        "io::reactor": "hash io::connection io::names kick state::ids state::links",
        "io::watchdog": "",
        "io": "dropped error fork io::connection io::reactor io::watchdog kick state state::ids state::links"
        " state::objects state::outbox store",
        "api": "dropped error io state state::actors state::execution state::links state::objects state::outbox"
        " state::tasks values",
        "simulation": "api dropped error kick state state::actors state::execution state::ids state::links"
        " state::objects state::outbox state::tasks store",
    },
    # Parts that decide use nothing of those that do: sockets, processes and tasks are io's.
    "runtime/raylet": {
        "error": "",
        "tasks": "",
        "shape": "",
        "ids": "",
        "cluster_view": "shape",
        "node_info": "",
        "outbox": "",
        "input": "outbox",
        "gateway::metrics": "",
        "gateway::clients": "gateway::metrics",
        "gateway::registration": "gateway::clients",
        "gateway::driver_log": "",
        "gateway": "error gateway::clients gateway::driver_log input node_info tasks",
        "leases::metrics": "",
        "leases": "cluster_view leases::metrics node_info outbox shape",
        "actors::metrics": "",
        "actors": "actors::metrics cluster_view ids leases node_info outbox shape",
        "workers::pool": "outbox",
        "workers::labels": "",
        "workers::metrics": "",
        "workers::zygotes": "",
        "workers::part": "input node_info outbox workers::labels workers::metrics workers::pool workers::zygotes",
        "workers::endings": "input outbox workers::part workers::pool",
        "workers": "input outbox tasks workers::part workers::zygotes",
        "objects::messages": "",
        "objects::frees": "",
        "objects::fetched_by": "",
        "objects::metrics": "",
        "objects::part": "cluster_view error node_info objects::fetched_by objects::frees objects::messages"
        " objects::metrics outbox",
        "objects": "gateway input node_info objects::messages objects::part tasks",
        "head::conversation": "",
        "head::lease": "",
        "head::outgoing": "",
        "head::watches": "outbox",
        "head::metrics": "",
        "head::part": "cluster_view error head::lease head::metrics head::outgoing head::watches node_info outbox",
        "head": "error gateway head::conversation head::lease head::outgoing head::part input tasks",
        "router": "actors cluster_view error gateway::clients head::part ids input leases node_info objects::part"
        " outbox workers::part",
        "simulation": "actors cluster_view error gateway::clients head head::conversation head::lease head::outgoing"
        " head::part ids input leases node_info objects::part outbox router workers::part",
        "io": "gateway head input node_info objects outbox workers",
        "raylet": "error input io router",
        "settings": "error head::lease node_info workers workers::zygotes",
        "run": "actors cluster_view error gateway gateway::clients head head::lease head::outgoing head::part ids io"
        " leases"
        " node_info"
        " objects objects::part raylet router settings tasks workers workers::part",
    },
    "runtime/supervisor": {
        "error": "",
        "request": "error",
        "invitation": "error",
        "restart": "",
        "signals": "",
        "manager_thread": "error signals",
        "child_host": "error signals",
        "container": "manager_thread",
        "engine": "child_host container error request",
        "native_engine": "child_host container engine error request",
        "children": "child_host engine error manager_thread",
        "python": "child_host error",
        "driver": "child_host children container engine error invitation manager_thread native_engine request",
        "executor::current_raylet": "",
        "executor::ancestors": "",
        "executor::raylet_access": "executor::ancestors executor::current_raylet manager_thread",
        "executor::workers_python": "error manager_thread python",
        "executor": "child_host children container engine error executor::current_raylet executor::raylet_access"
        " executor::workers_python invitation manager_thread native_engine request restart",
    },
    "spark-bridge/native": {
        "columns": "",
        "error": "columns",
        "guard": "error",
        "handles": "error",
        "requests": "error",
        "held_blocks": "error",
        "store_access": "error guard",
        "table_block": "columns error",
        "manager": "error guard handles requests",
        "feed": "columns error guard handles requests store_access",
        "table": "columns error guard handles held_blocks requests store_access table_block",
        "table_schemas": "columns error guard held_blocks requests store_access table_block",
    },
    "pyspark-lib": {
        "bridge": "",
        "convert": "",
        "event": "",
        "cancelling": "event",
        "process": "",
        "object_ref": "",
        "futures": "object_ref",
        "values": "convert object_ref",
        "runtime": "cancelling convert event futures object_ref values",
        "doors": "convert runtime",
        "objects": "convert doors object_ref runtime values",
        "notices": "convert doors futures object_ref objects",
        "object_ref_methods": "convert doors notices object_ref objects runtime",
        "joining": "cancelling convert event futures notices runtime",
        "feed": "convert objects runtime",
        "head": "convert feed runtime",
        "metrics": "convert runtime",
        "actor": "convert doors",
        "strategy": "convert",
        "arguments": "convert doors object_ref runtime strategy values",
        "placement_groups": "arguments convert head runtime values",
        "results": "convert object_ref process runtime values",
        "execution": "cancelling convert object_ref objects process results runtime values",
        "incoming": "convert execution object_ref objects results runtime",
        "core_worker": "actor arguments convert doors execution feed head incoming joining metrics object_ref objects"
        " placement_groups runtime strategy values",
        # What Python sees: lib.rs.
        "_native": "actor arguments bridge cancelling core_worker doors incoming object_ref object_ref_methods process"
        " values",
    },
    # A test as a whole, whose modules are free.
    "tests/simulation": {},
    "runtime/sparkrayd": {
        "process": "",
        "guardian": "process",
        "head_main": "process",
        "raylet_main": "process",
    },
}


def named(module: Module) -> str:
    """The module as it is written in a table."""
    return "::".join(module) or "lib.rs"


def part_of(module: Module, table: dict[str, str]) -> str | None:
    """The table's part that a module belongs to: the longest prefix."""
    for length in range(len(module), 0, -1):
        name = named(module[:length])
        if name in table:
            return name
    return None


def problems_of_table(table: dict[str, str]) -> list[str]:
    """What the table allows against its own order."""
    problems = []
    seen: set[str] = set()
    for part, allowed in table.items():
        problems += [
            f"the table lets {part} use {name}, which does not stand above it"
            for name in allowed.split()
            if name not in seen
        ]
        seen.add(part)
    return problems


def uses_between(src: Path) -> tuple[set[Module], list[tuple[Module, Module, Use]]]:
    """The modules of a crate, and each use of one by another: user, used, and where."""
    source = read_crate(src)
    found = [(use.user, source.owner(use.path), use) for use in source.uses]
    return source.modules - source.tests, [entry for entry in found if entry[0] != entry[1] and entry[0]]


def problems_of_crate(src: Path, table: dict[str, str]) -> list[str]:
    """The uses in a crate that its table does not allow."""
    problems = problems_of_table(table)
    modules, uses = uses_between(src)
    problems += [
        f"{src}: no part of the table has the module {named(module)}"
        for module in sorted(modules)
        if module and part_of(module, table) is None
    ]
    for user, used, use in uses:
        mine, other = part_of(user, table), part_of(used, table)
        if mine is None or mine == other or (other is None and used):
            continue
        if other is None or other not in table[mine].split():
            where = f"{use.file}:{use.line}"
            problems.append(f"{where}: {mine} must not use {other or 'what lib.rs defines'} ({'::'.join(use.path)})")
    parts = {part_of(module, table) for module in modules}
    problems += [f"{src}: the table's part {part} has no module" for part in table if part not in parts]
    return sorted(set(problems))


def show(src: Path) -> None:
    """Prints what each module of a crate uses."""
    modules, uses = uses_between(src)
    used_by: dict[Module, set[Module]] = defaultdict(set)
    for user, used, _ in uses:
        used_by[user].add(used)
    for module in sorted(modules):
        print(f"{named(module)}: {' '.join(sorted(map(named, used_by[module])))}")


def our_files(root: Path) -> Iterator[Path]:
    """All files that are written by hand in Rust, Python or Java."""
    for directory, folders, files in os.walk(root):
        folders[:] = sorted(
            folder for folder in folders if folder not in {"build", "target", "dist"} and folder[0] != "."
        )
        yield from (Path(directory, file) for file in sorted(files) if file.endswith((".rs", ".py", ".pyi", ".java")))


def lengths(root: Path) -> dict[Path, int]:
    """The number of lines of each of our files."""
    return {file: file.read_bytes().count(b"\n") for file in our_files(root)}


def too_long(lines: dict[Path, int]) -> list[str]:
    """The files that should be cut."""
    return [f"{file}: {count} lines, more than {MAX_LINES}" for file, count in lines.items() if count > MAX_LINES]


def our_crates() -> list[str]:
    """The folders of all crates."""
    return sorted(
        str(manifest.parent) for pattern in ("*/Cargo.toml", "*/*/Cargo.toml") for manifest in Path(".").glob(pattern)
    )


def problems_of_all_crates() -> list[str]:
    """What needs no table: files that nobody compiles, and crates without a table."""
    problems = []
    for crate in our_crates():
        problems += [f"{file}: no module declares it" for file in undeclared_files(Path(crate, "src"))]
        if crate not in TABLES:
            problems.append(f"{crate}: not in the tables of tests/check_modules.py")
    return problems


def main() -> int:
    """Prints what is wrong; returns the exit code."""
    os.chdir(ROOT)
    if sys.argv[1:2] == ["--show"]:
        show(Path(sys.argv[2], "src"))
        return 0
    lines = lengths(Path("."))
    problems = too_long(lines) + problems_of_all_crates()
    for crate, table in TABLES.items():
        problems += problems_of_crate(Path(crate, "src"), table)
    for problem in problems:
        print(problem)
    median = statistics.median(count for file, count in lines.items() if file.suffix == ".rs")
    read = f"{len(TABLES)} crates, {len(lines)} files, the median of Rust files {median:.0f} lines"
    print(f"{read}: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
