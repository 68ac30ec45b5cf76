"""One engine's side of the benchmark: the work of each row of `ray microbenchmark`, on sparkray or on the official Ray.

    python microbenchmark.py --engine sparkray --rows 'tasks sync,actor calls sync'    measures and prints JSON lines
    python microbenchmark.py --engine ray --serve                                      rows come by stdin, one by one
    python microbenchmark.py --engine ray --life                                       init, first task, …, shutdown

In ``--serve`` the cluster and the actors of the row stay up between measurements, so that two engines can take turns.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from rows import THROUGHPUT

WARM_SECONDS = 1.0
# The cluster is idle when the number of its processes has not changed for so long.
IDLE_SECONDS = 3.0
IDLE_DEADLINE_SECONDS = 30.0

# What to time, and how many operations one call of it counts for.
Work = tuple[Callable[[], Any], float]


class Rows:
    """The work of each row. A method named for the row prepares it; ``actors`` are ended when the row is left."""

    def __init__(self, ray: Any) -> None:
        self.ray = ray
        self.actors: list[Any] = []
        self.half = multiprocessing.cpu_count() // 2

        @ray.remote
        def small_value():
            return b"ok"

        @ray.remote(num_cpus=0)
        class Actor:
            def small_value(self):
                return b"ok"

            def small_value_arg(self, x):
                return b"ok"

            def small_value_batch(self, n):
                ray.get([small_value.remote() for _ in range(n)])

        @ray.remote
        class AsyncActor:
            async def small_value(self):
                return b"ok"

            async def small_value_with_arg(self, x):
                return b"ok"

        @ray.remote(num_cpus=0)
        class Client:
            def __init__(self, servers):
                self.servers = servers

            def small_value_batch(self, n):
                ray.get([server.small_value.remote() for server in self.servers for _ in range(n)])

            def small_value_batch_arg(self, n):
                x = ray.put(0)
                ray.get([server.small_value_arg.remote(x) for server in self.servers for _ in range(n)])

        @ray.remote
        def call_actors(actors, n):
            ray.get([actors[i % len(actors)].small_value.remote() for i in range(n)])

        @ray.remote
        def put_small():
            for _ in range(100):
                ray.put(0)

        @ray.remote
        def put_large():
            for _ in range(10):
                ray.put(np.zeros(10 * 1024 * 1024, dtype=np.int64))

        @ray.remote
        def refs_in_object():
            return [ray.put(1) for _ in range(10_000)]

        self.small_value = small_value
        self.actor_class: Any = Actor
        self.async_actor_class: Any = AsyncActor
        self.client_class: Any = Client
        self.call_actors = call_actors
        self.put_small = put_small
        self.put_large = put_large
        self.refs_in_object = refs_in_object

    def start(self, actor_class: Any, *arguments: Any) -> Any:
        """An actor that ends with the row."""
        actor = actor_class.remote(*arguments)
        self.actors.append(actor)
        return actor

    def leave(self) -> None:
        """Ends the actors of the row."""
        for actor in self.actors:
            self.ray.kill(actor)
        self.actors = []

    def prepare(self, name: str) -> Work:
        """The work of a row by its name."""
        self.leave()
        ray, actor_class, async_class = self.ray, self.actor_class, self.async_actor_class
        if name == "single client get calls":
            value = ray.put(0)
            return lambda: ray.get(value), 1
        if name == "single client put calls":
            return lambda: ray.put(0), 1
        if name == "multi client put calls":
            return lambda: ray.get([self.put_small.remote() for _ in range(10)]), 1000
        if name == "single client put gigabytes":
            array = np.zeros(100 * 1024 * 1024, dtype=np.int64)
            return lambda: ray.put(array), 8 * 0.1
        if name == "multi client put gigabytes":
            return lambda: ray.get([self.put_large.remote() for _ in range(10)]), 10 * 8 * 0.1
        if name == "single client tasks and get batch":
            return lambda: self.tasks(1000), 1
        if name == "single client get object containing 10k refs":
            holder = self.refs_in_object.remote()
            return lambda: ray.get(holder), 1
        if name == "single client wait 1k refs":
            return lambda: self.wait_one_by_one(1000), 1
        if name == "single client tasks sync":
            return lambda: ray.get(self.small_value.remote()), 1
        if name == "single client tasks async":
            return lambda: self.tasks(1000), 1000
        if name == "multi client tasks async":
            return self.multi_client_tasks(clients=4, n=10_000)
        if name == "1:1 actor calls sync":
            return self.actor_sync(self.start(actor_class))
        if name == "1:1 actor calls async":
            return self.actor_batch(self.start(actor_class))
        if name == "1:1 actor calls concurrent":
            return self.actor_batch(self.start(actor_class.options(max_concurrency=16)))
        if name == "1:n actor calls async":
            return self.one_to_many(actor_class, n=5000)
        if name == "n:n actor calls async":
            return self.many_to_many(actor_class, tasks=4, n=5000)
        if name == "n:n actor calls with arg async":
            return self.many_to_many_arg(n=1000)
        if name == "1:1 async-actor calls sync":
            return self.actor_sync(self.start(async_class))
        if name == "1:1 async-actor calls async":
            return self.actor_batch(self.start(async_class))
        if name == "1:1 async-actor calls with args async":
            actor = self.start(async_class)
            return lambda: ray.get([actor.small_value_with_arg.remote(i) for i in range(1000)]), 1000
        if name == "1:n async-actor calls async":
            return self.one_to_many(async_class, n=5000)
        if name == "n:n async-actor calls async":
            return self.many_to_many(async_class, tasks=4, n=5000)
        if name == "placement group create/removal":
            return lambda: self.placement_groups(100), 100
        raise ValueError(f"no row is called {name!r}")

    def tasks(self, n: int) -> None:
        """Submits n small tasks and gets their results."""
        self.ray.get([self.small_value.remote() for _ in range(n)])

    def wait_one_by_one(self, n: int) -> None:
        """Waits for n tasks, one more with each call; only the first call asks to fetch."""
        pending = [self.small_value.remote() for _ in range(n)]
        for index in range(n):
            _, pending = self.ray.wait(pending, fetch_local=index == 0)

    def multi_client_tasks(self, clients: int, n: int) -> Work:
        """Actors that each submit n tasks."""
        actors = [self.start(self.actor_class) for _ in range(clients)]
        return lambda: self.ray.get([actor.small_value_batch.remote(n) for actor in actors]), clients * n

    def actor_sync(self, actor: Any) -> Work:
        """One call after the other."""
        return lambda: self.ray.get(actor.small_value.remote()), 1

    def actor_batch(self, actor: Any) -> Work:
        """A thousand calls in flight."""
        return lambda: self.ray.get([actor.small_value.remote() for _ in range(1000)]), 1000

    def one_to_many(self, actor_class: Any, n: int) -> Work:
        """One client actor calls as many actors as half of the cores."""
        servers = [self.start(actor_class) for _ in range(self.half)]
        client = self.start(self.client_class, servers)
        return lambda: self.ray.get(client.small_value_batch.remote(n)), n * len(servers)

    def many_to_many(self, actor_class: Any, tasks: int, n: int) -> Work:
        """Tasks call actors."""
        servers = [self.start(actor_class) for _ in range(self.half)]
        return lambda: self.ray.get([self.call_actors.remote(servers, n) for _ in range(tasks)]), tasks * n

    def many_to_many_arg(self, n: int) -> Work:
        """Each client calls an actor of its own with a reference."""
        servers = [self.start(self.actor_class) for _ in range(self.half)]
        clients = [self.start(self.client_class, [server]) for server in servers]
        return lambda: self.ray.get([client.small_value_batch_arg.remote(n) for client in clients]), n * len(clients)

    def placement_groups(self, n: int) -> None:
        """Creates, awaits and removes n groups of one small bundle."""
        groups = [self.ray.util.placement_group(bundles=[{"custom": 0.001}]) for _ in range(n)]
        for group in groups:
            group.wait(timeout_seconds=30)
        for group in groups:
            self.ray.util.remove_placement_group(group)


def rate_of(work: Work, seconds: float, warm: bool) -> float:
    """Operations in a second over ``seconds``; with ``warm`` the first second is not counted."""
    function, multiplier = work
    count = 0
    if warm:
        start = time.perf_counter()
        while time.perf_counter() - start < WARM_SECONDS:
            function()
            count += 1
    # The clock is read about ten times a second, as it would disturb the fastest rows.
    step = count // 10 + 1
    done = 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(step):
            function()
        done += step
    return multiplier * done / (time.perf_counter() - start)


def descendants() -> list[int]:
    """All processes below this one."""
    children: dict[int, list[int]] = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found: list[int] = []
    pending = [os.getpid()]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def resident_megabytes(pid: int) -> float:
    """Resident memory of a process, shared pages included."""
    try:
        for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1000
    except OSError:
        pass
    return 0.0


def wait_until_idle() -> list[int]:
    """The cluster's processes, once their number does not change any more."""
    deadline = time.monotonic() + IDLE_DEADLINE_SECONDS
    seen, since = descendants(), time.monotonic()
    while time.monotonic() < deadline and time.monotonic() - since < IDLE_SECONDS:
        time.sleep(0.1)
        now = descendants()
        if len(now) != len(seen):
            seen, since = now, time.monotonic()
    return descendants()


