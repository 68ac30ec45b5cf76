"""What several tests need: processes and sockets of a cluster, waiting, drivers in a process of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from sparkray._private import worker
from sparkray._private.node import LocalCluster

# How long a test waits for what must come: a deadline against hangs, not a measure, also on a machine that does other
# things. What is fast is shown by benchmarks.
PATIENCE = 60.0
TROUBLE = re.compile(r"^\S+\s+(WARN|ERROR)\s.*$", re.MULTILINE)


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE, what: str = "") -> None:
    """Polls until the condition holds; fails at the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        time.sleep(0.01)


def running_cluster() -> LocalCluster:
    """The cluster that `sparkray.init()` started in this process."""
    stop = worker.state.on_shutdown
    assert stop is not None
    cluster = stop.__self__  # type: ignore[attr-defined]
    assert isinstance(cluster, LocalCluster)
    return cluster


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def processes_of(cluster_id: str) -> list[tuple[int, str]]:
    """(pid, command line) of zygotes and workers of a cluster."""
    needle = f"SPARKRAY_CLUSTER_ID={cluster_id}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if needle in (entry / "environ").read_bytes() and alive(int(entry.name)):
                found.append((int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()))
        except OSError:
            continue
    return found


def sockets_of(cluster_id: str) -> list[str]:
    """Abstract Unix sockets of a cluster."""
    needle = f"@sparkray-{cluster_id[:8]}"
    return [line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if needle in line]


def open_files(pid: int) -> list[str]:
    """What the descriptors of a process refer to."""
    found = []
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            try:
                found.append(os.readlink(f"/proc/{pid}/fd/{number}"))
            except OSError:
                continue
    except OSError:
        pass
    return found


def memory_files(cluster_id: str, pids: Iterable[int] | None = None) -> dict[int, set[str]]:
    """The memfds of a cluster that processes have open or mapped, by pid; all processes of this machine when none are
    given."""
    name = f"/memfd:sparkray-{cluster_id}"
    found: dict[int, set[str]] = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if pids is None else pids:
        held = {path for path in open_files(pid) if path.startswith(name)}
        try:
            with open(f"/proc/{pid}/maps") as maps:
                held.update(line[line.index(name) :].rstrip("\n") for line in maps if name in line)
        except OSError:
            pass
        if held:
            found[pid] = {path.removesuffix(" (deleted)") for path in held}
    return found


def children_of(pid: int) -> list[int]:
    """Live children of a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return [child for child in found if alive(child)]


def zygote_of(raylet_pid: int) -> int:
    """The zygote of a raylet. Workers are forks of it, children of the raylet too, and younger."""
    zygote = min(children_of(raylet_pid), default=0)
    assert zygote, f"raylet {raylet_pid} has no zygote"
    assert b"sparkray._private.zygote" in Path(f"/proc/{zygote}/cmdline").read_bytes()
    return zygote


def troubles(log_dir: Path) -> list[str]:
    """Lines of level WARN or ERROR in the logs below a directory."""
    lines = []
    for path in sorted(log_dir.rglob("*.log")):
        lines += [f"{path.name}: {match.group(0)}" for match in TROUBLE.finditer(path.read_text(errors="replace"))]
    return lines


def assert_nothing_left(cluster_id: str, pids: list[int], seconds: float = PATIENCE) -> None:
    """Fails unless all processes and sockets of the cluster are gone in time."""
    deadline = time.monotonic() + seconds
    while True:
        left = [f"pid {pid}" for pid in pids if alive(pid)]
        left += [f"pid {pid}: {command}" for pid, command in processes_of(cluster_id)]
        left += sockets_of(cluster_id)
        if not left:
            return
        assert time.monotonic() < deadline, f"left after {seconds} s of cluster {cluster_id}: {left}"
        time.sleep(0.02)


def driver_environment(**extra: str) -> dict[str, str]:
    """The environment of a driver in a process of its own, which finds sparkray as this process does."""
    search = os.pathsep.join(entry for entry in sys.path if entry)
    return {**os.environ, "PYTHONPATH": search, "PYTHONDONTWRITEBYTECODE": "1", **extra}


def run_driver(script: str, timeout: float = 60.0, **extra: str) -> subprocess.CompletedProcess[str]:
    """Runs a program as `python -c` would run its text, from a file, so that it is `__main__`."""
    with start_driver(script, **extra) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"the driver did not end within {timeout} s\n{out}\n{err}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def start_driver(script: str, **extra: str) -> subprocess.Popen[str]:
    """Starts a program; its standard output and error are pipes."""
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".py", prefix="driver-", delete=False) as file:
        file.write(textwrap.dedent(script))
    return subprocess.Popen(
        [sys.executable, "-u", file.name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=driver_environment(**extra),
        cwd=tempfile.gettempdir(),
    )
