"""Children that user code forks end when they come back from it, and change nothing for their worker.

A child has its worker's sockets: one that went on would take its calls and answer them.
"""

# mypy: disable-error-code="attr-defined,union-attr,arg-type"
from __future__ import annotations

import asyncio
import builtins
import multiprocessing
import os
import sys
import threading

import pytest

import sparkray
from process.helpers import alive, wait_until

pytestmark = pytest.mark.usefixtures("shared")


@sparkray.remote
def square(x):
    return x * x


def fork(ending):
    """Forks; the child comes back too, by this way. Gives the parent the child's pid."""
    child = os.fork()
    if child == 0:
        if ending == "raises":
            raise LookupError("of the child")
        if ending == "exits":
            sys.exit(7)
        return "the child's answer"
    return child


def forked_result(ending):
    """What the parent answers: how the child ended."""
    child = fork(ending)
    if isinstance(child, str):
        return child
    return child, os.waitpid(child, 0)[1]


CODES = {"returns": 0, "raises": 1, "exits": 7}


def check(answer, ending):
    child, status = answer
    assert os.waitstatus_to_exitcode(status) == CODES[ending]
    wait_until(lambda: not alive(child), 60, "the child is gone")
    # Its worker goes on, and others do.
    assert sparkray.get([square.remote(n) for n in range(20)], timeout=60) == [n * n for n in range(20)]


endings = pytest.mark.parametrize("ending", sorted(CODES))


@endings
def test_a_task_that_forks(ending):
    task = sparkray.remote(forked_result)
    for _ in range(3):
        check(sparkray.get(task.remote(ending), timeout=60), ending)


@endings
def test_a_task_whose_several_results_come_from_a_generator_that_forks(ending):
    @sparkray.remote(num_returns=2)
    def values():
        yield "first"
        yield forked_result(ending)

    first, second = sparkray.get(values.remote(), timeout=60)
    assert first == "first"
    check(second, ending)


class Methods:
    def __init__(self, ending="returns", fork_first=False):
        self.first = forked_result(ending) if fork_first else None
        self.calls = 0

    def run(self, ending):
        self.calls += 1
        return forked_result(ending)

    def count(self):
        return self.calls

    def made(self):
        return self.first


Plain = sparkray.remote(num_cpus=0)(Methods)
Threaded = sparkray.remote(num_cpus=0, max_concurrency=3)(Methods)


@sparkray.remote(num_cpus=0)
class Asynchronous:
    def __init__(self):
        self.calls = 0

    async def run(self, ending):
        self.calls += 1
        return forked_result(ending)

    async def run_and_await(self, ending):
        # The child awaits, too: it must run nothing else.
        self.calls += 1
        child = os.fork()
        await asyncio.sleep(0)
        if child == 0:
            return "the child's answer"
        return child, os.waitpid(child, 0)[1]

    async def count(self):
        await asyncio.sleep(0)
        return self.calls


@endings
@pytest.mark.parametrize("kind", [Plain, Threaded, Asynchronous], ids=["plain", "threaded", "async"])
def test_a_method_that_forks(kind, ending):
    actor = kind.remote()
    for _ in range(3):
        # Others wait behind it.
        answers = [actor.run.remote(ending), *[actor.count.remote() for _ in range(5)]]
        check(sparkray.get(answers[0], timeout=60), ending)
        sparkray.get(answers[1:], timeout=60)
    assert sparkray.get(actor.count.remote(), timeout=60) == 3


def test_a_coroutine_whose_child_awaits():
    actor = Asynchronous.remote()
    answers = [actor.run_and_await.remote("returns"), *[actor.count.remote() for _ in range(5)]]
    check(sparkray.get(answers[0], timeout=60), "returns")
    sparkray.get(answers[1:], timeout=60)
    assert sparkray.get(actor.count.remote(), timeout=60) == 1


@endings
def test_a_constructor_that_forks(ending):
    actor = Plain.remote(ending, True)
    check(sparkray.get(actor.made.remote(), timeout=60), ending)
    assert sparkray.get(actor.count.remote(), timeout=60) == 0


class Meeting:
    """An actor one of whose threads forks while another looks up what it needs for its answer."""

    def __init__(self):
        self.looks_up = threading.Event()
        self.has_forked = threading.Event()

    def answer(self):
        thread = threading.get_ident()
        find = builtins.__import__

        def find_later(*args, **kwargs):
            if threading.get_ident() == thread:
                self.looks_up.set()
                assert self.has_forked.wait(60)
            return find(*args, **kwargs)

        builtins.__import__ = find_later
        return "answered"

    def run(self, ending):
        assert self.looks_up.wait(60)
        try:
            child = fork(ending)
            return child if isinstance(child, str) else (child, os.waitpid(child, 0)[1])
        finally:
            self.has_forked.set()


@endings
def test_a_child_waits_for_no_thread_that_it_does_not_have(ending):
    # In a process that has answered nobody yet.
    new_worker = {"env_vars": {"FORKS": ending}}
    actor = sparkray.remote(num_cpus=0, max_concurrency=2, runtime_env=new_worker)(Meeting).remote()
    answered, forked = actor.answer.remote(), actor.run.remote(ending)
    # The first waits for the fork, and the child would wait for the first.
    check(sparkray.get(forked, timeout=60), ending)
    assert sparkray.get(answered, timeout=60) == "answered"


def double(x):
    return 2 * x


def several_children():
    """Of multiprocessing: what a pool gives, and how two processes end."""
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        doubled = pool.map(double, range(10))
    codes = []
    for code in (0, 3):
        process = context.Process(target=sys.exit, args=(code,))
        process.start()
        process.join()
        codes.append(process.exitcode)
    return doubled, codes


@pytest.mark.parametrize("where", ["task", Plain, Threaded, Asynchronous])
def test_children_of_multiprocessing_end_as_they_do_elsewhere(where):
    # A threaded actor forks on a thread of a pool, which multiprocessing joins at its child's end.
    for _ in range(2):
        if where == "task":
            result = sparkray.remote(several_children).remote()
        else:
            result = where.remote().__ray_call__.remote(lambda _: several_children())
        assert sparkray.get(result, timeout=60) == ([2 * n for n in range(10)], [0, 3])
