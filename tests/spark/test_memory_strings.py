"""Memory sizes: what is read, and what is said when it cannot be."""

from __future__ import annotations

import pytest

from sparkray._private.memory import parse_memory, to_spark


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0b", 0),
        ("50b", 50),
        ("100k", 100 * 1024),
        ("100kb", 100 * 1024),
        ("250m", 250 * 1024**2),
        ("250MB", 250 * 1024**2),
        ("2g", 2 * 1024**3),
        ("2G", 2 * 1024**3),
        (" 30 gb ", 30 * 1024**3),
        ("1t", 1024**4),
        ("3TB", 3 * 1024**4),
    ],
)
def test_whole_numbers_with_a_binary_unit_are_read(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2000000000", 'no unit: write "2000000000b" for bytes'),
        ("2", '"2g" for gibibytes'),
        ("1.5g", 'fraction: use a whole number of a smaller unit, such as "1536m"'),
        ("1.", "fraction"),
        ("-2g", "has a sign"),
        ("2x", "unknown unit 'x': the units are b, k, kb, m, mb, g, gb, t, tb"),
        ("2gib", "unknown unit 'gib'"),
        ("", "is not a memory size"),
        ("g", "is not a memory size"),
        ("two g", "is not a memory size"),
        ("2 g b", "is not a memory size"),
    ],
)
def test_anything_else_is_refused_by_a_sentence_with_the_argument_s_name(text: str, says: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse_memory(text, "object_store_memory")
    message = str(raised.value)
    assert message.startswith(f"object_store_memory={text!r} ")
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize("value", [2_000_000_000, 2.5, None, b"2g", True])
def test_what_is_not_text_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match='executor_memory is a string with a unit, such as "2g"'):
        parse_memory(value, "executor_memory")  # type: ignore[arg-type]


def test_spark_gets_whole_mebibytes_rounded_up() -> None:
    assert to_spark(2 * 1024**3) == "2048m"
    assert to_spark(1) == "1m"
    assert to_spark(1024**2 + 1) == "2m"
