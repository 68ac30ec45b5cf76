"""The limits of the container: CPUs, memory, and the threads of libraries in workers."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

import sparkray
from process.helpers import run_driver
from sparkray._private import limits

ALL = len(os.sched_getaffinity(0))
GIBIBYTE = 1 << 30


def _machine(root: pathlib.Path, group: str, mounts: list[str], files: dict[str, str]) -> str:
    """A root directory with what limits.py reads."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(group)
    (root / "proc" / "self" / "mountinfo").write_text("".join(f"{line}\n" for line in mounts))
    (root / "proc" / "meminfo").write_text(f"MemTotal: 1\nMemAvailable: {64 * GIBIBYTE // 1024} kB\n")
    for path, text in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return str(root)


V2 = "35 30 0:30 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw"
V1_CPU = "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
V1_MEMORY = "34 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"


def test_the_smallest_quota_along_the_path_holds_in_version_2(tmp_path):
    root = _machine(
        tmp_path,
        "0::/a/b/c\n",
        ["23 1 8:1 / / rw - ext4 /dev/sda rw", V2],
        {
            "sys/fs/cgroup/a/cpu.max": "250000 100000\n",
            "sys/fs/cgroup/a/b/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/a/b/c/cpu.max": "max 100000\n",
            "sys/fs/cgroup/a/memory.max": f"{8 * GIBIBYTE}\n",
            "sys/fs/cgroup/a/memory.current": f"{3 * GIBIBYTE}\n",
            "sys/fs/cgroup/a/memory.stat": f"anon 5\ninactive_file {GIBIBYTE}\n",
            "sys/fs/cgroup/a/b/memory.max": "max\n",
            "sys/fs/cgroup/a/b/memory.current": "1\n",
        },
    )
    assert limits.cpu_quota(root) == 1.5
    assert limits.cpus(root) == 1
    assert limits.available_memory(root) == 6 * GIBIBYTE


@pytest.mark.parametrize("seen", ["whole", "part", "outside"])
def test_version_1_is_read_where_it_is_mounted(tmp_path, seen):
    """In a container the paths are often those of the machine, of which it sees a part only."""
    place = "" if seen != "whole" else "docker/1234"
    mount = {"whole": "/", "part": "/docker/1234", "outside": "/other"}[seen]
    root = _machine(
        tmp_path,
        "4:memory:/docker/1234\n3:cpu,cpuacct:/docker/1234\n1:name=systemd:/docker/1234\n0::/\n",
        [V1_CPU.replace(" / /sys", f" {mount} /sys"), V1_MEMORY.replace(" / /sys", f" {mount} /sys")],
        {
            f"sys/fs/cgroup/cpu,cpuacct/{place}/cpu.cfs_quota_us": "50000\n",
            f"sys/fs/cgroup/cpu,cpuacct/{place}/cpu.cfs_period_us": "100000\n",
            f"sys/fs/cgroup/memory/{place}/memory.limit_in_bytes": f"{2 * GIBIBYTE}\n",
            f"sys/fs/cgroup/memory/{place}/memory.usage_in_bytes": f"{GIBIBYTE}\n",
            f"sys/fs/cgroup/memory/{place}/memory.stat": "total_inactive_file 0\n",
        },
    )
    assert limits.cpu_quota(root) == 0.5
    assert limits.cpus(root) == 1
    assert limits.available_memory(root) == GIBIBYTE


@pytest.mark.parametrize(
    "files", [{}, {"sys/fs/cgroup/a/cpu.max": "nonsense"}, {"sys/fs/cgroup/a/cpu.max": "max 100000"}]
)
def test_without_a_limit_it_is_what_the_process_may_run_on(tmp_path, files):
    root = _machine(tmp_path, "0::/a\n", [V2], files)
    assert limits.cpu_quota(root) is None
    assert limits.cpus(root) == ALL
    assert limits.available_memory(root) == 64 * GIBIBYTE
    assert limits.cpu_quota(str(tmp_path / "nothing")) is None
    assert limits.available_memory(str(tmp_path / "nothing")) == GIBIBYTE


PROGRAM = """
import os, sys
import sparkray

if len(sys.argv) > 1:
    for tasks in sys.argv[1:]:
        with open(tasks, "w") as file:
            file.write(str(os.getpid()))
from sparkray._private import limits

sparkray.init(**{options})
print("CPUS", sparkray.cluster_resources()["CPU"], limits.available_memory())
sparkray.shutdown()
"""


