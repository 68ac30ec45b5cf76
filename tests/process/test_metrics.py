"""What driver, raylet and head have counted, as a client reads it."""

# mypy: disable-error-code="attr-defined"
from __future__ import annotations

import pytest

import sparkray
from process.helpers import wait_until
from sparkray._private import worker

pytestmark = pytest.mark.usefixtures("shared")


@sparkray.remote
def double(number: int) -> int:
    return 2 * number


@sparkray.remote
class Counter:
    def value(self) -> int:
        return 1


def counted(process: str) -> dict[str, float]:
    """All numbers of a process: names with their labels, as Prometheus reads them."""
    text = worker.core_worker().metrics(process)
    assert text.endswith("# EOF\n"), text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    pairs = [line.rsplit(" ", 1) for line in lines]
    numbers = {name: float(value) for name, value in pairs}
    assert len(numbers) == len(lines), "a name is listed twice"
    return numbers


def growth(process: str, before: dict[str, float]) -> dict[str, float]:
    """By how much each number of a process has grown."""
    return {name: value - before.get(name, 0) for name, value in counted(process).items()}


def test_a_task_is_counted_by_driver_and_raylet() -> None:
    driver, raylet = counted("worker"), counted("raylet")
    assert sparkray.get([double.remote(number) for number in range(20)], timeout=60) == list(range(0, 40, 2))
    grown = growth("worker", driver)
    assert grown['ray_tasks_submitted_total{Type="NORMAL_TASK"}'] == 20
    assert grown['ray_tasks_ended_total{Outcome="Finished"}'] == 20
    assert grown["ray_task_time_seconds_count"] == 20
    assert grown["ray_task_time_seconds_sum"] > 0
    leases = grown['ray_core_worker_lease_replies_total{Outcome="Granted"}']
    assert leases >= 1
    granted = growth("raylet", raylet)['ray_scheduler_lease_replies_total{Outcome="Granted"}']
    assert granted >= leases


def test_what_a_task_raises_is_counted_apart() -> None:
    @sparkray.remote(max_retries=0)
    def fail() -> None:
        raise ValueError("on purpose")

    before = counted("worker")
    with pytest.raises(ValueError, match="on purpose"):
        sparkray.get(fail.remote(), timeout=60)
    grown = growth("worker", before)
    assert grown['ray_tasks_ended_total{Outcome="Raised"}'] == 1
    assert grown['ray_tasks_ended_total{Outcome="Finished"}'] == 0


def test_an_actor_is_counted_by_head_and_raylet() -> None:
    head, raylet = counted("head"), counted("raylet")
    counter = Counter.remote()
    assert sparkray.get(counter.value.remote(), timeout=60) == 1
    grown = growth("head", head)
    assert grown["ray_gcs_actors_registered_total"] == 1
    assert grown["ray_gcs_actors_created_total"] == 1
    assert grown["ray_gcs_actor_creation_time_seconds_count"] == 1
    assert grown["ray_gcs_journal_records_total"] >= 3
    assert growth("raylet", raylet)['ray_raylet_actor_creations_total{Outcome="Alive"}'] == 1
    assert counted("head")['ray_gcs_nodes{State="Alive"}'] == 1
    sparkray.kill(counter)
    wait_until(lambda: growth("head", head)["ray_gcs_actors_died_total"] == 1)
    wait_until(lambda: growth("raylet", raylet)["ray_raylet_actors_ended_total"] == 1)


def test_objects_in_the_store_are_counted_with_their_bytes() -> None:
    before = counted("raylet")
    reference = sparkray.put(bytes(1 << 20))
    grown = growth("raylet", before)
    assert grown["ray_object_store_created_objects_total"] == 1
    assert grown["ray_object_store_created_bytes_total"] >= 1 << 20
    assert grown["ray_object_store_num_local_objects"] == 1
    del reference
    wait_until(lambda: growth("raylet", before)["ray_object_store_freed_objects_total"] == 1)


def test_a_process_that_there_is_not_is_named() -> None:
    with pytest.raises(ValueError, match="'worker', 'raylet' or 'head'"):
        worker.core_worker().metrics("gcs")
