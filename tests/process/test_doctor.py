"""The command line: `sparkray --version`, and what `sparkray doctor --local` thinks of a machine."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

import sparkray
from sparkray._private import doctor, limits, mounts
from sparkray._private.doctor import installation, machine, places, spark
from sparkray._private.doctor.finding import Finding
from sparkray._private.doctor.places import Place
from sparkray._version import __version__

MEBIBYTE = 1 << 20


def sparkray_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command as a shell would, apart from how it is found."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.run(
        [sys.executable, "-m", "sparkray_command", *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def program(path: pathlib.Path, script: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def assert_one_line_with_its_fix(finding: Finding) -> None:
    assert "\n" not in finding.line(10)
    assert bool(finding.fix) == (finding.level != "ok")


# ------------------------------------------------------------------------------------------- the command


def test_the_version():
    done = sparkray_command("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"sparkray {__version__}\n", "")


@pytest.mark.parametrize("arguments", [[], ["doctor"], ["doctr"], ["doctor", "--local", "now"]])
def test_wrong_arguments_get_the_usage(arguments):
    done = sparkray_command(*arguments)
    assert done.returncode == 2 and done.stderr.startswith("usage: sparkray")


def test_a_line_for_each_finding_and_the_same_as_json():
    done = sparkray_command("doctor", "--local", "--json")
    told = json.loads(done.stdout)
    assert told["version"] == __version__
    subjects = [finding["subject"] for finding in told["findings"]]
    for subject in ("python", "glibc", "import", "java", "spark", "open files", "processes", "locked memory", "memory"):
        assert subject in subjects
    assert {"/dev/shm", "/tmp"} <= set(subjects)
    for finding in told["findings"]:
        assert_one_line_with_its_fix(Finding(**finding))
    errors = [finding for finding in told["findings"] if finding["level"] == "error"]
    assert done.returncode == (1 if errors else 0)

    lines = sparkray_command("doctor", "--local").stdout.splitlines()
    assert len(lines) == len(subjects) + 1
    for line, finding in zip(lines, told["findings"], strict=False):
        assert line.split()[0] == finding["level"] and finding["subject"] in line
    assert lines[-1].startswith(f"sparkray {__version__}: {len(errors)} error")


def test_an_error_is_in_the_exit_status():
    done = sparkray_command("doctor", "--local", SPARK_HOME="/nowhere")
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if " spark " in line]
    assert line.startswith(("error", "warning")) and "; fix: " in line


def test_it_examines_a_package_that_cannot_be_imported(tmp_path):
    copied = tmp_path / "sparkray"
    shutil.copytree(pathlib.Path(sparkray.__file__).parent, copied, ignore=shutil.ignore_patterns("_native.*", "_lib"))
    (copied / f"_native{importlib.machinery.EXTENSION_SUFFIXES[0]}").write_text("no library GLIBC_9.99")
    command = importlib.util.find_spec("sparkray_command")
    assert command is not None and command.origin is not None
    shutil.copy(command.origin, tmp_path)
    done = sparkray_command("doctor", "--local", "--json", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1, done.stderr
    found = {finding["subject"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert found["import"]["level"] == "error" and "ImportError" in found["import"]["message"]
    assert found["glibc"]["level"] == "error" and "9.99" in found["glibc"]["message"]
    assert found["files"]["level"] == "error"
    assert found["python"]["level"] == "ok"


def test_text_counts_what_is_wrong():
    findings = [
        Finding("a", "ok", "fine"),
        Finding("bb", "error", "broken", "mend it"),
        Finding("c", "warning", "d", "e"),
    ]
    assert doctor.as_text(findings).splitlines() == [
        "ok       a   fine",
        "error    bb  broken; fix: mend it",
        "warning  c   d; fix: e",
        f"sparkray {__version__}: 1 error, 1 warning",
    ]


# ------------------------------------------------------------------------------------------- the package


@pytest.mark.parametrize(
    ("system", "of_machine", "level"),
    [
        ("Linux", "x86_64", "ok"),
        ("Linux", "aarch64", "ok"),
        ("Linux", "riscv64", "error"),
        ("Darwin", "x86_64", "error"),
    ],
)
def test_the_platform(system, of_machine, level):
    finding = installation.check_platform(system, of_machine)
    assert finding.level == level
    assert_one_line_with_its_fix(finding)


@pytest.mark.parametrize(
    ("implementation", "version", "native", "level", "words"),
    [
        ("cpython", (3, 12), ["_native.cpython-312-x86_64-linux-gnu.so"], "ok", "3.12"),
        ("cpython", (3, 12), ["_native.cpython-311-x86_64-linux-gnu.so"], "error", "is for CPython 3.11"),
        ("cpython", (3, 12), [], "error", "no native module"),
        ("cpython", (3, 9), ["_native.cpython-39-x86_64-linux-gnu.so"], "error", "3.10 or newer"),
        ("pypy", (3, 11), [], "error", "CPython"),
    ],
)
def test_python_against_the_wheel(implementation, version, native, level, words):
    finding = installation.check_python(implementation, version, native)
    assert finding.level == level and words in finding.message
    assert_one_line_with_its_fix(finding)


def test_the_newest_glibc_that_a_file_names_is_needed(tmp_path):
    (tmp_path / "one").write_bytes(b"\0GLIBC_2.2.5\0GLIBC_2.17\0")
    (tmp_path / "two").write_bytes(b"\0GLIBC_2.9\0GLIBC_2.34\0GLIBC_PRIVATE\0")
    assert installation.needed_glibc([tmp_path / "one"]) == (2, 17)
    assert installation.needed_glibc([tmp_path / "one", tmp_path / "two", tmp_path / "none"]) == (2, 34)
    # What runs here needs no newer one than is here.
    found = installation.glibc()
    assert found is not None and (2, 17) < installation.needed_glibc([pathlib.Path(sys.executable)]) <= found


@pytest.mark.parametrize(
    ("found", "level", "words"),
    [((2, 34), "ok", "2.34"), ((2, 100), "ok", "2.100"), ((2, 17), "error", "older"), (None, "error", "musl")],
)
def test_glibc_against_the_wheel(found, level, words):
    finding = installation.check_glibc(found, (2, 34))
    assert finding.level == level and words in finding.message
    assert_one_line_with_its_fix(finding)


def test_files_that_the_wheel_brings(tmp_path):
    assert "sparkrayd" in installation.check_files(tmp_path).message
    (tmp_path / "sparkrayd").touch(0o644)
    assert installation.check_files(tmp_path).level == "error"
    (tmp_path / "sparkrayd").chmod(0o755)
    assert "sparkray.jar" in installation.check_files(tmp_path).message
    (tmp_path / "sparkray.jar").touch()
    assert installation.check_files(tmp_path).level == "ok"


def test_an_import_that_fails_is_told_in_one_line(tmp_path):
    said = "echo 'Traceback' >&2; echo \"ModuleNotFoundError: No module named 'numpy'\" >&2; exit 1"
    failing = installation.check_import(program(tmp_path / "python", said))
    assert failing.level == "error" and "No module named 'numpy'" in failing.message
    silent = installation.check_import(program(tmp_path / "silent", "exit 3"))
    assert silent.level == "error" and "exit status 3" in silent.message
    missing = installation.check_import(str(tmp_path / "none"))
    assert missing.level == "error"
    for finding in (failing, silent, missing):
        assert_one_line_with_its_fix(finding)
    assert installation.check_import(program(tmp_path / "good", "exit 0")).level == "ok"


# ------------------------------------------------------------------------------------------- Java and Spark


def java_home(directory: pathlib.Path, version: str) -> dict[str, str]:
    program(directory / "bin" / "java", f"echo 'openjdk version \"{version}\" 2026-01-01' >&2")
    return {"JAVA_HOME": str(directory)}


@pytest.mark.parametrize(
    ("version", "of_spark", "level", "words"),
    [
        ("17.0.9", "3.5.9", "ok", "Java 17"),
        ("1.8.0_392", "3.5.9", "ok", "Java 8"),
        ("25", "3.5.9", "error", "too new for Spark 3.5.9"),
        ("11.0.1", "4.0.0", "error", "too old for Spark 4.0.0"),
        # Nothing needs it without Spark.
        ("25", None, "warning", "too new"),
    ],
)
def test_java_against_what_spark_needs(tmp_path, version, of_spark, level, words):
    finding = spark.check_java(of_spark, java_home(tmp_path, version))
    assert finding.level == level and words in finding.message
    assert_one_line_with_its_fix(finding)


def test_java_that_is_not_there_or_does_not_run(tmp_path):
    program(tmp_path / "bin" / "java", "echo 'Segmentation fault'; exit 139")
    for environ, words in (
        ({"PATH": str(tmp_path)}, "no Java"),
        ({"JAVA_HOME": str(tmp_path / "none")}, "JAVA_HOME"),
        ({"JAVA_HOME": str(tmp_path)}, "Segmentation fault"),
    ):
        finding = spark.check_java("3.5.0", environ)
        assert finding.level == "error" and words in finding.message
        assert "JAVA_HOME" in finding.fix
        assert_one_line_with_its_fix(finding)


@pytest.mark.parametrize(
    ("pyspark", "home", "level", "words"),
    [
        ("3.5.9", None, "ok", "pyspark 3.5.9"),
        ("3.5.9", "3.5.1", "ok", "SPARK_HOME"),
        ("3.5.9", "3.3.0", "error", "would start the Spark 3.3.0"),
        ("3.5.9", "", "error", "no Spark in it"),
        ("3.4.1", None, "error", "needs Spark 3.5"),
        ("4.0.0.dev1", None, "warning", "only in part"),
        (None, None, "warning", "no pyspark"),
    ],
)
def test_spark_and_its_home(tmp_path, pyspark, home, level, words):
    if home:
        (tmp_path / "jars").mkdir()
        (tmp_path / "jars" / f"spark-core_2.12-{home}.jar").touch()
    finding = spark.check_spark(pyspark, None if home is None else str(tmp_path))
    assert finding.level == level and words in finding.message
    assert_one_line_with_its_fix(finding)


def test_the_version_of_pyspark_is_read_without_importing_it(tmp_path, monkeypatch):
    (tmp_path / "pyspark").mkdir()
    (tmp_path / "pyspark" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "pyspark" / "version.py").write_text("__version__: str = '3.5.7'\n")
    monkeypatch.delitem(sys.modules, "pyspark", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert spark.version_of_pyspark() == "3.5.7"


# ------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("soft", "hard", "level"),
    [
        (1024, 1 << 20, "ok"),
        (1024, math.inf, "ok"),
        (math.inf, math.inf, "ok"),
        (1024, 1024, "warning"),
        (100, 1 << 20, "error"),
        (100, 100, "error"),
    ],
)
def test_open_files(soft, hard, level):
    finding = machine.check_open_files(soft, hard)
    assert finding.level == level
    assert_one_line_with_its_fix(finding)


@pytest.mark.parametrize(("soft", "level"), [(math.inf, "ok"), (30_000, "ok"), (1000, "warning"), (100, "error")])
def test_processes(soft, level):
    finding = machine.check_processes(soft)
    assert finding.level == level
    assert_one_line_with_its_fix(finding)


@pytest.mark.parametrize(("soft", "words"), [(math.inf, "unlimited"), (65536, "64 KiB"), (0, "0 KiB")])
def test_locked_memory_is_not_needed(soft, words):
    finding = machine.check_locked_memory(soft)
    assert finding.level == "ok" and words in finding.message


def container(root: pathlib.Path, **files: str) -> str:
    """A root directory of a process in one control group of version 2, which has these limits."""
    group = root / "sys/fs/cgroup/a"
    group.mkdir(parents=True)
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/a\n")
    (root / "proc/self/mountinfo").write_text("35 30 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    (root / "proc/meminfo").write_text(f"MemAvailable: {(8 << 30) // 1024} kB\n")
    for name, text in files.items():
        (group / name.replace("_", ".", 1)).write_text(text)
    return str(root)


def test_a_container_without_limits(tmp_path):
    findings = machine.examine_container(container(tmp_path, cpu_max="max 100000", memory_max="max", pids_max="max"))
    assert [finding.level for finding in findings] == ["ok"] * 3
    assert "8.0 GiB" in findings[1].message


@pytest.mark.parametrize(
    ("mebibytes", "pids", "quota", "levels"),
    [
        (2048, 1000, "200000", ["ok", "ok", "ok"]),
        (512, 200, "50000", ["warning", "warning", "warning"]),
        (100, 10, "100000", ["ok", "error", "error"]),
    ],
)
def test_a_container_with_limits(tmp_path, mebibytes, pids, quota, levels):
    root = container(
        tmp_path,
        cpu_max=f"{quota} 100000",
        memory_max=str(mebibytes * MEBIBYTE),
        memory_current="0",
        pids_max=str(pids + 24),
        pids_current="24",
    )
    assert limits.processes_left(root) == pids
    findings = machine.examine_container(root)
    assert [finding.level for finding in findings] == levels
    for finding in findings:
        assert_one_line_with_its_fix(finding)


# ------------------------------------------------------------------------------------------- directories


def root_with(root: pathlib.Path, directories: list[str], *mounted: str) -> str:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text("".join(f"{line}\n" for line in mounted))
    for directory in directories:
        (root / directory).mkdir(parents=True)
    return str(root)


ROOT = "1 0 8:1 / / rw,relatime - ext4 /dev/sda rw"
SHM = "2 1 0:5 / /dev/shm rw,nosuid - tmpfs shm rw"
TMP_NOEXEC = "3 1 0:6 / /tmp rw,noexec - tmpfs tmpfs rw"


def test_what_is_mounted_where(tmp_path):
    root = root_with(tmp_path, [], ROOT, SHM, TMP_NOEXEC, "4 1 0:7 / /tmp rw - xfs /dev/sdb rw", "short")
    found = {path: mounts.of_path(path, root) for path in ("/tmp/x", "/dev/shm", "/dev/shmx", "/")}
    assert {path: mount and mount.kind for path, mount in found.items()} == {
        "/tmp/x": "xfs",
        "/dev/shm": "tmpfs",
        "/dev/shmx": "ext4",
        "/": "ext4",
    }


def test_a_tmp_that_is_noexec(tmp_path):
    root = root_with(tmp_path, ["tmp", "dev/shm", "scratch"], ROOT, SHM, TMP_NOEXEC)
    _, mine, tmp = places.examine({"TMPDIR": "/scratch"}, root)
    assert (mine.subject, tmp.subject, tmp.level) == ("/scratch", "/tmp", "warning")
    assert "noexec" in tmp.message and "/dev/shm" in tmp.message
    assert_one_line_with_its_fix(tmp)


def test_a_tmp_that_is_noexec_where_nothing_else_takes_libraries(tmp_path):
    root = root_with(tmp_path, ["tmp", "dev/shm"], ROOT, SHM.replace("nosuid", "noexec"), TMP_NOEXEC)
    shm, tmp = places.examine({}, root)
    assert tmp.level == "error" and "from no directory" in tmp.message
    assert shm.subject == "/dev/shm"
    assert_one_line_with_its_fix(tmp)


def test_directories_that_are_not_there(tmp_path):
    shm, mine, tmp = places.examine({"TMPDIR": "/none"}, root_with(tmp_path, ["tmp"], ROOT))
    assert shm.level == "warning" and "not there" in shm.message
    assert mine.level == "error" and "no directory" in mine.message
    assert tmp.subject == "/tmp"
    for finding in (shm, mine):
        assert_one_line_with_its_fix(finding)


def place(kind="ext4", free=8 << 30, writable=True, execute=True, inodes=True):
    return Place("/tmp", kind, writable, execute, 16 << 30, free, inodes)


@pytest.mark.parametrize(
    ("found", "level", "words"),
    [
        (place(), "ok", "8.0 GiB of 16.0 GiB"),
        (place(free=500 * MEBIBYTE), "warning", "500.0 MiB"),
        (place(free=1 * MEBIBYTE), "error", "too little"),
        (place(writable=False), "error", "not writable"),
        (place(inodes=False), "error", "inodes"),
        # The worse of two.
        (place(free=0, execute=False), "error", "too little"),
    ],
)
def test_temporary_directories(found, level, words):
    finding = places.check_temporary("/tmp", found, ["/var/tmp"])
    assert finding.level == level and words in finding.message
    assert_one_line_with_its_fix(finding)


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (place(kind="tmpfs"), "ok"),
        (place(kind="tmpfs", free=64 * MEBIBYTE), "warning"),
        (place(kind="ext4"), "warning"),
        (place(kind="tmpfs", writable=False), "warning"),
    ],
)
def test_shared_memory_of_others(found, level):
    finding = places.check_shm(found)
    assert finding.level == level
    assert_one_line_with_its_fix(finding)
