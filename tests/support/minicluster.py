"""A real YARN and HDFS as a child process: the Python side of yarn/minicluster.

Standard library only: the tests and the demo both import it, and ``python minicluster.py`` runs one by hand.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

MODULE_DIR = pathlib.Path(__file__).resolve().parents[2] / "yarn" / "minicluster"
MAIN_CLASS = "org.sparkray.minicluster.MiniCluster"
# Java 17 hides what Hadoop's reflection wants to see.
OPENED_PACKAGES = ("java.base/java.lang", "java.base/java.util", "java.base/java.io")
LOG_TAIL_LINES = 40
COMMAND_SECONDS = 60.0
STOP_SECONDS = 60.0


class MiniClusterError(RuntimeError):
    """The mini cluster did not start, or refused a command."""


@dataclasses.dataclass(frozen=True)
class ContainerProcess:
    """A process that runs in a YARN container of the mini cluster."""

    pid: int
    parent_pid: int
    container_id: str
    command: str


class MiniCluster(contextlib.AbstractContextManager["MiniCluster"]):
    """A ResourceManager, NodeManagers and HDFS in one JVM that ends with this process.

    Arguments:
        work_dir: directory for everything the cluster writes; None makes a temporary one, deleted by ``stop()``.
        node_managers, data_nodes: how many of each.
        memory_mb, vcores: what each NodeManager offers.
        memory_checks: kill containers that use more memory than they were granted.
        start_seconds: deadline for the start.
    """

    def __init__(
        self,
        work_dir: str | os.PathLike[str] | None = None,
        *,
        node_managers: int = 2,
        data_nodes: int = 2,
        memory_mb: int = 8192,
        vcores: int = 8,
        memory_checks: bool = False,
        start_seconds: float = 90.0,
    ) -> None:
        self._owns_work_dir = work_dir is None
        self.work_dir = pathlib.Path(work_dir or tempfile.mkdtemp(prefix="sparkray-minicluster-")).resolve()
        self._arguments = [
            *("--work-dir", str(self.work_dir)),
            *("--node-managers", str(node_managers)),
            *("--data-nodes", str(data_nodes)),
            *("--memory-mb", str(memory_mb)),
            *("--vcores", str(vcores)),
            *(["--memory-checks"] if memory_checks else []),
            *(["--delete-work-dir"] if self._owns_work_dir else []),
        ]
        self._start_seconds = start_seconds
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._error_lines: collections.deque[str] = collections.deque(maxlen=LOG_TAIL_LINES)
        self._command_lock = threading.Lock()
        self._ready: dict[str, Any] = {}

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> MiniCluster:
        """Starts the JVM and returns when YARN and HDFS serve; raises MiniClusterError with the end of the log."""
        self.work_dir.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [*java_command(), *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.work_dir,
            # Ctrl-C at a terminal is for the program; the cluster ends when the program ends.
            start_new_session=True,
        )
        assert self._process.stdout is not None and self._process.stderr is not None
        threading.Thread(target=self._read_lines, args=(self._process.stdout,), daemon=True).start()
        threading.Thread(target=self._error_lines.extend, args=(self._process.stderr,), daemon=True).start()
        try:
            self._ready = self._read_answer("Ready", self._start_seconds)
        except MiniClusterError as error:
            tail = self.log_tail()
            self.stop()
            raise MiniClusterError(f"{error}\n{tail}") from None
        return self

    def stop(self) -> None:
        """Ends the cluster and all of its containers; may be called twice. Its files are deleted soon after."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # Only where the JVM could not do it itself.
        for left in self.container_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(left.pid, signal.SIGKILL)
        # When the JVM ends well, it leaves the deletion of its files to a process that may go on for seconds.
        if self._owns_work_dir and process.returncode != 0:
            shutil.rmtree(self.work_dir, ignore_errors=True)

    def __enter__(self) -> MiniCluster:
        return self.start()

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # -- what it is ---------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Process id of the cluster's JVM."""
        return int(self._field("pid"))

    @property
    def conf_dir(self) -> str:
        """The client's configuration directory: the value for HADOOP_CONF_DIR."""
        return str(self._field("conf_dir"))

    @property
    def hdfs_uri(self) -> str:
        """``hdfs://host:port`` of the NameNode."""
        return str(self._field("hdfs"))

    @property
    def resource_manager(self) -> str:
        """``host:port`` of the ResourceManager's client service."""
        return str(self._field("resource_manager"))

    @property
    def log_file(self) -> pathlib.Path:
        """The log of the cluster itself."""
        return self.work_dir / "minicluster.log"

    @property
    def container_log_dirs(self) -> list[pathlib.Path]:
        """One directory for each NodeManager, with ``application_…/container_…/{stdout,stderr}`` below."""
        return [pathlib.Path(path) for path in self._field("container_logs")]

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """The last lines of the cluster's standard error and log."""
        tail = list(self._error_lines)
        with contextlib.suppress(FileNotFoundError):
            tail += self.log_file.read_text(errors="replace").splitlines(keepends=True)[-lines:]
        return "".join(line if line.endswith("\n") else line + "\n" for line in tail)

    def container_logs(self, application_id: str = "application_") -> str:
        """All output of the containers whose application id starts so, with a heading for each file."""
        parts = []
        for directory in self.container_log_dirs:
            for path in sorted(directory.glob(f"{application_id}*/container_*/*")):
                if path.name in ("stdout", "stderr"):
                    parts.append(f"==> {path.parent.name}/{path.name}\n{path.read_text(errors='replace')}")
        return "\n".join(parts)

    # -- what it can do -----------------------------------------------------------------------------------------

    def applications(self) -> list[dict[str, Any]]:
        """Every application: id, name, user, state, final_status, diagnostics."""
        return list(self._command("applications"))

    def nodes(self) -> list[dict[str, Any]]:
        """Every NodeManager: id, state, containers, memory_mb, vcores."""
        return list(self._command("nodes"))

    def containers(self) -> list[dict[str, Any]]:
        """Every container that a NodeManager knows: id, node, state, memory_mb."""
        return list(self._command("containers"))

    def yarn_application_kill(self, application_id: str) -> None:
        """What ``yarn application -kill`` does; returns when the application is in a final state."""
        self._command("kill-application", application_id)

    def kill_container(self, container_id: str) -> None:
        """Has the NodeManager end a container with SIGKILL, as the ResourceManager would."""
        self._command("kill-container", container_id)

    def container_processes(self, container_id: str | None = None) -> list[ContainerProcess]:
        """The processes alive in this cluster's containers (zombies left out), by their initial environment."""
        local_dirs = f"LOCAL_DIRS={self.work_dir}/"
        return [
            process
            for process in _processes_with(lambda entry: entry.startswith(local_dirs))
            if container_id in (None, process.container_id)
        ]

    def kill_executor_jvms(self, container_id: str) -> list[int]:
        """SIGKILL to the Java processes of a container, from outside of YARN; returns their process ids."""
        killed = []
        for process in self.container_processes(container_id):
            if re.match(r"\S*/?java\b", process.command):
                os.kill(process.pid, signal.SIGKILL)
                killed.append(process.pid)
        return killed

    def spark_conf(self) -> dict[str, str]:
        """Settings that make Spark on this cluster start quicker: its jars are on this host already."""
        import pyspark  # type: ignore[import-not-found,import-untyped,unused-ignore]

        jars = pathlib.Path(pyspark.__file__).parent / "jars"
        return {"spark.yarn.jars": f"local:{jars}/*"}

    # -- inside -------------------------------------------------------------------------------------------------

    def _field(self, name: str) -> Any:
        if not self._ready:
            raise MiniClusterError("the mini cluster was not started")
        return self._ready[name]

    def _read_lines(self, stream: Any) -> None:
        for line in stream:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def _read_answer(self, wanted: str, seconds: float) -> Any:
        assert self._process is not None
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise MiniClusterError(f"no answer from the mini cluster in {seconds:g} s") from None
        if line is None:
            code = self._process.wait()
            raise MiniClusterError(f"the mini cluster's process ended with exit code {code}")
        word, _, body = line.partition(" ")
        answer = json.loads(body)
        if word != wanted:
            raise MiniClusterError(answer["message"])
        return answer

    def _command(self, *words: str) -> Any:
        with self._command_lock:
            if self._process is None or self._process.stdin is None:
                raise MiniClusterError("the mini cluster is not running")
            self._process.stdin.write(" ".join(words) + "\n")
            self._process.stdin.flush()
            return self._read_answer("Ok", COMMAND_SECONDS)


