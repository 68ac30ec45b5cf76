"""Spans of driver, worker and raylet, joined by the ids in them."""

from __future__ import annotations

import re
from pathlib import Path

from process.helpers import run_driver

DRIVER = """
    import sparkray
    from process.helpers import running_cluster

    @sparkray.remote
    def double(number):
        return 2 * number

    @sparkray.remote
    class Counter:
        def value(self):
            return 1

    with sparkray.init(num_cpus=2):
        print("logs:", running_cluster().session.log_dir)
        assert sparkray.get(double.remote(4)) == 8
        counter = Counter.remote()
        assert sparkray.get(counter.value.remote()) == 1
        print("actor:", counter._actor_id.hex())
"""

TWO_NODES = """
    import sparkray
    from sparkray._private import worker
    from sparkray.cluster_utils import Cluster

    @sparkray.remote(resources={"other": 1})
    def make(size):
        return bytes(size)

    with Cluster(initialize_head=True, head_node_args={"num_cpus": 1}) as cluster:
        cluster.add_node(num_cpus=1, resources={"other": 1})
        sparkray.init(address=cluster.address)
        cluster.wait_for_nodes()
        reference = make.remote(1_000_000)
        assert len(sparkray.get(reference)) == 1_000_000
        print("object:", reference.hex())
        print(worker.core_worker().metrics("raylet"))
"""


def raylet_log(directory: Path) -> str:
    """What the raylet has written."""
    return "\n".join(path.read_text() for path in directory.rglob("*raylet*.log"))


def found(pattern: str, text: str) -> str:
    """The one group of a pattern that a text has."""
    match = re.search(pattern, text)
    assert match is not None, f"no {pattern} in\n{text}"
    return match[1]


def test_ids_join_the_spans_of_driver_raylet_and_worker() -> None:
    ended = run_driver(DRIVER, SPARKRAY_LOG="debug")
    text = ended.stdout + ended.stderr
    assert ended.returncode == 0, text
    lease = found(r"request_lease\{lease_id=(\w+)\}", text)
    log = raylet_log(Path(found(r"logs: (.+)", text)))
    assert re.search(rf"grant_lease\{{lease_id={lease}\}}.* close time", log), log
    assert re.search(r'execute_task\{task_id=\w+ name="double" attempt=0\}.* close time', text), text
    actor = found(r"actor: (\w+)", text)
    assert f"create_actor{{actor_id={actor} incarnation=0}}" in text, text
    assert re.search(rf'execute_task\{{task_id=\w+ actor_id={actor} name="Counter.value"', text), text


def test_a_pull_and_its_push_are_joined_and_counted(tmp_path: Path) -> None:
    ended = run_driver(TWO_NODES, SPARKRAY_LOG="debug", TMPDIR=str(tmp_path))
    text = ended.stdout + ended.stderr
    assert ended.returncode == 0, text
    fetched = found(r"object: (\w+)", text)
    log = raylet_log(tmp_path)
    assert re.search(rf"pull\{{object_id={fetched}\}}.* close time", log), log
    assert re.search(rf"push\{{object_id={fetched} size=\d+\}}.* close time", log), log
    received = found(r'ray_object_manager_bytes_total\{Type="Received"\} (\d+)', text)
    assert int(received) > 1_000_000
    assert found(r"ray_pull_manager_object_request_time_seconds_count (\d+)", text) == "1"


def test_without_being_asked_nobody_writes_them() -> None:
    ended = run_driver(DRIVER, SPARKRAY_LOG="info")
    text = ended.stdout + ended.stderr
    assert ended.returncode == 0, text
    log = raylet_log(Path(found(r"logs: (.+)", text)))
    assert "the zygote is ready" in log, log
    assert "close time" not in text + log
