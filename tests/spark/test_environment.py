"""The packed virtual environment: it runs elsewhere, is made once, and says what it cannot do."""

from __future__ import annotations

import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import venv

import pytest

from sparkray.spark import environment, progress
from sparkray.spark.environment import pack_environment
from sparkray.spark.errors import SparkSetupError
from sparkray.spark.parallel_gzip import CHUNK_BYTES, ParallelGzipWriter

pytestmark = pytest.mark.filterwarnings("ignore:the virtual environment")


@pytest.fixture(autouse=True)
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sparkray" / "environments"


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    """A virtual environment with one package of each kind."""
    root = tmp_path / "environment"
    venv.create(root, symlinks=True, with_pip=False)
    write(root, "hello/__init__.py", "NAME = 'hello'\n")
    write(root, "hello/tests/data.py", "")
    write(root, "hello/__pycache__/__init__.cpython-00.pyc", "")
    write(root, "numpy/__init__.py", "")
    write(root, "numpy/testing/__init__.py", "")
    write(root, "numpy/core/tests/test_core.py", "")
    write(root, "pyspark/__init__.py", "")
    write(root, "pyspark/jars/spark-core.jar", "")
    (root / "bin" / "script").write_text(f"#!{root}/bin/python\n")
    (root / "bin" / "tool").write_bytes(b"\x7fELF")
    return root


def site_packages(root: pathlib.Path) -> pathlib.Path:
    return root / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def write(root: pathlib.Path, path: str, text: str) -> None:
    file = site_packages(root) / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def pack(root: pathlib.Path) -> tuple[str, list[str]]:
    lines: list[str] = []
    return pack_environment(root, lines.append), lines


def names(archive: str) -> set[str]:
    with tarfile.open(archive) as tar:
        return set(tar.getnames())


