"""What `sparkray` does on the command line. Needs nothing but the standard library."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sparkray._private import doctor
from sparkray._version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: those of the command line, without the program's name; None: of this process.

    Returns:
        The exit status: 0, or 1 when the doctor found an error. Wrong arguments end the program with 2.
    """
    parser = argparse.ArgumentParser(prog="sparkray", description="Ray's API on the executors of a Spark application.")
    parser.add_argument("--version", action="version", version=f"sparkray {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    examine = commands.add_parser(
        "doctor",
        help="say what of a machine is in the way of sparkray, and what to do about it",
        description="One line for each thing that was looked at: ok, warning or error, and what to do about it. The "
        "exit status is 1 when something is an error.",
    )
    # Other places are to come: each is named.
    examine.add_argument("--local", action="store_true", required=True, help="this machine")
    examine.add_argument("--json", action="store_true", help="as JSON, for programs")
    chosen = parser.parse_args(arguments)

    findings = doctor.examine()
    print(doctor.as_json(findings) if chosen.json else doctor.as_text(findings), flush=True)
    return 1 if any(finding.level == "error" for finding in findings) else 0
