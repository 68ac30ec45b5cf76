"""Calls that wait cost a bounded amount of memory, in their caller and in the actor, whatever their arguments are."""

# mypy: disable-error-code="attr-defined,union-attr,arg-type"
from __future__ import annotations

import pytest

from process.helpers import run_driver

PROGRAM = """
    import asyncio, os, sys
    import numpy as np
    import sparkray

    def peak():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))

    @sparkray.remote(max_concurrency=2)
    class Slow:
        def __init__(self, gate):
            self.gate, self.sum = gate, 0

        def wait(self):
            while not os.path.exists(self.gate):
                os.sched_yield()

        def take(self, array, *, other=0):
            return int(array[0]) + int(array[-1])

        def peak(self):
            return peak()

    @sparkray.remote(num_cpus=0)
    def take(array):
        return int(array[0]) + int(array[-1])

    @sparkray.remote(num_cpus=0)
    class Async:
        # A coroutine that submits many calls to another actor on its loop's thread.
        async def submit(self, slow, calls, size):
            refs = [slow.take.remote(np.full(size, index % 7)) for index in range(calls)]
            open(GATE, "w").close()
            return sum(await asyncio.gather(*refs)), peak()

    GATE = sys.argv[1] if len(sys.argv) > 1 else os.environ["SPARKRAY_TEST_GATE"]
    CALLS = {calls}
    SIZE = {bytes} // 8

    def array(index):
        return np.full(SIZE, index % 7)

    WANTED = sum(2 * (index % 7) for index in range(CALLS))
    sparkray.init(num_cpus=2, object_store_memory=64 << 20)
    slow = Slow.remote(GATE)
    sparkray.get(slow.__ray_ready__.remote())
    first = peak()
    held = [slow.wait.remote(), slow.wait.remote()]
    way = "{way}"
    if way == "async":
        total, used = sparkray.get(Async.remote().submit.remote(slow, CALLS, SIZE), timeout=200)
        assert total == WANTED, (total, WANTED)
    else:
        if way == "actor":
            refs = [slow.take.remote(array(index)) for index in range(CALLS)]
        elif way == "keyword":
            refs = [slow.take.remote(array(index), other=index) for index in range(CALLS)]
        elif way == "task":
            # Pending on a result that is late.
            refs = [take.options(num_cpus=1.5).remote(array(index)) for index in range(CALLS)]
        elif way == "put":
            refs = [sparkray.put(array(index)) for index in range(CALLS)]
        open(GATE, "w").close()
        total = 0
        for at in range(0, CALLS, 100):
            values = sparkray.get(refs[at : at + 100], timeout=200)
            total += sum(values if way != "put" else (int(value[0]) + int(value[-1]) for value in values))
        assert total == WANTED, (total, WANTED)
        used = peak() - first
    sparkray.get(held, timeout=200)
    print("caller", used, "actor", sparkray.get(slow.peak.remote(), timeout=60))
"""


@pytest.mark.parametrize("way", ["actor", "keyword", "task", "put", "async"])
def test_memory_of_calls_that_wait_is_bounded(way, tmp_path):
    calls, size = 5_000, 90_000
    done = run_driver(
        PROGRAM.format(calls=calls, bytes=size, way=way), timeout=280, SPARKRAY_TEST_GATE=str(tmp_path / "gate")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    words = done.stdout.split()
    caller, actor = int(words[words.index("caller") + 1]), int(words[words.index("actor") + 1])
    # All arguments are 450 MB; each of the two kept them, and the caller a second time on their way.
    assert caller < 320 and actor < 320, done.stdout


ROOM = """
    import os, sys, threading, warnings
    import sparkray

    def resident():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmRSS"))

    @sparkray.remote
    class Slow:
        def wait(self, gate):
            while not os.path.exists(gate):
                os.sched_yield()

        def length(self, value):
            return len(value)

    GATE = os.environ["SPARKRAY_TEST_GATE"]
    CALLS = 150_000
    sparkray.init(num_cpus=2)
    slow = Slow.remote()
    held = slow.wait.remote(GATE)
    first = resident()
    refs = []

    def submit():
        for index in range(CALLS):
            refs.append(slow.length.remote(bytes(4_000 + index % 7)))

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        thread = threading.Thread(target=submit)
        thread.start()
        while not told and thread.is_alive():
            sparkray.wait([held], timeout=0.1)
    waiting, used = len(refs), resident() - first
    assert thread.is_alive() and waiting < CALLS, waiting
    assert "waits for earlier calls to finish" in str(told[0].message)
    # Another thread's calls wait too, and can be interrupted.
    import _thread
    threading.Timer(0.2, _thread.interrupt_main).start()
    try:
        slow.length.remote(b"")
    except KeyboardInterrupt:
        print("interrupted")
    open(GATE, "w").close()
    thread.join(timeout=200)
    total = 0
    for at in range(0, CALLS, 1000):
        total += sum(sparkray.get(refs[at : at + 1000], timeout=200))
    assert total == sum(4_000 + index % 7 for index in range(CALLS)), total
    print("waiting", waiting, "used", used)
"""


def test_who_submits_waits_while_the_arguments_of_unfinished_calls_are_too_many(tmp_path):
    done = run_driver(ROOM, timeout=280, SPARKRAY_TEST_GATE=str(tmp_path / "gate"))
    assert done.returncode == 0, done.stdout + done.stderr
    words = done.stdout.split()
    assert words[0] == "interrupted", done.stdout + done.stderr
    # 384 MiB of arguments, and what each call takes beside them. All would be 600 MB of arguments.
    assert int(words[words.index("used") + 1]) < 700, done.stdout
