"""Actors whose constructor's arguments are not there yet: they can be passed on, named, looked up and killed."""

# mypy: disable-error-code="attr-defined,union-attr"
from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import sparkray
from process.helpers import wait_until
from sparkray import exceptions


@sparkray.remote(num_cpus=0)
def later(finish: str, error: bool = False) -> int:
    """Ends when the file `finish` is there."""
    while not os.path.exists(finish):
        time.sleep(0.01)
    if error:
        raise KeyError("no argument")
    return 5


@sparkray.remote(num_cpus=0)
class Keeper:
    def __init__(self, value: int):
        self.value = value

    def get(self) -> int:
        return self.value


@sparkray.remote(num_cpus=0)
def use(actor):
    return sparkray.get(actor.get.remote())


@pytest.fixture
def finish(cluster, tmp_path: Path) -> Path:
    return tmp_path / "finish"


def test_a_handle_can_be_passed_on_before_the_actor_is_made(finish):
    keeper = Keeper.remote(later.remote(str(finish)))
    used = use.remote(keeper)
    assert sparkray.wait([used], timeout=0.3) == ([], [used])
    del keeper
    finish.touch()
    assert sparkray.get(used, timeout=60) == 5


def test_a_named_actor_does_not_wait_for_its_arguments(finish):
    keeper = Keeper.options(name="late").remote(later.remote(str(finish)))
    with pytest.raises(ValueError, match="late"):
        Keeper.options(name="late").remote(1)
    call = sparkray.get_actor("late").get.remote()
    assert sparkray.wait([call], timeout=0.3) == ([], [call])
    finish.touch()
    assert sparkray.get([call, keeper.get.remote()], timeout=60) == [5, 5]


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "argument failed"])
def test_an_actor_that_is_never_made_fails_its_calls_everywhere(finish, is_killed: bool):
    keeper = Keeper.remote(later.remote(str(finish), error=True))
    call, used = keeper.get.remote(), use.remote(keeper)
    if is_killed:
        sparkray.kill(keeper)
    finish.touch()
    with pytest.raises(exceptions.ActorDiedError, match="killed by kill" if is_killed else "no argument"):
        sparkray.get(call, timeout=60)
    cause = "killed by kill" if is_killed else "argument of its constructor"
    with pytest.raises(exceptions.ActorDiedError, match=cause):
        sparkray.get(used, timeout=60)


def test_handles_that_go_before_the_actor_is_made_leave_no_actor(finish):
    argument = later.remote(str(finish))
    Keeper.options(num_cpus=1).remote(argument)
    finish.touch()
    sparkray.wait([argument], timeout=60)
    # The head has heard of all that came before this one.
    assert sparkray.get(Keeper.remote(1).get.remote(), timeout=60) == 1
    free = sparkray.cluster_resources()["CPU"]
    wait_until(lambda: sparkray.available_resources().get("CPU") == free, 60, "no actor is left")
