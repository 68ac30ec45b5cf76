"""The wheels that `make wheels` has built, and what they should be."""

from __future__ import annotations

import email.message
import email.parser
import os
import platform
import zipfile
from pathlib import Path

from interpreters import Interpreter, find

ROOT = Path(__file__).resolve().parents[2]
DIRECTORY = ROOT / "dist" / "wheels"
MACHINE = platform.machine()
OLDEST_GLIBC = (2, 17)

INTERPRETERS = find(os.environ.get("PYTHONS", "").split())


def wheel_for(interpreter: Interpreter) -> Path:
    """Its wheel."""
    (wheel,) = DIRECTORY.glob(f"sparkray-*-{interpreter.tag}-*.whl")
    return wheel


def read(wheel: Path, file: str) -> email.message.Message:
    """A file of the wheel's `.dist-info`: METADATA or WHEEL."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(f".dist-info/{file}")]
        return email.parser.Parser().parsestr(archive.read(name).decode())
