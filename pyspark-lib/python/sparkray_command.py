"""The command `sparkray`, also as `python -m sparkray_command`.

It stands beside the package, whose import loads the native module: that may be the very thing that does not work, and
`sparkray doctor` is there to say why.
"""

from __future__ import annotations

import importlib.util
import sys


def main() -> int:
    """Runs the command line.

    Returns:
        The exit status.
    """
    spec = importlib.util.find_spec("sparkray")
    if spec is not None and "sparkray" not in sys.modules:
        # The package without what its __init__ imports.
        sys.modules["sparkray"] = importlib.util.module_from_spec(spec)
    from sparkray._private import command_line

    return command_line.main()


if __name__ == "__main__":
    sys.exit(main())
