"""Memory sizes as people write them: ``"2g"``."""

from __future__ import annotations

import re

_KIBI = 1024
_UNITS = {
    "b": 1,
    "k": _KIBI,
    "kb": _KIBI,
    "m": _KIBI**2,
    "mb": _KIBI**2,
    "g": _KIBI**3,
    "gb": _KIBI**3,
    "t": _KIBI**4,
    "tb": _KIBI**4,
}
_SIZE = re.compile(r"([+-]?)(\d+)(\.\d*)?\s*([a-z]*)")
_HOW_TO_WRITE = 'write a whole number and a unit, such as "2g" or "512m"'
MEBIBYTE = _KIBI**2


def parse_memory(text: str, name: str = "memory") -> int:
    """Reads a memory size.

    Arguments:
        text: a whole number with a unit: b, k, kb, m, mb, g, gb, t or tb, in either case. Units are binary, as Spark's
            are: ``"2g"`` is 2 * 1024**3 bytes.
        name: the argument that it is the value of, for the message.

    Returns:
        The size in bytes.

    Raises:
        TypeError: it is not a string.
        ValueError: there is no unit, an unknown unit, a fraction, a sign, or nothing at all.

    Upstream name: ``resource_to_bytes`` of BigDL (its units are decimal).
    """
    if not isinstance(text, str):
        raise TypeError(f'{name} is a string with a unit, such as "2g", not {text!r}')
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{name}={text!r} is not a memory size: {_HOW_TO_WRITE}")
    sign, digits, fraction, unit = match.groups()
    if sign:
        raise ValueError(f"{name}={text!r} has a sign: {_HOW_TO_WRITE}")
    if fraction is not None:
        raise ValueError(
            f'{name}={text!r} has a fraction: use a whole number of a smaller unit, such as "1536m" for 1.5 g'
        )
    if not unit:
        raise ValueError(
            f'{name}={text!r} has no unit: write "{digits}b" for bytes, "{digits}m" for mebibytes '
            f'or "{digits}g" for gibibytes'
        )
    if unit not in _UNITS:
        raise ValueError(f"{name}={text!r} has the unknown unit {unit!r}: the units are {', '.join(_UNITS)}")
    return int(digits) * _UNITS[unit]


def to_mebibytes(size: int) -> int:
    """Bytes as whole mebibytes, rounded up."""
    return -(-size // MEBIBYTE)


def to_spark(size: int) -> str:
    """Bytes as Spark and ``java -Xmx`` both read them: whole mebibytes, rounded up."""
    return f"{to_mebibytes(size)}m"
