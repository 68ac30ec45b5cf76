"""What of a Python environment goes to the executors: what is left out, and what they could not use."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re

_EXCLUDED_NAMES = frozenset({"__pycache__", ".git", ".mypy_cache", ".pytest_cache", ".ipynb_checkpoints"})
# Below site-packages. YARN gets Spark's jars by another way; work and logs are what Spark's own daemons leave behind,
# also those of the master local-cluster, with a copy of every jar; the rest is large and not for running programs.
_EXCLUDED_PACKAGE_PATHS = frozenset(
    {
        *("pyspark/jars", "pyspark/work", "pyspark/logs", "pyspark/examples", "pyspark/data", "pyspark/tests"),
        *("pyarrow/include", "pyarrow/src"),
    }
)
# In these packages nothing imports the folders that are called tests.
_PACKAGES_WITHOUT_TESTS = frozenset({"matplotlib", "networkx", "numpy", "pandas", "pyarrow", "scipy", "sklearn"})


def find_site_packages(root: pathlib.Path) -> list[pathlib.Path]:
    """The folders of installed packages of an environment."""
    return sorted(root.glob("lib/python*/site-packages"))


def is_excluded(path: str, name: str, site_packages: list[str]) -> bool:
    """Whether a file or folder is left out, given its path in the environment, its name and the folders of packages."""
    if name in _EXCLUDED_NAMES:
        return True
    for directory in site_packages:
        if not path.startswith(directory + "/"):
            continue
        inside = path[len(directory) + 1 :]
        package = inside.partition("/")[0]
        return inside in _EXCLUDED_PACKAGE_PATHS or (name == "tests" and package in _PACKAGES_WITHOUT_TESTS)
    return False


def exclusion_patterns(site_packages: list[str]) -> list[str]:
    """The same as patterns of ``fnmatch`` for the paths of files and of empty folders, where ``*`` stands for slashes
    too."""
    patterns = [f"*/{name}{below}" for name in sorted(_EXCLUDED_NAMES) for below in ("", "/*")]
    for directory in site_packages:
        patterns += [f"{directory}/{path}{below}" for path in sorted(_EXCLUDED_PACKAGE_PATHS) for below in ("", "/*")]
        for package in sorted(_PACKAGES_WITHOUT_TESTS):
            patterns += [f"{directory}/{package}/tests/*", f"{directory}/{package}/*/tests/*"]
    return patterns


def find_editable(root: pathlib.Path) -> list[str]:
    """The packages of an environment that are only links to somewhere outside of it, sorted by name."""
    found = set()
    for site_packages in find_site_packages(root):
        for path in site_packages.glob("*.dist-info/direct_url.json"):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                if json.loads(path.read_text()).get("dir_info", {}).get("editable"):
                    found.add(path.parent.name.split("-")[0])
        for path in site_packages.glob("*.egg-link"):
            found.add(path.stem)
        for path in site_packages.glob("*.pth"):
            for line in path.read_text(errors="replace").splitlines():
                if os.path.isabs(line.strip()) and root not in pathlib.Path(line.strip()).parents:
                    found.add(re.sub(r"^__editable__\.|-[\d.]+$", "", path.stem))
    return sorted(found)
