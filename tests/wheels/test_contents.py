"""Names, metadata and files of the wheels, and the oldest glibc that they run with."""

from __future__ import annotations

import io
import json
import re
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag
from packaging.utils import parse_wheel_filename

from interpreters import Interpreter
from wheels.shipped import DIRECTORY, INTERPRETERS, MACHINE, OLDEST_GLIBC, ROOT, read, wheel_for

SOURCES = ROOT / "pyspark-lib" / "python"

each_interpreter = pytest.mark.parametrize("interpreter", INTERPRETERS, ids=lambda interpreter: interpreter.tag)


def glibc_version(name: str) -> tuple[int, int]:
    """Of a version of symbols, such as GLIBC_2.2.5, or of auditwheel's platform, such as manylinux_2_17_x86_64."""
    found = re.match(r"(?:GLIBC|manylinux)_(\d+)[._](\d+)", name)
    assert found, name
    return int(found[1]), int(found[2])


def test_there_is_one_wheel_for_each_python():
    of_interpreters = {wheel_for(interpreter) for interpreter in INTERPRETERS}
    assert of_interpreters == set(DIRECTORY.glob("sparkray-*.whl")) and len(of_interpreters) == len(INTERPRETERS)


def test_the_wheels_of_other_names_are_for_any_python():
    others = [
        parse_wheel_filename(wheel.name) for wheel in set(DIRECTORY.glob("*.whl")) - set(DIRECTORY.glob("sparkray-*"))
    ]
    (version,) = {parse_wheel_filename(wheel.name)[1] for wheel in DIRECTORY.glob("sparkray-*")}
    assert {name for name, _, _, _ in others} == {"sparkray-ray-compat", "sparkray-zoo-compat"}
    assert {its_version for _, its_version, _, _ in others} == {version}
    assert all(tags == {Tag("py3", "none", "any")} for _, _, _, tags in others)


@each_interpreter
def test_pip_takes_it_for_its_python_on_any_linux_with_an_old_glibc(interpreter: Interpreter):
    wheel = wheel_for(interpreter)
    platforms = (f"manylinux2014_{MACHINE}", f"manylinux_2_17_{MACHINE}")
    expected = {Tag(interpreter.tag, interpreter.tag, platform) for platform in platforms}
    name, version, _, tags = parse_wheel_filename(wheel.name)
    assert name == "sparkray" and tags == expected

    told = read(wheel, "WHEEL")
    assert {str(tag) for tag in expected} == set(told.get_all("Tag", []))
    assert told["Root-Is-Purelib"] == "false"
    assert read(wheel, "METADATA")["Version"] == str(version)


@each_interpreter
def test_what_it_needs(interpreter: Interpreter):
    metadata = read(wheel_for(interpreter), "METADATA")
    assert metadata["Name"] == "sparkray" and metadata["License-Expression"] == "Apache-2.0"
    supported = SpecifierSet(metadata["Requires-Python"])
    assert "3.9" not in supported and f"{interpreter.version[0]}.{interpreter.version[1]}" in supported
    assert "spark" in metadata.get_all("Provides-Extra", [])
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    always = {requirement.name for requirement in requirements if requirement.marker is None}
    with_spark = {
        requirement.name
        for requirement in requirements
        if requirement.marker is not None and requirement.marker.evaluate({"extra": "spark"})
    }
    assert always == {"cloudpickle", "numpy", "pyarrow"} and with_spark == {"pyspark"}


@each_interpreter
def test_it_has_every_module_one_native_one_and_the_runtime(interpreter: Interpreter):
    with zipfile.ZipFile(wheel_for(interpreter)) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
    files = {info.filename: info for info in infos if ".dist-info/" not in info.filename}
    sources = {str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.py")}
    typing = {"sparkray/py.typed", "sparkray/_native.pyi"}
    native = {f"sparkray/_native{interpreter.extension}", "sparkray/_lib/sparkrayd", "sparkray/_lib/sparkray.jar"}
    assert set(files) == sources | typing | native
    assert files["sparkray/_lib/sparkrayd"].external_attr >> 16 & stat.S_IXUSR


def native_files(wheel: Path) -> dict[str, bytes]:
    """All of a wheel, also those of its jar, which auditwheel does not look into."""
    found: dict[str, bytes] = {}
    with zipfile.ZipFile(wheel) as archive:
        found |= {name: archive.read(name) for name in archive.namelist() if not name.endswith(".jar")}
        with zipfile.ZipFile(io.BytesIO(archive.read("sparkray/_lib/sparkray.jar"))) as jar:
            found |= {f"sparkray.jar: {name}": jar.read(name) for name in jar.namelist()}
    return {name: content for name, content in found.items() if content.startswith(b"\x7fELF")}


def needed_versions(content: bytes) -> set[str]:
    """The versions of glibc's symbols that a program or library cannot be loaded without."""
    section = ELFFile(io.BytesIO(content)).get_section_by_name(".gnu.version_r")
    assert isinstance(section, GNUVerNeedSection)
    names = {version.name for _, versions in section.iter_versions() for version in versions}
    return {name for name in names if name.startswith("GLIBC_")}


@each_interpreter
def test_no_native_file_needs_a_newer_glibc(interpreter: Interpreter):
    files = native_files(wheel_for(interpreter))
    in_jar = f"sparkray.jar: org/sparkray/native/linux-{MACHINE}"
    assert set(files) == {
        f"sparkray/_native{interpreter.extension}",
        "sparkray/_lib/sparkrayd",
        f"{in_jar}/sparkrayd",
        f"{in_jar}/libsparkray_jni.so",
    }
    newest = {name: max(map(glibc_version, needed_versions(content))) for name, content in files.items()}
    assert all(version <= OLDEST_GLIBC for version in newest.values()), newest
    assert files["sparkray/_lib/sparkrayd"] == files[f"{in_jar}/sparkrayd"]


@each_interpreter
def test_auditwheel_agrees(interpreter: Interpreter):
    auditwheel = Path(sys.executable).with_name("auditwheel")
    command: list[str | Path] = [auditwheel, "show", "--json", wheel_for(interpreter)]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert glibc_version(told["overall_tag"]) <= OLDEST_GLIBC, told
    assert not told["unsupported_isa"] and told["external_libs"] == {}, told
