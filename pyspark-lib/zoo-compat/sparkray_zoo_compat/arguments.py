"""What becomes of arguments that sparkray does not have: a warning where ignoring them is harmless, else an error."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterable, Mapping


def warn_ignored(function: str, ignored: Mapping[str, str]) -> None:
    """Warns (UserWarning) of arguments that mean nothing here.

    Arguments:
        function: what was called, for the message.
        ignored: names of arguments with the reason why each is ignored.
    """
    if ignored:
        named = "; ".join(f"{name} is ignored: {reason}" for name, reason in ignored.items())
        warn(f"{function}: {named}")


def warn(message: str) -> None:
    """Warns (UserWarning) at the line of the program that called something of this package."""
    level = 1
    while sys._getframe(level - 1).f_globals["__name__"].startswith("sparkray_zoo_compat."):
        level += 1
    warnings.warn(message, UserWarning, stacklevel=level)


def check_known(function: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuses arguments that no version of a function has had.

    Arguments:
        function: what was called, for the message.
        given: names of arguments.
        known: names that some version of it had.

    Raises:
        TypeError: one is not known; the message names the one that was probably meant.
    """
    names = sorted(known)
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "; docs/migrating.md has those that there are"
            raise TypeError(f"{function}() has no argument {name!r}{hint}")
