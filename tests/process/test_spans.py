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


def test_without_being_asked_nobody_writes_them() -> None:
    ended = run_driver(DRIVER, SPARKRAY_LOG="info")
    text = ended.stdout + ended.stderr
    assert ended.returncode == 0, text
    log = raylet_log(Path(found(r"logs: (.+)", text)))
    assert "the zygote is ready" in log, log
    assert "close time" not in text + log
