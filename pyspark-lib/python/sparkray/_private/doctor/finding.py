"""One thing that the doctor looked at."""

from __future__ import annotations

import dataclasses
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was found.

    Attributes:
        subject: what was looked at.
        level: "error" when sparkray does not work so, "warning" when some of it does not, or not for long.
        message: what it is like; one line.
        fix: what to do about it; "" for what is ok.
    """

    subject: str
    level: Level
    message: str
    fix: str = ""

    def line(self, width: int) -> str:
        """For people; `width` is that of the column of subjects."""
        advice = f"; fix: {self.fix}" if self.fix else ""
        return f"{self.level:<8} {self.subject:<{width}}  {self.message}{advice}"

    def facts(self) -> dict[str, str]:
        """For programs."""
        return dataclasses.asdict(self)


def ok(subject: str, message: str) -> Finding:
    """All is well."""
    return Finding(subject, "ok", message)


def warning(subject: str, message: str, fix: str) -> Finding:
    """Some of sparkray does not work so, or not for long."""
    return Finding(subject, "warning", message, fix)


def error(subject: str, message: str, fix: str) -> Finding:
    """Sparkray does not work so."""
    return Finding(subject, "error", message, fix)


def amount(count: int) -> str:
    """Bytes, for people."""
    for unit, size in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1024:.0f} KiB"