def measure_life(ray: Any, answer: Callable[[dict[str, Any]], None]) -> None:
    """The rows of LIFE in the order in which they happen."""

    def timed(name: str, function: Callable[[], Any]) -> None:
        start = time.perf_counter()
        try:
            function()
        except Exception as error:
            answer({"row": name, "error": one_line(error)})
            return
        answer({"row": name, "value": time.perf_counter() - start})

    class Actor:
        """Answers."""

        def small_value(self) -> bytes:
            """A small value."""
            return b"ok"

    def small_value() -> bytes:
        return b"ok"

    timed("init()", ray.init)
    timed("first task", lambda: ray.get(ray.remote(small_value).remote()))
    timed("actor creation to first result", lambda: ray.get(ray.remote(Actor).remote().small_value.remote()))
    processes = wait_until_idle()
    answer({"row": "idle memory", "value": sum(resident_megabytes(pid) for pid in processes)})
    answer({"row": "idle processes", "value": len(processes)})
    timed("shutdown()", ray.shutdown)


def one_line(error: BaseException) -> str:
    """An error as one short line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[-1] if lines else ''}"
    return text if len(text) <= 160 else text[:157] + "..."


def serve(rows: Rows, requests: Iterable[str], answer: Callable[[dict[str, Any]], None]) -> None:
    """Measures what each line of ``requests`` asks for: {"row": name, "seconds": s}."""
    current, work = "", None
    for line in requests:
        request = json.loads(line)
        name = request["row"]
        try:
            fresh = name != current
            if fresh or work is None:
                current = name
                work = rows.prepare(name)
            answer({"row": name, "value": rate_of(work, request["seconds"], fresh)})
        except Exception as error:
            work = None
            answer({"row": name, "error": one_line(error)})


def main() -> None:
    """Reads the command line and answers with JSON lines on stdout; everything else that is printed goes to stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["sparkray", "ray"], required=True)
    parser.add_argument("--rows", default="", help="parts of row names, separated by commas; all when not given")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long to measure a row")
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--life", action="store_true")
    options = parser.parse_args()

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(fields: dict[str, Any]) -> None:
        answers.write(json.dumps({"engine": options.engine, **fields}) + "\n")

    try:
        ray = importlib.import_module(options.engine)
    except Exception as error:
        answer({"row": "", "error": f"import {options.engine}: {one_line(error)}"})
        raise SystemExit(1) from error
    if options.life:
        measure_life(ray, answer)
        return

    try:
        ray.init(resources={"custom": 100})
    except Exception as error:
        answer({"row": "", "error": f"init: {one_line(error)}"})
        raise SystemExit(1) from error
    if options.serve:
        answer({"row": "", "version": getattr(ray, "__version__", "")})
        serve(Rows(ray), sys.stdin, answer)
    else:
        wanted = [part.strip() for part in options.rows.split(",") if part.strip()]
        names = [row.name for row in THROUGHPUT if not wanted or any(part in row.name for part in wanted)]
        requests = [json.dumps({"row": name, "seconds": options.seconds}) for name in names]
        serve(Rows(ray), requests, answer)
    ray.shutdown()


if __name__ == "__main__":
    main()
