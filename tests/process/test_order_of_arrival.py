"""The first users of a fresh process, all at once.

What must happen in the order of frames happens where frames are read. A thread that does it when it wakes is too late
for others, and that shows only while nothing is known yet: so every program here is a new process, whose threads begin
at a barrier, and of which each does something else.
"""

# mypy: disable-error-code="attr-defined,union-attr,arg-type"
from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import sparkray
from process.helpers import run_driver, running_cluster

HOLDER = "holder"
NAMESPACE = "order"

PROGRAM = """
    import asyncio, json, os, random, sys, threading
    import numpy as np
    import sparkray
    from sparkray._private import worker

    SEED = {seed}
    THREADS = 8
    LARGE = 20_000

    @sparkray.remote(num_cpus=0.1)
    def total(array):
        return float(array.sum())

    @sparkray.remote(num_cpus=0.1)
    def ones(count):
        return np.ones(count)

    @sparkray.remote(num_cpus=0)
    class Adder:
        def __init__(self, base):
            self.base = base

        def add(self, array):
            return self.base.sum() + array.sum()

    def put_small():
        assert sparkray.get(sparkray.put({{"a": 1}}), timeout=60) == {{"a": 1}}

    def put_large():
        assert sparkray.get(sparkray.put(np.ones(LARGE)), timeout=60).sum() == LARGE

    def argument():
        assert sparkray.get(total.remote(np.ones(LARGE)), timeout=60) == LARGE

    def result():
        assert sparkray.get(ones.remote(LARGE), timeout=60).sum() == LARGE

    def small_result():
        assert sparkray.get(ones.remote(4), timeout=60).sum() == 4

    def wait():
        refs = [ones.remote(LARGE) for _ in range(3)]
        ready, rest = sparkray.wait(refs, num_returns=3, timeout=60)
        assert len(ready) == 3 and not rest
        assert all(value.sum() == LARGE for value in sparkray.get(ready, timeout=60))

    def actor():
        adder = Adder.remote(np.ones(LARGE))
        assert sparkray.get(adder.add.remote(np.ones(LARGE)), timeout=60) == 2 * LARGE

    def kill():
        adder = Adder.remote(np.ones(LARGE))
        sparkray.kill(adder)
        try:
            sparkray.get(adder.add.remote(np.ones(LARGE)), timeout=60)
        except sparkray.exceptions.RayActorError:
            return
        raise AssertionError("a killed actor answered")

    def lookup():
        holder = sparkray.get_actor("{holder}", namespace="{namespace}")
        assert sparkray.get(holder.take.remote(np.ones(LARGE)), timeout=60) == LARGE

    def spilled():
        holder = sparkray.get_actor("{holder}", namespace="{namespace}")
        refs = sparkray.get(holder.references.remote(), timeout=60)
        for index in (0, len(refs) - 1):
            value = sparkray.get(refs[index], timeout=60)
            assert value[0] == index and value[-1] == index

    def nodes():
        assert [node["Alive"] for node in sparkray.nodes()] == [True]

    OPERATIONS = [put_small, put_large, argument, result, small_result, wait, actor, kill, lookup, spilled, nodes]

    def chosen(seed):
        # The same operation by all, or any by each.
        draw = random.Random(seed)
        if seed % 3 == 0:
            return [OPERATIONS[seed // 3 % len(OPERATIONS)]] * THREADS
        return [draw.choice(OPERATIONS) for _ in range(THREADS)]

    def meet(seed):
        barrier = threading.Barrier(THREADS)
        failures = []

        def run(operation):
            barrier.wait(60)
            try:
                operation()
            except BaseException as error:
                failures.append(f"{{operation.__name__}}: {{type(error).__name__}}: {{error}}")

        threads = [threading.Thread(target=run, args=(operation,)) for operation in chosen(seed)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return failures

    @sparkray.remote(num_cpus=0, max_concurrency=THREADS)
    class Threaded:
        def __init__(self):
            self.barrier = threading.Barrier(THREADS)

        def run(self, operation):
            self.barrier.wait(60)
            operation()

    @sparkray.remote(num_cpus=0)
    class Asynchronous:
        async def run(self, operation):
            await asyncio.to_thread(operation)

        async def results(self):
            arrays = await asyncio.gather(*[ones.remote(LARGE) for _ in range(THREADS)])
            return [float(array.sum()) for array in arrays]

    if __name__ == "__main__":
        connection = worker.Connection(**json.loads(os.environ["SPARKRAY_TEST_CONNECTION"]))
        worker.connect_driver(connection, log_to_driver=False)
        failures = meet(SEED)
        for make in (Threaded, Asynchronous):
            handle = make.remote()
            refs = [handle.run.remote(operation) for operation in chosen(SEED + 1)]
            for ref in refs:
                try:
                    sparkray.get(ref, timeout=60)
                except Exception as error:
                    failures.append(f"{{make}}: {{type(error).__name__}}: {{error}}")
        other = Asynchronous.remote()
        assert sparkray.get(other.results.remote(), timeout=60) == [float(LARGE)] * THREADS
        if failures:
            sys.exit("\\n".join(failures))
"""


@sparkray.remote(num_cpus=0)
class Holder:
    """Holds more than the store's memory takes, so that what came first lies on disk."""

    def __init__(self):
        self.held = [sparkray.put(np.full(500_000, index, dtype=np.float64)) for index in range(24)]

    def references(self):
        return self.held

    def take(self, array):
        return float(array.sum())


@pytest.fixture(scope="module")
def holder(shared):
    handle = Holder.options(name=HOLDER, namespace=NAMESPACE).remote()
    assert len(sparkray.get(handle.references.remote(), timeout=60)) == 24
    return handle


# Every third one has one operation for all threads; with its neighbours each of them is met once as the first.
@pytest.mark.parametrize("seed", range(0, 33, 3))
def test_threads_may_all_be_the_first_to_do_the_same(holder, seed):
    run(seed)


@pytest.mark.parametrize("seed", [1, 4, 7, 10, 13])
def test_threads_may_all_be_the_first_to_do_anything(holder, seed):
    run(seed)


def run(seed):
    cluster = running_cluster()
    connection = cluster.connection(cluster.nodes[0])
    done = run_driver(
        PROGRAM.format(seed=seed, holder=HOLDER, namespace=NAMESPACE),
        timeout=120,
        SPARKRAY_TEST_CONNECTION=json.dumps(dataclasses.asdict(connection)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
