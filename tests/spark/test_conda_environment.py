"""The packed conda environment: it runs elsewhere, is made once, and is refused in conda-pack's own words."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping

import pytest

from sparkray.spark import conda_environment, hadoop, packaging, progress, session
from sparkray.spark.environment import pack_environment
from sparkray.spark.errors import SparkSetupError
from support.conda_prefix import SITE_PACKAGES, CondaPrefix


@pytest.fixture(autouse=True)
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sparkray" / "environments"


@pytest.fixture
def conda(tmp_path: pathlib.Path) -> CondaPrefix:
    """An environment with a package of conda's and one of pip's."""
    conda = CondaPrefix(tmp_path)
    conda.install(
        "hello",
        {
            f"{SITE_PACKAGES}/hello/__init__.py": "NAME = 'hello'\n",
            f"{SITE_PACKAGES}/hello/tests/data.py": "",
            f"{SITE_PACKAGES}/numpy/core/tests/test_core.py": "",
            f"{SITE_PACKAGES}/pyspark/jars/spark-core.jar": "",
        },
    )
    conda.write(f"{SITE_PACKAGES}/by_pip.py", "NAME = 'by pip'\n")
    conda.write(f"{SITE_PACKAGES}/__pycache__/by_pip.cpython-00.pyc", "")
    return conda


@pytest.fixture
def conda_program(conda: CondaPrefix, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in the place of conda."""
    monkeypatch.setenv("CONDA_EXE", conda.program())


def pack(root: pathlib.Path) -> tuple[str, list[str]]:
    lines: list[str] = []
    return pack_environment(root, lines.append), lines


