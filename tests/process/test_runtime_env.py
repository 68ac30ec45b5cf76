"""`runtime_env`: workers with environment variables of their own."""

from __future__ import annotations

import json
import os

import sparkray


@sparkray.remote(num_cpus=0)
def variable(name):
    return os.environ.get(name)


@sparkray.remote(num_cpus=0)
def pid():
    return os.getpid()


class _Holder:
    def variable(self, name):
        return os.environ.get(name)

    def variable_of_a_task(self, name):
        return sparkray.get(variable.remote(name))


Holder = sparkray.remote(_Holder)


def with_env(**env_vars):
    return {"runtime_env": {"env_vars": env_vars}}


def test_tasks_and_actors_have_the_variables_that_they_ask_for(shared):
    assert sparkray.get(variable.options(**with_env(FRUIT="apple")).remote("FRUIT")) == "apple"
    assert sparkray.get(variable.options(**with_env(FRUIT="pear")).remote("FRUIT")) == "pear"
    assert sparkray.get(variable.remote("FRUIT")) is None
    assert "FRUIT" not in os.environ
    holder = Holder.options(**with_env(FRUIT="plum")).remote()
    assert sparkray.get(holder.variable.remote("FRUIT")) == "plum"
    assert sparkray.get(Holder.remote().variable.remote("FRUIT")) is None


def test_a_decorator_can_say_it(shared):
    @sparkray.remote(runtime_env={"env_vars": {"FRUIT": "apple"}})
    def fruit():
        return os.environ.get("FRUIT")

    assert sparkray.get(fruit.remote()) == "apple"
    assert sparkray.get(fruit.options(runtime_env={"env_vars": {"FRUIT": "pear"}}).remote()) == "pear"
    assert sparkray.get(fruit.options(runtime_env={}).remote()) is None


def test_a_worker_serves_those_with_its_variables_and_no_others(shared):
    here = sparkray.get(pid.remote())
    apple = sparkray.get(pid.options(**with_env(FRUIT="apple")).remote())
    assert apple != here
    assert sparkray.get(pid.options(**with_env(FRUIT="apple")).remote()) == apple
    assert sparkray.get(pid.options(**with_env(FRUIT="pear")).remote()) not in (here, apple)


def test_what_is_called_inherits_the_variables_and_may_change_them(shared):
    @sparkray.remote(num_cpus=0)
    def parent():
        inner = variable.options(**with_env(B="inner"))
        return sparkray.get([variable.remote("A"), variable.remote("B"), inner.remote("A"), inner.remote("B")])

    asked = parent.options(**with_env(A="outer", B="outer")).remote()
    assert sparkray.get(asked) == ["outer", "outer", "outer", "inner"]
    holder = Holder.options(**with_env(A="actor")).remote()
    assert sparkray.get(holder.variable_of_a_task.remote("A")) == "actor"


def test_interpreter_and_libraries_see_the_variables_when_they_start(shared):
    @sparkray.remote(num_cpus=0)
    def facts():
        import sys

        return sys.flags.dev_mode, os.environ["OMP_NUM_THREADS"], sys.path

    dev_mode, threads, path = sparkray.get(
        facts.options(**with_env(PYTHONDEVMODE="1", OMP_NUM_THREADS="3", PYTHONPATH="/of/the/program")).remote()
    )
    assert dev_mode and threads == "3" and "/of/the/program" in path
    assert not sparkray.get(facts.remote())[0]


def test_a_value_may_be_made_of_what_the_node_has(shared):
    asked = variable.options(**with_env(PATH="/first:${PATH}", UNKNOWN="a${NOT_SET_ANYWHERE}b", OPEN="${PATH"))
    path, unknown, not_closed = sparkray.get([asked.remote(name) for name in ("PATH", "UNKNOWN", "OPEN")])
    assert path == f"/first:{os.environ['PATH']}"
    assert (unknown, not_closed) == ("ab", "${PATH")


def test_the_context_tells_it(shared):
    @sparkray.remote(num_cpus=0)
    def told():
        context = sparkray.get_runtime_context()
        return context.runtime_env, json.loads(context.get_runtime_env_string())

    expected = {"env_vars": {"FRUIT": "apple"}}
    assert sparkray.get(told.options(**with_env(FRUIT="apple")).remote()) == (expected, expected)
    assert sparkray.get(told.remote()) == ({}, {})
    assert sparkray.get_runtime_context().get_runtime_env_string() == "{}"
