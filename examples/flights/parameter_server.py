"""A sharded parameter server that trains a logistic regression by stochastic gradient descent: a plain Ray program.

Each server holds one shard of the weights, each worker some of the blocks (Arrow tables in the object store). A round:
every worker computes the gradient of a batch at the newest weights, every server takes the workers' gradients for its
shard. Weights and gradients go from actor to actor as object references; the program itself only says who does what.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow

import ray

# Scores are counted in this many bins for the area under the curve; its error is below one part in ten thousand.
BINS = 10_000


# Which columns of a block the model reads: the numbers, and the categories with the count of their values.
Columns = tuple[tuple[str, ...], dict[str, int]]
Scale = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to train: counts of actors, rounds of SGD, rows in a worker's batch, step size and its decay, seed."""

    servers: int = 2
    workers: int = 2
    rounds: int = 400
    batch: int = 2048
    step: float = 2.0
    decay: float = 0.02
    seed: int = 2013


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained model: references to the shards of its weights, and the scale of its numbers."""

    columns: Columns
    scale: Scale
    shards: list[Any]


def count_weights(columns: Columns) -> int:
    """One for each number, the constant, and one for each value of a category."""
    numbers, categories = columns
    return len(numbers) + 1 + sum(categories.values())


def read_numbers(block: pyarrow.Table, columns: Columns) -> np.ndarray:
    """The numeric columns of a block, (rows, numbers), as they are."""
    numbers, _ = columns
    return np.column_stack([block[name].to_numpy() for name in numbers]).astype(np.float32)


def read_codes(block: pyarrow.Table, columns: Columns) -> np.ndarray:
    """For each row the positions of its categories' weights, (rows, categories)."""
    numbers, categories = columns
    position = len(numbers) + 1
    codes = []
    for name, count in categories.items():
        codes.append(block[name].to_numpy() + position)
        position += count
    return np.column_stack(codes).astype(np.int64)


def scale_numbers(numbers: np.ndarray, scale: Scale) -> np.ndarray:
    """Numbers with mean 0 and deviation 1, and a column of ones for the constant."""
    mean, deviation = scale
    ones = np.ones((len(numbers), 1), np.float32)
    return np.hstack([(numbers - mean) / deviation, ones]).astype(np.float32)