def refused(root: pathlib.Path) -> str:
    with pytest.raises(SparkSetupError) as raised:
        pack(root)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_packing_shows_how_far_it_is(conda: CondaPrefix, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SECONDS", -1.0)
    conda.write(f"{SITE_PACKAGES}/large.txt", "x" * (5 << 20))
    lines = pack(conda.root)[1]
    done = [
        re.fullmatch(rf"python environment {conda.root}: packed (\d+) MB of (\d+) MB", line) for line in lines[1:-1]
    ]
    sizes = [(int(found[1]), int(found[2])) for found in done if found is not None]
    # One for each file.
    assert len(sizes) == len(lines) - 2 > 5
    assert sizes == sorted(sizes) and sizes[0] == (0, 5) and sizes[-1] == (5, 5)


def test_packed_environment_runs_with_its_own_interpreter(conda: CondaPrefix, tmp_path: pathlib.Path) -> None:
    archive, lines = pack(conda.root)
    assert "by conda-pack" in lines[0] and "packed in" in lines[1]
    container = tmp_path / "container"
    (container / "python_env").mkdir(parents=True)
    subprocess.run(["tar", "xzf", archive, "-C", str(container / "python_env")], check=True)
    shutil.rmtree(conda.root)
    shutil.rmtree(conda.cache)
    program = "import by_pip, hello, sys; print(hello.__file__, by_pip.NAME, sys.prefix, sep='\\n')"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    output = subprocess.run(
        ["python_env/bin/python", "-c", program], cwd=container, env=clean, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    inside = container / "python_env"
    assert output == [str(inside / SITE_PACKAGES / "hello" / "__init__.py"), "by pip", str(inside)]


def test_what_is_left_out(conda: CondaPrefix) -> None:
    with tarfile.open(pack(conda.root)[0]) as tar:
        packed = set(tar.getnames())
    assert {f"{SITE_PACKAGES}/hello/tests/data.py", "bin/python", "conda-meta/hello-1.0-0.json"} <= packed
    assert not {name for name in packed if "__pycache__" in name or "spark-core.jar" in name or "test_core" in name}


def test_second_call_packs_nothing(conda: CondaPrefix, cache: pathlib.Path) -> None:
    first, _ = pack(conda.root)
    before = os.stat(first).st_ino
    conda.write(f"{SITE_PACKAGES}/__pycache__/hello.cpython-00.pyc", "compiled by a run")
    second, lines = pack(conda.root)
    assert (second, os.stat(second).st_ino) == (first, before)
    assert len(lines) == 1 and "packed before" in lines[0]
    assert [path.name for path in cache.iterdir()] == [os.path.basename(first)]


def test_what_sparks_daemons_leave_in_the_package_changes_nothing(conda: CondaPrefix) -> None:
    first, _ = pack(conda.root)
    conda.write(f"{SITE_PACKAGES}/pyspark/work/app-20260101000000-0000/0/sparkray.jar", "a copy for each executor")
    (conda.root / SITE_PACKAGES / "pyspark" / "logs").mkdir()
    assert pack(conda.root)[0] == first
    conda.write(f"{SITE_PACKAGES}/by_pip.py", "NAME = 'another'\n")
    with tarfile.open(pack(conda.root)[0]) as tar:
        assert not {name for name in tar.getnames() if "pyspark/work" in name or "pyspark/logs" in name}


def test_another_package_or_file_makes_another_archive(conda: CondaPrefix) -> None:
    archives = [pack(conda.root)[0]]
    conda.install("more", {f"{SITE_PACKAGES}/more.py": ""})
    archives.append(pack(conda.root)[0])
    conda.write(f"{SITE_PACKAGES}/by_pip.py", "NAME = 'another'\n")
    archives.append(pack(conda.root)[0])
    assert len(set(archives)) == 3


def test_editable_packages_are_refused_by_conda_pack(conda: CondaPrefix) -> None:
    url = json.dumps({"url": "file:///x", "dir_info": {"editable": True}})
    conda.write(f"{SITE_PACKAGES}/mine-1.0.dist-info/direct_url.json", url)
    message = refused(conda.root)
    assert message.startswith(f"the conda environment {conda.root}: Cannot pack an environment with editable packages")
    assert message.endswith("- mine")


def test_links_to_sources_that_conda_pack_does_not_see_are_refused(conda: CondaPrefix, tmp_path: pathlib.Path) -> None:
    conda.write(f"{SITE_PACKAGES}/conda.pth", f"{tmp_path}/source\n")
    assert "installed in editable mode, so executors do not get it: conda; " in refused(conda.root)


def test_files_that_pip_removed_are_refused_by_conda_pack(conda: CondaPrefix) -> None:
    (conda.root / SITE_PACKAGES / "hello" / "__init__.py").unlink()
    message = refused(conda.root)
    assert "Files managed by conda were found to have been deleted/overwritten" in message
    assert f"- hello 1.0: {SITE_PACKAGES}/hello/__init__.py" in message


def test_files_that_pip_changed_are_refused(conda: CondaPrefix, cache: pathlib.Path) -> None:
    conda.write(f"{SITE_PACKAGES}/hello/__init__.py", "NAME = 'patch'\n")
    assert f"conda-pack packs the original ones: {SITE_PACKAGES}/hello/__init__.py; install" in refused(conda.root)
    assert list(cache.iterdir()) == []


def test_copies_of_the_package_cache_are_taken_as_they_are(conda: CondaPrefix) -> None:
    """As conda installs where it cannot make links."""
    conda.write(f"{SITE_PACKAGES}/hello/__init__.py", "NAME = 'hello'\n")
    pack(conda.root)


def test_without_the_package_cache_the_files_that_are_there_are_packed(conda: CondaPrefix) -> None:
    conda.write(f"{SITE_PACKAGES}/hello/__init__.py", "NAME = 'patch'\n")
    shutil.rmtree(conda.cache)
    with pytest.warns(UserWarning, match="without entries in the package cache"):
        archive, _ = pack(conda.root)
    with tarfile.open(archive) as tar:
        file = tar.extractfile(f"{SITE_PACKAGES}/hello/__init__.py")
        assert file is not None and file.read() == b"NAME = 'patch'\n"


def test_environment_without_python_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "conda-meta").mkdir()
    assert "has no bin/python: install python in it" in refused(tmp_path)


def test_environment_without_a_history_is_refused(conda: CondaPrefix) -> None:
    (conda.root / "conda-meta" / "history").unlink()
    assert "has no conda-meta/history: make it again with conda" in refused(conda.root)


def test_missing_conda_pack_is_named(conda: CondaPrefix, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "conda_pack", None)
    assert "pip install 'sparkray[conda]'" in refused(conda.root)


def test_name_is_found_by_asking_conda(conda: CondaPrefix, conda_program: None) -> None:
    assert conda_environment.find_prefix("zoo") == conda.root


def test_name_that_conda_does_not_know(conda_program: None) -> None:
    with pytest.raises(SparkSetupError, match="conda_name='bear': Environment name 'bear' doesn't exist; or pass"):
        conda_environment.find_prefix("bear")


def test_conda_that_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDA_EXE", "/no/such/conda")
    with pytest.raises(
        SparkSetupError, match="conda_name='zoo': Failed to determine path.*conda not being on your PATH"
    ):
        conda_environment.find_prefix("zoo")


def test_environment_with_another_python_is_refused(conda: CondaPrefix, conda_program: None) -> None:
    library = (conda.root / SITE_PACKAGES).parent
    library.rename(library.with_name("python3.0"))
    shutil.rmtree(conda.cache / "hello-package")
    (conda.root / "conda-meta" / "hello-1.0-0.json").unlink()
    with pytest.raises(SparkSetupError, match="does not have Python .* run the program in that environment"):
        conda_environment.find_prefix("zoo")


def test_named_environment_is_what_spark_ships(
    conda: CondaPrefix,
    conda_program: None,
    cache: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """init_spark_on_yarn up to the configuration with which Spark would be started."""
    shipped: dict[str, str] = {}

    def start(conf: Mapping[str, str], *_: object) -> None:
        shipped.update(conf)

    for name in ("core-site.xml", "yarn-site.xml"):
        (tmp_path / name).write_text("<configuration/>")
    jar = tmp_path / "sparkray.jar"
    jar.touch()
    monkeypatch.setattr(packaging, "jar_path", lambda: str(jar))
    monkeypatch.setattr(hadoop, "check_reachable", lambda _: None)
    monkeypatch.setattr(session, "_start", start)
    monkeypatch.setenv("HADOOP_CONF_DIR", "")
    session.init_spark_on_yarn(str(tmp_path), conda_name="zoo", num_executors=1, executor_cores=1)
    (archive,) = cache.iterdir()
    assert shipped["spark.archives"] == f"{archive}#python_env"
    assert shipped["spark.pyspark.python"] == "python_env/bin/python"
    with tarfile.open(archive) as tar:
        assert f"{SITE_PACKAGES}/hello/__init__.py" in tar.getnames()