def java_command() -> list[str]:
    """The command that runs the cluster, without its options; builds the Maven module when it is not built."""
    jar = MODULE_DIR / "target" / "minicluster.jar"
    if not jar.exists():
        raise MiniClusterError(f"{jar} is missing; build it with: mvn -q -B package -f {MODULE_DIR / 'pom.xml'}")
    return [
        java_executable(),
        *("-Xmx768m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"),
        *(f"--add-opens={package}=ALL-UNNAMED" for package in OPENED_PACKAGES),
        *("-cp", f"{jar}:{MODULE_DIR / 'target' / 'lib'}/*"),
        MAIN_CLASS,
    ]


def java_executable() -> str:
    """The java of JAVA_HOME, else of PATH."""
    home = os.environ.get("JAVA_HOME")
    found = os.path.join(home, "bin", "java") if home else shutil.which("java")
    if found is None or not os.access(found, os.X_OK):
        raise MiniClusterError("no java: set JAVA_HOME to a JDK 17 or put java on PATH")
    return found


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Returns the first true value of the condition, looking every 50 ms; AssertionError at the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)


def _processes_with(wanted: Callable[[str], bool]) -> Iterator[ContainerProcess]:
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            if not any(wanted(variable) for variable in environment):
                continue
            stat = (entry / "stat").read_text(errors="replace")
            command = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        state, parent = stat[stat.rindex(")") + 2 :].split()[:2]
        if state == "Z":
            continue
        container_id = next((v[len("CONTAINER_ID=") :] for v in environment if v.startswith("CONTAINER_ID=")), "")
        yield ContainerProcess(int(entry.name), int(parent), container_id, command.strip())


def main() -> None:
    """Runs a mini cluster until Ctrl-C, for use by hand."""
    parser = argparse.ArgumentParser(description="Run a YARN and HDFS mini cluster until Ctrl-C.")
    parser.add_argument("--work-dir", help="directory for everything that is written (default: a temporary one)")
    parser.add_argument("--node-managers", type=int, default=2)
    parser.add_argument("--memory-mb", type=int, default=8192, help="memory that each NodeManager offers")
    parser.add_argument("--vcores", type=int, default=8, help="virtual cores that each NodeManager offers")
    parser.add_argument("--memory-checks", action="store_true", help="kill containers over their memory")
    options = parser.parse_args()
    with MiniCluster(**vars(options)) as cluster:
        print(f"export HADOOP_CONF_DIR={cluster.conf_dir}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
        print("stops", file=sys.stderr)


if __name__ == "__main__":
    main()