def probabilities(numbers: np.ndarray, codes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The probability of a late arrival for each row."""
    score = numbers @ weights[: numbers.shape[1]] + weights[codes].sum(axis=1)
    return 1.0 / (1.0 + np.exp(-score))


@ray.remote
class ParameterServer:
    """One shard of the weights."""

    def __init__(self, size: int, step: float, decay: float):
        self.weights = np.zeros(size)
        self.step = step
        self.decay = decay
        self.updates = 0

    def get_weights(self):
        """The shard as it is."""
        return self.weights.copy()

    def apply_gradients(self, *gradients):
        """One step down the mean of the workers' gradients; returns the shard after it."""
        self.weights -= self.step / (1.0 + self.decay * self.updates) * np.mean(gradients, axis=0)
        self.updates += 1
        return self.weights.copy()


@ray.remote
class Worker:
    """Computes gradients over its blocks."""

    def __init__(self, blocks: list, columns: Columns, batch: int, seed: list[int]):
        block = pyarrow.concat_tables(ray.get(blocks))
        known = block["label"].is_valid().to_numpy(zero_copy_only=False)
        train = known & ~block["is_test"].to_numpy(zero_copy_only=False)
        block = block.filter(pyarrow.array(train))
        self.labels = block["label"].to_numpy().astype(np.float32)
        self.numbers = read_numbers(block, columns)
        self.codes = read_codes(block, columns)
        self.size = count_weights(columns)
        self.batch = batch
        self.random = np.random.default_rng(seed)
        self.losses: list[float] = []

    def moments(self):
        """Rows, and sum and sum of squares of each number."""
        numbers = self.numbers.astype(np.float64)
        return len(numbers), numbers.sum(axis=0), (numbers**2).sum(axis=0)

    def set_scale(self, scale):
        """Scales the numbers in place; returns the count of rows."""
        self.numbers = scale_numbers(self.numbers, scale)
        return len(self.numbers)

    def compute_gradients(self, *shards):
        """The gradient of the log loss over one random batch, cut like the shards."""
        weights = np.concatenate(shards)
        rows = self.random.integers(0, len(self.labels), self.batch)
        numbers, codes, labels = self.numbers[rows], self.codes[rows], self.labels[rows]
        predicted = probabilities(numbers, codes, weights)
        error = (predicted - labels) / len(rows)
        gradient = np.bincount(codes.ravel(), np.repeat(error, codes.shape[1]), minlength=self.size)
        gradient[: numbers.shape[1]] += error @ numbers
        likelihood = np.where(labels > 0, predicted, 1.0 - predicted)
        self.losses.append(float(-np.log(np.maximum(likelihood, 1e-12)).mean()))
        parts = np.split(gradient, np.cumsum([len(shard) for shard in shards])[:-1])
        return parts if len(parts) > 1 else parts[0]

    def mean_loss(self):
        """The mean log loss of the batches since the last call."""
        losses, self.losses = self.losses, []
        return float(np.mean(losses))


@ray.remote(num_returns=2)
def predict(block: pyarrow.Table, columns: Columns, scale: Scale, *shards):
    """Scores one block: a table of flight_id and probability, and the test rows' scores counted by label and bin."""
    numbers = scale_numbers(read_numbers(block, columns), scale)
    predicted = probabilities(numbers, read_codes(block, columns), np.concatenate(shards))
    table = pyarrow.table({"flight_id": block["flight_id"], "probability": predicted})
    known = block["label"].is_valid().to_numpy(zero_copy_only=False)
    test = known & block["is_test"].to_numpy(zero_copy_only=False)
    labels = block["label"].fill_null(0).to_numpy()[test]
    bins = np.minimum((predicted[test] * BINS).astype(np.int64), BINS - 1)
    return table, np.stack([np.bincount(bins[labels == label], minlength=BINS) for label in (0, 1)])


def train(blocks: Sequence[Any], columns: Columns, plan: Plan, report: Callable[[int, float], None]) -> Model:
    """Trains on ``blocks``, references to Arrow tables; calls ``report(round, loss)`` now and then."""
    sizes = [len(part) for part in np.array_split(np.arange(count_weights(columns)), plan.servers)]
    servers = [ParameterServer.remote(size, plan.step, plan.decay) for size in sizes]
    workers = [
        Worker.remote(list(blocks[index :: plan.workers]), columns, plan.batch, [plan.seed, index])
        for index in range(plan.workers)
    ]

    counts, sums, squares = zip(*ray.get([worker.moments.remote() for worker in workers]), strict=True)
    mean = sum(sums) / sum(counts)
    deviation = np.sqrt(np.maximum(sum(squares) / sum(counts) - mean**2, 1e-6))
    scale = (mean.astype(np.float32), deviation.astype(np.float32))
    ray.get([worker.set_scale.remote(scale) for worker in workers])

    shards = [server.get_weights.remote() for server in servers]
    every = max(1, plan.rounds // 5)
    for number in range(1, plan.rounds + 1):
        gradients = []
        for worker in workers:
            parts = worker.compute_gradients.options(num_returns=plan.servers).remote(*shards)
            gradients.append(parts if plan.servers > 1 else [parts])
        shards = [
            server.apply_gradients.remote(*(parts[index] for parts in gradients))
            for index, server in enumerate(servers)
        ]
        if number % every == 0 or number == plan.rounds:
            report(number, float(np.mean(ray.get([worker.mean_loss.remote() for worker in workers]))))

    # The model outlives the actors, which give their CPUs back.
    shards = [ray.put(shard) for shard in ray.get(shards)]
    for actor in servers + workers:
        ray.kill(actor)
    return Model(columns, scale, shards)


def score(blocks: Sequence[Any], model: Model) -> tuple[list[Any], float]:
    """References to the predictions, one table for each block, and the area under the ROC curve over the test rows."""
    pairs = [predict.remote(block, model.columns, model.scale, *model.shards) for block in blocks]
    counts = sum(ray.get([histogram for _, histogram in pairs]))
    return [table for table, _ in pairs], area_under_curve(counts)


def area_under_curve(counts: np.ndarray) -> float:
    """The area under the ROC curve from (2, bins) counts of negative and positive rows; a tie counts half."""
    negatives, positives = counts.astype(np.float64)
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / (positives.sum() * negatives.sum()))