@pytest.fixture
def cgroups(request):
    """A group of the CPUs, and one of the memory, that hold another one each; where root may make them."""
    made: list[pathlib.Path] = []
    name = f"sparkray-test-{os.getpid()}"
    try:
        for kind, file, limit in (("cpu", "cpu.cfs_quota_us", 100_000), ("memory", "memory.limit_in_bytes", GIBIBYTE)):
            outer = pathlib.Path("/sys/fs/cgroup", kind, name)
            (outer / "inner").mkdir(parents=True)
            made += [outer, outer / "inner"]
            (outer / file).write_text(str(limit))
    except OSError as error:
        _remove(made)
        pytest.skip(f"control groups of version 1 cannot be made here: {error}")
    yield [str(path / "cgroup.procs") for path in made if path.name == "inner"]
    _remove(made)


def _remove(groups: list[pathlib.Path]) -> None:
    for path in reversed(groups):
        with contextlib.suppress(OSError):
            path.rmdir()


def test_init_stays_within_a_real_container(cgroups, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM.replace("{options}", "{}")))
    done = subprocess.run([sys.executable, program, *cgroups], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    _, cpus, memory = next(line for line in done.stdout.splitlines() if line.startswith("CPUS")).split()
    assert float(cpus) == 1.0
    assert int(memory) < GIBIBYTE


def test_init_stays_within_its_affinity():
    program = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n" + PROGRAM
    done = run_driver(program.replace("{options}", "{}"))
    assert "CPUS 1.0 " in done.stdout, done.stdout + done.stderr


THREADS = """
import os, sys
import sparkray

names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"]

@sparkray.remote
def look():
    threads = [os.environ.get(name) for name in names]
    assert not [name for name in os.environ if name.startswith("SPARKRAY_THREAD")]
    import pyarrow
    return threads, pyarrow.cpu_count(), os.environ["RAY_JOB_ID"], os.getpid()

@sparkray.remote
class Actor:
    at_start = os.environ.get("OMP_NUM_THREADS")

    def look(self):
        return [os.environ.get(name) for name in names]

sparkray.init(num_cpus=4)
job = sparkray.get_runtime_context().get_job_id()
pids = set()
for cpus in (1, 3, 2.5, 1, 0, 4, 0.5):
    threads, arrow, its_job, pid = sparkray.get(look.options(num_cpus=cpus).remote())
    pids.add(pid)
    expected = str(max(1, int(cpus)))
    assert threads == [expected] * 3, (cpus, threads)
    assert arrow == int(expected), (cpus, arrow)
    assert its_job == job
assert len(pids) < 7, "some workers have run several"
for cpus in (None, 0, 1, 3):
    actor = Actor.options(num_cpus=cpus).remote() if cpus is not None else Actor.remote()
    assert sparkray.get(actor.look.remote()) == [str(max(1, cpus or 1))] * 3
    sparkray.kill(actor)
"""


def test_libraries_have_as_many_threads_as_a_task_has_cpus():
    done = run_driver(THREADS)
    assert done.returncode == 0, done.stderr


def test_what_the_user_has_set_stays():
    done = run_driver(
        """
        import os
        import sparkray

        sparkray.init(num_cpus=4)
        look = sparkray.remote(lambda: (os.environ["OMP_NUM_THREADS"], os.environ["OPENBLAS_NUM_THREADS"]))
        assert sparkray.get(look.options(num_cpus=3).remote()) == ("7", "3")
        """,
        OMP_NUM_THREADS="7",
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("shared")
def test_numpy_uses_the_threads_of_its_task():
    """numpy is loaded before any task is there."""

    @sparkray.remote
    def threads():
        import ctypes

        import numpy

        assert numpy.ones((2, 2)) is not None
        with open("/proc/self/maps") as maps:
            path = next((line[line.index("/") :].strip() for line in maps if "openblas" in line), None)
        if path is None:
            return None
        library = ctypes.CDLL(path)
        names = ["scipy_openblas_get_num_threads64_", "openblas_get_num_threads64_", "openblas_get_num_threads"]
        return next((getattr(library, name)() for name in names if hasattr(library, name)), None)

    counts = [sparkray.get(threads.options(num_cpus=cpus).remote()) for cpus in (1, 2, 1)]
    if counts[0] is None:
        pytest.skip("this numpy uses something else than OpenBLAS")
    assert counts == [1, 2, 1]
