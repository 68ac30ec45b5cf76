"""What waits though no node of the cluster can meet it, told to the user of a driver.

The head says what waits and what the nodes have (once for all that asks the same, soon after it began to wait and every
30 s while it does); here that becomes a line of standard error for each, with what would change it. As with Ray's
messages of this kind, RAY_SCHEDULER_EVENTS=0 in the environment keeps them away.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_SUPPRESSED = "RAY_SCHEDULER_EVENTS"
_OF_BYTES = ("memory", "object_store_memory")
# Resources that a list in a line names, and characters of a name.
_MAX_SHOWN = 12
_MAX_NAME = 80
# A process asks for so many workers for a function at once: behind as many tasks others may wait.
_REQUESTS_AT_ONCE = 32
_STANDARD = ("CPU", "GPU", *_OF_BYTES)


@dataclass(frozen=True)
class Remedies:
    """How the nodes of a cluster get more of something; half sentences for "or ...". Braces take the amount."""

    cpu: str
    gpu: str
    memory: str
    object_store_memory: str
    # A resource of any other name: also {name}.
    custom: str
    labels: str
    # When no node has any CPU.
    no_cpus: str

    def of(self, resource: str) -> str:
        """For a resource of which no node has enough."""
        known = {
            "CPU": self.cpu,
            "GPU": self.gpu,
            "memory": self.memory,
            "object_store_memory": self.object_store_memory,
        }
        return known.get(resource, self.custom)


LOCAL = Remedies(
    cpu="have init(num_cpus={amount}) count as many",
    gpu="have the tasks that share a GPU take a custom resource (init(num_gpus=...) is not there yet)",
    memory="have init(_memory={amount}) count as much",
    object_store_memory="have a larger store by init(object_store_memory={amount})",
    custom="name it in init(resources={{{name!r}: {amount}}})",
    labels="give the node labels by init(labels=...)",
    no_cpus="have CPUs by init(num_cpus={amount})",
)
# `cluster_utils.Cluster`.
NODE_BY_NODE = Remedies(
    cpu="add a node by add_node(num_cpus={amount})",
    gpu="have the tasks that share a GPU take a custom resource (add_node(num_gpus=...) is not there yet)",
    memory="add a node by add_node(memory={amount})",
    object_store_memory="add a node by add_node(object_store_memory={amount})",
    custom="add a node by add_node(resources={{{name!r}: {amount}}})",
    labels="add a node by add_node(labels=...)",
    no_cpus="add a node by add_node(num_cpus={amount})",
)

_remedies = LOCAL


def set_remedies(remedies: Remedies) -> None:
    """What is advised from now on: that of the cluster to which this process is connected."""
    global _remedies
    _remedies = remedies


@dataclass(frozen=True)
class Shape:
    """All that asks the same of a node."""

    resources: Mapping[str, float]
    # What a node's labels must be, in words; empty: anything.
    label_selector: str
    # ("task", "actor" or "placement group", name, how many).
    waiters: Sequence[tuple[str, str, int]]
    # Under names that `waiters` has not.
    others: int
    # Why the nodes together cannot meet it, in words; empty: no single node can.
    cause: str = ""


@dataclass(frozen=True)
class Nodes:
    """What there is."""

    # Of all nodes together, and the most that one of them has.
    total: Mapping[str, float]
    largest: Mapping[str, float]
    # `name=value`; only when labels are asked for.
    labels: Sequence[str]


def report(
    shapes: Sequence[tuple[Mapping[str, float], str, Sequence[tuple[str, str, int]], int, str]],
    left_out: int,
    nodes: tuple[Mapping[str, float], Mapping[str, float], Sequence[str]],
) -> None:
    """Prints a line for each shape. Called by a native thread of the driver.

    Args:
        shapes: the fields of a Shape each.
        left_out: how many others there are of which nothing is said.
        nodes: the fields of Nodes.
    """
    from sparkray._private import log_output

    if os.environ.get(_SUPPRESSED) == "0":
        return
    there_is = Nodes(*nodes)
    lines = [describe(Shape(*shape), there_is, _remedies) for shape in shapes]
    if left_out:
        lines.append(f"{left_out} more kinds of demand wait for what no node has: not shown")
    log_output.write("".join(f"(sparkray) Warning: {line}\n" for line in lines), is_stderr=True)


def describe(shape: Shape, nodes: Nodes, remedies: Remedies) -> str:
    """One line: who waits for what, what there is, and what to do."""
    asked = sorted(shape.resources.items())
    total = _amounts(_shown(shape.resources, nodes.total))
    if shape.cause:
        return (
            f"{_who(shape)} cannot be scheduled: the nodes of the cluster cannot meet the resource request "
            f"{_amounts(dict(asked))}: {shape.cause}. All nodes together have {total}. This waits until nodes join "
            "that can meet it: ask for less, or have more or larger nodes."
        )
    lacking = [name for name, amount in asked if amount > nodes.largest.get(name, 0.0)][:_MAX_SHOWN]
    causes = [f"no node has more than {_amount(name, nodes.largest.get(name, 0.0))} {name}" for name in lacking]
    if shape.label_selector:
        there_are = ", ".join(nodes.labels) or "none"
        causes.append(f"the labels of its node must be {shape.label_selector}, and those of the nodes are {there_are}")
    if not causes:
        causes.append("no single node has all of it together")
    return (
        f"{_who(shape)} cannot be scheduled: no node of the cluster can meet the resource request "
        f"{_amounts(dict(asked))}: {'; '.join(causes)}. All nodes together have {total}. This waits until a node joins "
        f"that can meet it: ask for less, or {_advice(shape, lacking, nodes, remedies)}."
    )


def _who(shape: Shape) -> str:
    waiters = []
    for kind, name, count in shape.waiters:
        more = "+" if kind == "task" and count >= _REQUESTS_AT_ONCE else ""
        waiters.append(f"{kind} {' '.join(name.split())[:_MAX_NAME]} ({count}{more} waiting)")
    if shape.others:
        waiters.append(f"{shape.others} more")
    return ", ".join(waiters)


def _advice(shape: Shape, lacking: Sequence[str], nodes: Nodes, remedies: Remedies) -> str:
    steps = []
    for name in lacking:
        step = remedies.no_cpus if name == "CPU" and not nodes.largest.get("CPU") else remedies.of(name)
        steps.append(step.format(name=name, amount=_number(shape.resources[name])))
    if shape.label_selector:
        steps.append(remedies.labels)
    if not steps:
        steps.append("have one node with all of it")
    return ", and ".join(dict.fromkeys(steps))


def _shown(asked: Mapping[str, float], total: Mapping[str, float]) -> dict[str, float]:
    """What is asked for first, then the standard resources, then others."""
    names = [*sorted(asked), *_STANDARD, *sorted(total)]
    return {name: total[name] for name in dict.fromkeys(names) if name in total}


def _amounts(resources: Mapping[str, float]) -> str:
    shown = [f"{name!r}: {_amount(name, amount)}" for name, amount in list(resources.items())[:_MAX_SHOWN]]
    more = len(resources) - len(shown)
    return "{" + ", ".join([*shown, f"{more} more"] if more else shown) + "}"


def _amount(name: str, amount: float) -> str:
    return f"{amount / 2**30:.2f} GiB" if name in _OF_BYTES and amount else _number(amount)


def _number(amount: float) -> str:
    return f"{amount:.0f}" if amount == int(amount) else f"{amount:g}"
