"""`runtime_env` from its beginning, and when it cannot be had."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import sparkray
from process.helpers import children_of, run_driver, running_cluster, wait_until, zygote_of
from sparkray import exceptions


@sparkray.remote(num_cpus=0)
def variable(name):
    return os.environ.get(name)


@sparkray.remote(num_cpus=0)
def pid():
    return os.getpid()


class _Holder:
    def variable(self, name):
        return os.environ.get(name)


Holder = sparkray.remote(_Holder)


def with_env(**env_vars):
    return {"runtime_env": {"env_vars": env_vars}}


WHOLE_PROGRAM = """
    import os
    import sparkray

    @sparkray.remote(num_cpus=0)
    def variable(name):
        return os.environ.get(name)

    @sparkray.remote
    class Holder:
        def variable_of_a_task(self, name):
            return sparkray.get(variable.remote(name))

    with sparkray.init(num_cpus=1, runtime_env={"env_vars": {"A": "job", "B": "job"}}):
        asked = variable.options(runtime_env={"env_vars": {"B": "task"}})
        assert sparkray.get([asked.remote("A"), asked.remote("B"), variable.remote("B")]) == ["job", "task", "job"]
        assert sparkray.get(Holder.remote().variable_of_a_task.remote("A")) == "job"
        assert sparkray.get_runtime_context().runtime_env == {"env_vars": {"A": "job", "B": "job"}}
    with sparkray.init(num_cpus=1):
        assert sparkray.get(variable.remote("A")) is None
    print("all of it")
"""


def test_a_driver_can_ask_for_its_whole_program():
    done = run_driver(WHOLE_PROGRAM)
    assert done.stdout.endswith("all of it\n"), done.stderr


@pytest.mark.parametrize(
    ("runtime_env", "error", "words"),
    [
        ("env", TypeError, "dict"),
        ({"env_vars": {"A": None}}, TypeError, "Dict\\[str, str\\]"),
        ({"env_vars": {"A": 1}}, TypeError, "Dict\\[str, str\\]"),
        ({"env_vars": {1: "A"}}, TypeError, "Dict\\[str, str\\]"),
        ({"env_vars": ["A"]}, TypeError, "Dict\\[str, str\\]"),
        ({"env_vars": {"": "x"}}, ValueError, "cannot be an environment variable"),
        ({"env_vars": {"A=B": "x"}}, ValueError, "cannot be an environment variable"),
        ({"env_vars": {"A": "\0"}}, ValueError, "cannot be an environment variable"),
        ({"env_vars": {"SPARKRAY_NODE_ID": "x"}}, ValueError, "SPARKRAY_"),
        ({"pip": ["x"], "env_vars": {"A": "x"}}, NotImplementedError, "pip is not there yet"),
        ({"working_dir": "."}, NotImplementedError, "working_dir is not there yet"),
    ],
    ids=str,
)
def test_what_cannot_be_an_environment_is_refused(runtime_env, error, words):
    with pytest.raises(error, match=words):
        variable.options(runtime_env=runtime_env)
    with pytest.raises(error, match=words):
        Holder.options(runtime_env=runtime_env)
    with pytest.raises(error, match=words):
        sparkray.init(num_cpus=1, runtime_env=runtime_env)


@pytest.mark.trouble
def test_variables_with_which_no_python_starts_are_named_and_hurt_nobody_else(cluster):
    logs = Path(running_cluster().session.log_dir)
    broken = variable.options(**with_env(PYTHONHOME="/nowhere", OTHER="secret value"))
    # The second time somebody asks, it is tried again.
    for _ in range(2):
        with pytest.raises(exceptions.RuntimeEnvSetupError, match="cannot start Python workers") as caught:
            sparkray.get(broken.remote("A"), timeout=60)
        assert "OTHER, PYTHONHOME" in str(caught.value)
        assert "secret value" not in str(caught.value)
    assert len(list(logs.rglob("zygote-*.log"))) == 2
    holder = Holder.options(max_restarts=-1, **with_env(PYTHONHOME="/nowhere")).remote()
    with pytest.raises(exceptions.RayActorError, match="PYTHONHOME"):
        sparkray.get(holder.variable.remote("A"), timeout=60)
    assert sparkray.get(variable.options(**with_env(A="x")).remote("A")) == "x"
    assert sparkray.get(variable.remote("A")) is None


def of_environments() -> list[int]:
    """Children of the running cluster's raylet that have variables of their own: zygotes and workers."""
    raylet = running_cluster().nodes[0].pid
    found = []
    for child in children_of(raylet):
        # One may have ended meanwhile.
        try:
            environment = Path(f"/proc/{child}/environ").read_bytes()
            command = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if b"sparkray._private.zygote" in command and b"SPARKRAY_RUNTIME_ENV" in environment:
            found.append(child)
    return found


def test_there_are_more_environments_than_places_for_zygotes(cluster):
    asked = [variable.options(**with_env(NUMBER=str(number))).remote("NUMBER") for number in range(24)]
    assert sparkray.get(asked, timeout=120) == [str(number) for number in range(24)]
    workers = set(sparkray.get([pid.options(**with_env(NUMBER=str(number))).remote() for number in range(24)]))
    assert len(workers) == 24
    # Each worker has a zygote no longer: only sixteen are left.
    wait_until(lambda: len(set(of_environments()) - workers) <= 16)


@pytest.mark.trouble
def test_a_killed_zygote_of_an_environment_is_replaced(cluster):
    asked = pid.options(**with_env(FRUIT="apple"))
    worker = sparkray.get(asked.remote())
    own = zygote_of(running_cluster().nodes[0].pid)
    others = [zygote for zygote in of_environments() if zygote not in (own, worker)]
    assert others
    for zygote in others:
        os.kill(zygote, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{worker}").exists())
    assert sparkray.get(asked.remote(), timeout=60) != worker
    assert sparkray.get(variable.options(**with_env(FRUIT="apple")).remote("FRUIT")) == "apple"
