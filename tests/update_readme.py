"""Puts the output of a real `make demo` into README.md: `python tests/update_readme.py build/logs/demo.log`."""

from __future__ import annotations

import pathlib
import re
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- demo-output -->", "<!-- /demo-output -->"
LAST_LINE = re.compile(r"^The whole demo took \d+ s\.$", re.MULTILINE)


def clean(log: str) -> str:
    """The log without what differs from machine to machine: temporary directories and the terminal's colours."""
    log = re.sub(r"\x1b\[[0-9;]*m", "", log)
    log = re.sub(r"/\S*?/sparkray-minicluster-\w+", "/tmp/minicluster", log)
    return "\n".join(line.rstrip() for line in log.strip().splitlines())


def main() -> int:
    """Rewrites README.md; returns the exit code."""
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    log = pathlib.Path(sys.argv[1]).read_text()
    if not LAST_LINE.search(log):
        print(f"{sys.argv[1]} is not the log of a demo that came to its end: README.md is left as it is")
        return 1
    readme = REPOSITORY / "README.md"
    text = readme.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        print(f"README.md has no {BEGIN} … {END}")
        return 1
    readme.write_text(f"{before}{BEGIN}\n```text\n{clean(log)}\n```\n{END}{after}")
    print("README.md has the output of the demo")
    return 0


if __name__ == "__main__":
    sys.exit(main())
