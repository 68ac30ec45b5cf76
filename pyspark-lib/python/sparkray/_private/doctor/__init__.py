"""`sparkray doctor`: what of a machine is in the way of sparkray, and what to do about it.

Each module looks at one kind of thing: `installation` at the package, `spark` at Java and Spark, `machine` at the
limits of processes and containers, `places` at directories. In each, what is read is apart from what is thought of it.
Nothing here needs the native module, or anything that is not in the standard library.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

from sparkray._private.doctor import installation, machine, places, spark
from sparkray._private.doctor.finding import Finding
from sparkray._version import __version__

__all__ = ["Finding", "as_json", "as_text", "examine"]


def examine(environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """Looks at everything on this machine.

    Args:
        environ: where JAVA_HOME, PATH, SPARK_HOME and TMPDIR are looked for.

    Returns:
        What was found, good or bad.
    """
    return [*installation.examine(), *spark.examine(environ), *machine.examine(), *places.examine(environ)]


def as_text(findings: Sequence[Finding]) -> str:
    """A line for each, and one that counts them."""
    width = max(len(finding.subject) for finding in findings)
    lines = [finding.line(width) for finding in findings]
    return "\n".join([*lines, f"sparkray {__version__}: {_count(findings, 'error')}, {_count(findings, 'warning')}"])


def as_json(findings: Sequence[Finding]) -> str:
    """An object with `version` and `findings`: of each its subject, level, message and fix ("" where all is well)."""
    return json.dumps({"version": __version__, "findings": [finding.facts() for finding in findings]}, indent=2)


def _count(findings: Sequence[Finding], level: str) -> str:
    number = sum(finding.level == level for finding in findings)
    return f"{number} {level}" + ("" if number == 1 else "s")
