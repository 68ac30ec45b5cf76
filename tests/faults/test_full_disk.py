"""A store whose memory and whose disk are full refuses by a sentence, keeps what it has, and goes on afterwards."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparkray
from process.helpers import wait_until
from sparkray import exceptions
from sparkray._private.session import Session
from support.disk import small_disk

pytestmark = pytest.mark.trouble

MIB = 1 << 20
STORE = 32 * MIB
DISK = 24 * MIB
FULL = (exceptions.ObjectStoreFullError, exceptions.OutOfDiskError)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    with small_disk(tmp_path / "disk", DISK) as directory:
        yield directory


@pytest.fixture
def small(disk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A node with 32 MiB of memory for objects, which spills to the small disk."""

    def spill_dir(self: Session, node_id: str) -> Path:
        return disk / node_id[:8]  # the raylet makes it, and so removes it

    monkeypatch.setattr(Session, "spill_dir", spill_dir)
    with sparkray.init(num_cpus=2, object_store_memory=STORE):
        yield disk
    assert list(disk.rglob("*")) == []


def content(seed: int, size: int = 4 * MIB) -> Any:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def assert_intact(references: dict[int, Any]) -> None:
    for seed, reference in references.items():
        assert (sparkray.get(reference, timeout=60) == content(seed)).all(), f"object {seed} has changed"


def free_bytes(directory: Path) -> int:
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def assert_names_sizes(error: BaseException, size: int) -> None:
    """The last line has the bytes that were asked for and those that there are."""
    text = str(error).splitlines()[-1]
    numbers = [int(word) for word in "".join(c if c.isdigit() else " " for c in text).split()]
    assert any(size <= number < size + 64 * 1024 for number in numbers), f"{size} is not named: {text}"
    assert STORE in numbers, f"the store's {STORE} bytes are not named: {text}"


def test_a_value_larger_than_memory_and_disk_is_refused_and_the_store_goes_on(small: Path) -> None:
    references = {seed: sparkray.put(content(seed)) for seed in range(3)}
    huge = content(0, 40 * MIB)
    for _ in range(2):
        with pytest.raises(FULL) as caught:
            sparkray.put(huge)
        assert_names_sizes(caught.value, huge.nbytes)
    assert_intact(references)
    references |= {seed: sparkray.put(content(seed)) for seed in range(3, 10)}
    assert_intact(references)


def test_the_result_of_a_task_that_does_not_fit_is_its_error(small: Path) -> None:
    @sparkray.remote
    def make(size: int) -> Any:
        return np.ones(size, dtype=np.uint8)

    with pytest.raises(FULL) as caught:
        sparkray.get(make.remote(40 * MIB), timeout=60)
    assert_names_sizes(caught.value, 40 * MIB)
    assert int(sparkray.get(make.remote(4 * MIB), timeout=60).sum()) == 4 * MIB


def test_a_disk_that_fills_up_costs_no_object(small: Path) -> None:
    references: dict[int, Any] = {}
    with pytest.raises(FULL) as caught:
        while len(references) * 4 * MIB < STORE + DISK:
            references[len(references)] = sparkray.put(content(len(references)))
    assert_names_sizes(caught.value, 4 * MIB)
    assert len(references) * 4 * MIB > STORE, "objects were spilled"

    # Room for one, so that objects can change places. It is on disk, since it is the one that was not used longest.
    free = free_bytes(small)
    del references[0]
    wait_until(lambda: free_bytes(small) > free, 60, "the room of the first one is free")
    assert_intact(references)
    for seed in list(references)[::2]:
        del references[seed]
    for seed in range(100, 104):
        references[seed] = sparkray.put(content(seed))
    assert_intact(references)
    references.clear()
    wait_until(lambda: free_bytes(small) == DISK, 60, "the disk is empty again")


def test_what_lies_on_disk_is_read_there_while_memory_and_disk_are_full(small: Path) -> None:
    @sparkray.remote
    def sum_of(value: Any) -> int:
        return int(value.sum())

    @sparkray.remote
    def fail() -> None:
        raise KeyError("on purpose")

    references: dict[int, Any] = {}
    with pytest.raises(FULL):
        while len(references) * 4 * MIB < STORE + DISK:
            references[len(references)] = sparkray.put(content(len(references)))
    on_disk = len(references) - STORE // (4 * MIB)
    assert on_disk > 2
    # Each value is in use from its first moment on: nothing can be moved, neither in memory nor on disk.
    kept = {}
    for seed, reference in reversed(references.items()):
        kept[seed] = sparkray.get(reference, timeout=30)
    for seed, value in kept.items():
        assert (value == content(seed)).all(), f"object {seed} has changed"
    # Other processes read them too, twice and while they are mapped here.
    sums = {seed: int(content(seed).sum()) for seed in references}
    for _ in range(2):
        found = sparkray.get([sum_of.remote(reference) for reference in references.values()], timeout=60)
        assert dict(zip(references, found, strict=True)) == sums
    # What needs no room goes on.
    assert sparkray.get(sparkray.put("small")) == "small"
    with pytest.raises(KeyError):
        sparkray.get(fail.remote(), timeout=30)
    with pytest.raises(FULL):
        sparkray.put(content(0))
    # References go while their values are in use, the values afterwards.
    del reference, found
    references.clear()
    assert all((value == content(seed)).all() for seed, value in kept.items())
    kept.clear()
    del value
    wait_until(lambda: free_bytes(small) == DISK, 60, "the disk is empty again")
    assert_intact({seed: sparkray.put(content(seed)) for seed in range(10)})
