"""References travel between driver, tasks, actors and nodes in every direction: values stay right, and nothing leaks.

A random program makes, nests, passes, holds and drops references on two nodes; a model of plain Python says what each
must be. At the end no object may be left in a store.
"""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import gc
import random
from collections.abc import Iterator

import numpy as np
import pytest

import sparkray
from process.helpers import wait_until
from sparkray.cluster_utils import Cluster
from support.figures import reported_stores

# A leaf is its number; a list of models stands for a list of references.
Model = int | list


def payload(number, large):
    """Inline when small, in the store when large."""
    return np.full(40_000, number, dtype=np.float64) if large else number


@sparkray.remote
def leaf(number, large):
    return payload(number, large)


@sparkray.remote
def pass_on(*lists):
    return [reference for references in lists for reference in references]


@sparkray.remote
def put_here(leaves):
    return [sparkray.put(payload(number, large)) for number, large in leaves]


@sparkray.remote
def submit_from_here(leaves):
    return [leaf.remote(number, large) for number, large in leaves]


@sparkray.remote(num_cpus=0)
class Holder:
    """Keeps references by key."""

    def __init__(self):
        self.held = {}

    def hold(self, key, references):
        self.held[key] = references
        return list(references)

    def give(self, key):
        return self.held[key]

    def drop(self, key):
        del self.held[key]


class Program:
    """References and what they must be."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.pool: list[tuple[sparkray.ObjectRef, Model]] = []
        self.holders = [Holder.options(resources={node: 1}, num_cpus=0).remote() for node in "ab"]
        self.held: dict[tuple[int, int], Model] = {}
        self.number = 0

    def somewhere(self, function):
        return function.options(resources={self.random.choice("ab"): 0.01})

    def some(self) -> list[tuple[sparkray.ObjectRef, Model]]:
        return [self.random.choice(self.pool) for _ in range(self.random.randint(1, 4))] if self.pool else []

    def leaves(self) -> list[tuple[int, bool]]:
        return [(self.number * 10 + n, self.random.random() < 0.3) for n in range(self.random.randint(0, 3))]

    def step(self) -> None:
        """One random operation."""
        self.number += 1
        operations = [self.make, self.make_many, self.nest, self.hold, self.give, self.forget, self.drop, self.drop]
        self.random.choice(operations)()
        if self.pool and self.random.random() < 0.1:
            check(*self.random.choice(self.pool))
        if len(self.pool) > 50:
            self.drop()

    def make(self) -> None:
        large = self.random.random() < 0.3
        if self.random.random() < 0.5:
            self.pool.append((sparkray.put(payload(self.number, large)), self.number))
        else:
            self.pool.append((self.somewhere(leaf).remote(self.number, large), self.number))

    def make_many(self) -> None:
        leaves = self.leaves()
        function = self.random.choice([put_here, submit_from_here])
        self.pool.append((self.somewhere(function).remote(leaves), [number for number, _ in leaves]))

    def nest(self) -> None:
        chosen = self.some()
        references, models = [reference for reference, _ in chosen], [model for _, model in chosen]
        if self.random.random() < 0.5:
            self.pool.append((sparkray.put(references), models))
        else:
            self.pool.append((self.somewhere(pass_on).remote(references), models))

    def hold(self) -> None:
        chosen = self.some()
        holder = self.random.randrange(2)
        models = [model for _, model in chosen]
        reference = self.holders[holder].hold.remote(self.number, [reference for reference, _ in chosen])
        self.held[holder, self.number] = models
        self.pool.append((reference, models))

    def give(self) -> None:
        if self.held:
            holder, key = self.random.choice(list(self.held))
            self.pool.append((self.holders[holder].give.remote(key), self.held[holder, key]))

    def forget(self) -> None:
        if self.held:
            holder, key = self.random.choice(list(self.held))
            del self.held[holder, key]
            self.holders[holder].drop.remote(key)

    def drop(self) -> None:
        if self.pool:
            self.pool.pop(self.random.randrange(len(self.pool)))

    def end(self) -> None:
        """Checks what is left, and drops it."""
        for reference, model in self.pool:
            check(reference, model)
        self.pool.clear()
        while self.held:
            self.forget()


def check(reference, model: Model) -> None:
    """The value of a reference is what the model says, all the way down."""
    value = sparkray.get(reference, timeout=60)
    if isinstance(model, int):
        assert float(value[0] if isinstance(value, np.ndarray) else value) == model
        return
    assert len(value) == len(model)
    for inner, inner_model in zip(value, model, strict=True):
        check(inner, inner_model)


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[None]:
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "resources": {"a": 100}}) as cluster:
        cluster.add_node(num_cpus=2, resources={"b": 100})
        sparkray.init(address=cluster.address)
        cluster.wait_for_nodes()
        yield


def left_in_stores():
    gc.collect()
    return sum(store["object_count"] for store in reported_stores())


@pytest.mark.parametrize("seed", range(6))
def test_values_are_right_and_nothing_leaks(two_nodes, seed):
    program = Program(seed)
    for _ in range(400):
        program.step()
    program.end()
    wait_until(lambda: left_in_stores() == 0, 60, "all objects are freed on both nodes")


def test_copies_that_other_nodes_fetched_are_freed_too(two_nodes):
    @sparkray.remote
    def total(array):
        return float(array.sum())

    on_a = sparkray.put(np.ones(500_000))
    on_b = leaf.options(resources={"b": 1}).remote(2, True)
    assert sparkray.get(total.options(resources={"b": 1}).remote(on_a), timeout=60) == 500_000.0
    assert float(sparkray.get(on_b, timeout=60)[0]) == 2.0
    wait_until(lambda: left_in_stores() == 4, 60, "both objects are on both nodes")
    del on_a, on_b
    wait_until(lambda: left_in_stores() == 0, 60, "all copies are freed")
