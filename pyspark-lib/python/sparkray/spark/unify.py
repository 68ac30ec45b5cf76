"""The columns of a DataFrame over blocks whose columns are not quite the same. Decides only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

# Each holds every value of those before it.
_INTEGERS = ("byte", "short", "integer", "long")
# Decimal digits of the largest value.
_DIGITS = {"byte": 3, "short": 5, "integer": 10, "long": 19}
_MOST_DIGITS = 38
_DECIMAL = re.compile(r"decimal\((\d+),(\d+)\)")
_COLLATIONS = "__COLLATIONS"

Field = dict[str, Any]


class Columns:
    """The columns of one block after another, and what holds the values of all of them.

    Types that differ become one where no value can be lost: nulls only take any type, integers and decimals the wider
    one, floats and integers a double (values that are not exact as a double are an error where they are read). A column
    is nullable where it is in any block. What columns say about themselves (Spark's field metadata) is kept where the
    blocks that say something agree.
    """

    def __init__(self, first: Sequence[Field]) -> None:
        self.fields = [{**field, "metadata": dict(field.get("metadata") or {})} for field in first]
        self._first_types = [field["type"] for field in first]
        # Keys on which blocks did not agree, by column: no later block brings them back.
        self._disputed: list[set[str]] = [set() for _ in first]

    def add(self, other: Sequence[Field], name: str) -> None:
        """Adds a block's columns; ``name`` names the block.

        Raises ValueError that names the first column that differs and says how.
        """
        if len(self.fields) != len(other):
            raise ValueError(f"{name} has {len(other)} columns, the first block has {len(self.fields)}")
        for index, (field, found) in enumerate(zip(self.fields, other, strict=True)):
            if field["name"] != found["name"]:
                raise ValueError(
                    f"column {index} of {name} is named {found['name']!r}, in the first block {field['name']!r}"
                )
            common = common_type(field["type"], found["type"])
            if common is None:
                before = "the first block" if field["type"] == self._first_types[index] else "the blocks before"
                raise ValueError(
                    f"column {found['name']!r} of {name} has the type {found['type']}, in {before} {field['type']}, "
                    "and no type holds the values of both exactly: cast them to one type"
                )
            # A column of nulls says nothing about the others' collation.
            if "void" not in (field["type"], found["type"]):
                _check_collations(field, found, name)
            field["type"] = common
            field["nullable"] = field["nullable"] or found["nullable"]
            self._merge_metadata(index, found.get("metadata") or {})

    def _merge_metadata(self, index: int, found: dict[str, Any]) -> None:
        metadata, disputed = self.fields[index]["metadata"], self._disputed[index]
        for key, value in found.items():
            if key in disputed:
                continue
            if metadata.setdefault(key, value) != value:
                del metadata[key]
                disputed.add(key)


def common_type(one: str, other: str) -> str | None:
    """The type of Spark that holds all values of two types, by the names of ``StructType.json()``; None without one."""
    if one == other:
        return one
    if "void" in (one, other):
        return one if other == "void" else other
    if one in _INTEGERS and other in _INTEGERS:
        return max(one, other, key=_INTEGERS.index)
    if {one, other} <= {"float", "double", *_INTEGERS}:
        # A float has 24 bits for its digits.
        return "float" if {one, other} <= {"float", "byte", "short"} else "double"
    decimals = [_digits_of(one), _digits_of(other)]
    if None in decimals:
        return None
    whole, fraction = (max(digits[part] for digits in decimals if digits is not None) for part in (0, 1))
    return f"decimal({whole + fraction},{fraction})" if whole + fraction <= _MOST_DIGITS else None


def _digits_of(type_name: str) -> tuple[int, int] | None:
    """Digits before and behind the point."""
    if type_name in _DIGITS:
        return _DIGITS[type_name], 0
    match = _DECIMAL.fullmatch(type_name)
    return (int(match[1]) - int(match[2]), int(match[2])) if match else None


def _check_collations(field: Field, found: Field, name: str) -> None:
    """Two collations are two meanings of equality: which one holds is not for us to say."""
    known, other = field["metadata"].get(_COLLATIONS), (found.get("metadata") or {}).get(_COLLATIONS)
    if known is not None and other is not None and known != other:
        raise ValueError(
            f"column {found['name']!r} of {name} has the collation {_collation(other)}, in the blocks before "
            f"{_collation(known)}: give them one collation"
        )


def _collation(collations: Any) -> str:
    return ", ".join(str(name) for name in collations.values())


def with_unique_names(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema when its names differ, else one with numbers for names. (Spark ignores their case.)"""
    names = [field["name"].lower() for field in schema["fields"]]
    if len(set(names)) == len(names):
        return schema
    return {**schema, "fields": [_renamed(field, f"c{index}") for index, field in enumerate(schema["fields"])]}


def _renamed(field: Field, name: str) -> Field:
    metadata = dict(field["metadata"])
    if _COLLATIONS in metadata:
        # Keyed by the column's name.
        metadata[_COLLATIONS] = dict.fromkeys([name], next(iter(metadata[_COLLATIONS].values())))
    return {**field, "name": name, "metadata": metadata}