def test_packed_environment_runs_by_a_relative_path_from_another_directory(
    root: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    archive, _ = pack(root)
    container = tmp_path / "container"
    (container / "python_env").mkdir(parents=True)
    subprocess.run(["tar", "xzf", archive, "-C", str(container / "python_env")], check=True)
    program = "import hello, sys; print(hello.__file__, sys.prefix, sys.executable, sep='\\n')"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    output = subprocess.run(
        ["python_env/bin/python", "-c", program], cwd=container, env=clean, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    inside = container / "python_env"
    assert output == [
        str(site_packages(inside) / "hello" / "__init__.py"),
        str(inside),
        str(inside / "bin" / "python"),
    ]


def test_what_is_left_out(root: pathlib.Path) -> None:
    packed = names(pack(root)[0])
    library = str(site_packages(root).relative_to(root))
    assert {
        f"{library}/hello/tests/data.py",
        f"{library}/numpy/testing/__init__.py",
        "bin/tool",
        "pyvenv.cfg",
    } <= packed
    assert "bin/python" in packed
    assert not {name for name in packed if "__pycache__" in name or "spark-core.jar" in name or "test_core" in name}
    assert not {name for name in packed if name in ("bin/script", "bin/activate", "bin/Activate.ps1")}


def test_packing_shows_how_far_it_is(root: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SECONDS", -1.0)
    (site_packages(root) / "large.bin").write_bytes(bytes(5 << 20))
    lines = pack(root)[1]
    assert lines[1].startswith(f"python environment {root}: packed 0 MB of 5 MB")
    assert lines[-2] == f"python environment {root}: packed 5 MB of 5 MB"


def test_links_lead_to_the_same_content_elsewhere(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """As `uv pip install --link-mode symlink` leaves them: every file is a link into a cache."""
    cache = tmp_path / "uv"
    (cache / "package" / "inner").mkdir(parents=True)
    (cache / "module.py").write_text("VALUE = 1\n")
    (cache / "package" / "__init__.py").write_text("VALUE = 2\n")
    (cache / "package" / "inner" / "chained.py").symlink_to(cache / "module.py")
    (cache / "script").write_text(f"#!{root}/bin/python\n")
    packages = site_packages(root)
    (packages / "module.py").symlink_to(cache / "module.py")
    (packages / "package").symlink_to(cache / "package")
    (packages / "absolute.py").symlink_to(packages / "hello" / "__init__.py")
    (packages / "relative.py").symlink_to("hello/__init__.py")
    (packages / "dangling.py").symlink_to("/nowhere/at/all")
    (root / "bin" / "linked-script").symlink_to(cache / "script")
    archive, _ = pack(root)
    inside = tmp_path / "elsewhere"
    inside.mkdir()
    subprocess.run(["tar", "xzf", archive, "-C", str(inside)], check=True)
    unpacked = site_packages(inside)
    for name in ("module.py", "package/__init__.py", "package/inner/chained.py"):
        assert (unpacked / name).is_file() and not (unpacked / name).is_symlink()
        assert (unpacked / name).read_text() == (packages / name).read_text()
    assert os.readlink(unpacked / "absolute.py") == os.readlink(unpacked / "relative.py") == "hello/__init__.py"
    assert os.readlink(inside / "bin" / "python") == os.readlink(root / "bin" / "python")
    assert not (inside / "bin" / "linked-script").exists()
    # What lies in the cache is part of what the archive is found by.
    (cache / "module.py").write_text("VALUE = 1234\n")
    assert pack(root)[0] != archive


def test_link_to_a_directory_that_it_is_in_is_refused(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "loop").symlink_to(outside)
    (site_packages(root) / "linked").symlink_to(outside)
    with pytest.raises(SparkSetupError, match="linked/loop is a link to a directory that it is in"):
        pack(root)


def test_second_call_packs_nothing(root: pathlib.Path, cache: pathlib.Path) -> None:
    first, lines = pack(root)
    assert lines[0].startswith(f"python environment {root}: packing ")
    before = os.stat(first).st_ino
    second, lines = pack(root)
    assert (second, os.stat(second).st_ino) == (first, before)
    assert len(lines) == 1 and "packed before" in lines[0]
    assert [path.name for path in cache.iterdir()] == [os.path.basename(first)]


def test_compiled_files_of_a_run_change_nothing(root: pathlib.Path) -> None:
    first, _ = pack(root)
    write(root, "numpy/__pycache__/__init__.cpython-00.pyc", "x")
    assert pack(root)[0] == first


def test_what_sparks_daemons_leave_in_the_package_changes_nothing(root: pathlib.Path) -> None:
    first, _ = pack(root)
    write(root, "pyspark/work/app-20260101000000-0000/0/sparkray.jar", "a copy for each executor")
    write(root, "pyspark/logs/spark-user-org.apache.spark.deploy.master.Master-1-host.out", "")
    assert pack(root)[0] == first
    # Only there: others may have packages of these names.
    write(root, "hello/work/__init__.py", "")
    second, _ = pack(root)
    packed = names(second)
    assert f"{site_packages(root).relative_to(root)}/hello/work/__init__.py" in packed
    assert not {name for name in packed if "pyspark/work" in name or "pyspark/logs" in name}


def test_another_package_makes_another_archive(root: pathlib.Path) -> None:
    first, _ = pack(root)
    write(root, "more.py", "")
    second, _ = pack(root)
    assert first != second


def test_only_the_last_archives_are_kept(root: pathlib.Path, cache: pathlib.Path) -> None:
    for number in range(6):
        write(root, f"package_{number}.py", "")
        newest, _ = pack(root)
    assert len(list(cache.iterdir())) == 4
    assert os.path.exists(newest)


def test_nothing_is_left_when_packing_fails(
    root: pathlib.Path, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(environment, "_add", fail)
    with pytest.raises(OSError, match="no space left"):
        pack(root)
    assert list(cache.iterdir()) == []


def test_editable_packages_are_refused_by_name(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    write(root, "one-1.0.dist-info/direct_url.json", json.dumps({"url": "file:///x", "dir_info": {"editable": True}}))
    write(root, "two.pth", f"{tmp_path}/source\n")
    write(root, "__editable__.three-2.1.pth", f"{tmp_path}/other\n")
    write(root, "not-editable-1.0.dist-info/direct_url.json", json.dumps({"url": "file:///x", "dir_info": {}}))
    write(root, "inside.pth", f"{root}/share\n")
    with pytest.raises(SparkSetupError, match="do not get it: one, three, two; install it with"):
        pack(root)


def test_plain_directory_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(SparkSetupError, match="is neither a virtual nor a conda environment"):
        pack(tmp_path)


def test_packages_of_the_base_interpreter_are_refused(root: pathlib.Path) -> None:
    settings = root / "pyvenv.cfg"
    settings.write_text(settings.read_text().replace("packages = false", "packages = true"))
    with pytest.raises(SparkSetupError, match="uses packages of its base interpreter"):
        pack(root)


def test_base_interpreter_in_a_home_directory_is_warned_of(root: pathlib.Path) -> None:
    settings = root / "pyvenv.cfg"
    settings.write_text("home = /home/somebody/python/bin\ninclude-system-site-packages = false\n")
    with pytest.warns(UserWarning, match="runs on the interpreter in /home/somebody/python/bin"):
        pack(root)


def test_parallel_gzip_is_read_as_one_stream() -> None:
    data = os.urandom(CHUNK_BYTES) + b"x" * (2 * CHUNK_BYTES + 17)
    file = io.BytesIO()
    with ParallelGzipWriter(file, threads=2) as writer:
        for start in range(0, len(data), 1_000_003):
            writer.write(data[start : start + 1_000_003])
    unpacked = subprocess.run(["gzip", "-dc"], input=file.getvalue(), check=True, capture_output=True).stdout
    assert unpacked == data
