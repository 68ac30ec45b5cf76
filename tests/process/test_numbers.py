"""Java and Python give error codes, formats of values and fields of messages the numbers that Rust gives them.

They are written in each language by hand, because they are few and never change once released; this compares them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
COMMON = ROOT / "runtime/common/src"
JAVA = ROOT / "spark-bridge/java/src/main/java/org/sparkray"
PYTHON = ROOT / "pyspark-lib/python/sparkray"

# What makes an exception with a code: a number there would be one more place that nothing compares.
BARE_NUMBER = re.compile(r"(?:new SparkRayException|from_failure)\(\s*\d")


def rust_enum(file: str, name: str) -> dict[str, int]:
    """The variants of an enum of Rust, in the spelling of constants: `NotFound = 3` is {"NOT_FOUND": 3}."""
    body = re.search(rf"^pub enum {name} {{\n(.*?)^}}", (COMMON / file).read_text(), re.DOTALL | re.MULTILINE)
    assert body is not None
    found = re.findall(r"^ {4}(\w+) = (\d+),$", body[1], re.MULTILINE)
    return {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", variant).upper(): int(number) for variant, number in found}


def constants(file: Path, before: str) -> dict[str, int]:
    """The lines `NAME = 1` of a file, with or without a semicolon, that begin with `before`."""
    found = re.findall(rf"^{before}([A-Z][A-Z0-9_]*) = (\d+);?$", file.read_text(), re.MULTILINE)
    return {name: int(number) for name, number in found}


def differences(rust: Mapping[str, int], other: Mapping[str, int]) -> set[tuple[str, int]]:
    """What only one of them has."""
    assert rust and other
    return set(rust.items()) ^ set(other.items())


def test_error_codes_have_the_same_numbers_in_java() -> None:
    codes = rust_enum("error.rs", "ErrorCode")
    assert differences(codes, constants(JAVA / "ErrorCode.java", "  static final int ")) == set()


def test_error_codes_have_the_same_numbers_in_python() -> None:
    codes = rust_enum("error.rs", "ErrorCode")
    assert differences(codes, constants(PYTHON / "_private/error_codes.py", " {4}")) == set()


def test_formats_of_values_have_the_same_numbers_in_python() -> None:
    formats = rust_enum("value.rs", "ValueFormat")
    known = constants(PYTHON / "_private/serialization.py", "FORMAT_")
    # Nothing writes it, and Python refuses what it has no name for.
    del formats["MSGPACK"]
    assert differences(formats, known) == set()


def fields_of_messages(file: Path, message: str, field: str) -> set[tuple[str, str, int]]:
    """Message, field and number of each line of the form `field`, below one of the form `message`."""
    found, name = set(), ""
    for line in file.read_text().splitlines():
        if start := re.match(message, line):
            name = start[1]
        elif one := re.match(field, line):
            found.add((name, one[1].upper(), int(one[2])))
    return found


def test_fields_of_messages_have_the_same_numbers_in_java() -> None:
    proto = fields_of_messages(
        ROOT / "runtime/proto/protos/bridge.proto", r"message (\w+) {", r" +(?:\w+ )?[\w.<>, ]+ (\w+) = (\d+);"
    )
    java = fields_of_messages(
        JAVA / "wire/Fields.java", r"  public static final class (\w+) {", r" +public static final int (\w+) = (\d+);"
    )
    assert java
    assert java - proto == set()


def test_error_codes_are_written_by_name() -> None:
    files = [*JAVA.rglob("*.java"), *PYTHON.rglob("*.py")]
    assert [file for file in files if BARE_NUMBER.search(file.read_text())] == []
