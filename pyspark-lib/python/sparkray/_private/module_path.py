"""Where modules come from: what the driver imports, the worker imports.

The driver describes its `sys.path` (`describe`), a list in its order, of which the interpreter's own directories are
said relative to the interpreter, which may be another copy elsewhere. A worker's interpreter makes its own list of it
(`resolve`): the same list, then directories of its own interpreter that are missing. Paths that do not exist there are
harmless.

The zygote imports what every worker needs with the standard library ahead of everything (`prepare`), so that no module
of the user takes the place of a standard one there; everything else is found in the driver's order, so that packages
have the driver's versions. Then it takes the driver's list as it is (`take`), and forgets standard modules that a
directory of the user's stands in front of.

Invariants: this file needs nothing but the standard library, because the zygote runs it before it can find sparkray;
the environment variables below reach no worker.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.machinery
import json
import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from typing import Any

# What `describe` made.
VARIABLE = "SPARKRAY_MODULE_PATH"
# Directory of the package sparkray, when it is none of the interpreter's.
PACKAGE_VARIABLE = "SPARKRAY_PACKAGE_PATH"
# PYTHONPATH as the zygote's workers are to have it; the zygote itself starts without (runtime/common/python_start.rs).
PYTHONPATH_VARIABLE = "SPARKRAY_PYTHONPATH"

_SITE_NAMES = frozenset({"site-packages", "dist-packages"})

# [how, text]: "prefix" and "base": below the environment or its base interpreter; "path": as it is.
# ["files", text, directory]: below the directory in which Spark's files are on the driver's machine.
# ["standard", name]: no place, but a module that the driver has from the standard library although its path has another
# one of that name.
Entry = Sequence[str]


@dataclasses.dataclass
class Taken:
    """What this process finds modules by."""

    path: list[str]
    # Of the entries that it was made of.
    digest: bytes
    # What comes after the driver's: directories of this interpreter and its PYTHONPATH.
    own: list[str]
    # Standard modules that stay what they are.
    kept: frozenset[str] = frozenset()


# Of a worker, from the zygote on.
taken = Taken([], b"", [])


def digest_of(entries: Sequence[Entry], files: str = "") -> bytes:
    """Tells entries, and the contents of Spark's files, from others; 16 bytes."""
    text = json.dumps([[list(entry) for entry in entries], files])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def describe(path: Iterable[Any], files_root: str | None = None) -> list[Entry]:
    """A `sys.path` for other processes, in its order.

    Args:
        path: of this interpreter.
        files_root: the directory of Spark's files in this process.
    """
    standard = _standard_directories()
    entries: list[Entry] = []
    for entry in path:
        if not isinstance(entry, str):  # the import system leaves out others too
            continue
        absolute = _absolute(entry)
        if absolute is None:
            continue
        if files_root is not None and _is_below(absolute, files_root):
            found: Entry = ["files", os.path.relpath(absolute, files_root), files_root]
        elif absolute in standard or is_installed(absolute):
            # Installed packages put directories of their own there too.
            found = _of_interpreter(absolute)
        else:
            found = ["path", absolute]
        if found not in entries:
            entries.append(found)
    names = _shadowing_names(_ahead_of(standard, path)) & sys.modules.keys()
    return entries + [["standard", name] for name in sorted(names) if _is_standard(name, standard)]


def environment(entries: Sequence[Entry]) -> dict[str, str]:
    """Variables for a node's processes from which its zygote takes the driver's path."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    variables = {VARIABLE: json.dumps(list(entries))}
    if os.path.basename(package) not in _SITE_NAMES or not _is_below(package, sys.prefix):
        variables[PACKAGE_VARIABLE] = package
    return variables


def resolve(entries: Iterable[Entry], own: Iterable[str], files_root: str | None = None) -> list[str]:
    """The `sys.path` of this interpreter for the driver's.

    Args:
        entries: what `describe` gave.
        own: the path that this interpreter began with.
        files_root: where Spark's files are here when the driver's own directory cannot be read; None: nowhere.
    """
    path: list[str] = []
    for how, text, *directory in entries:
        if how == "standard":
            continue
        root: str | None = os.getcwd()
        if how == "files":
            root = directory[0] if has_files(directory[0]) else files_root
        elif how != "path":
            root = sys.prefix if how == "prefix" else sys.base_prefix
        if root is not None:
            path.append(os.path.normpath(os.path.join(root, text)))
    return list(dict.fromkeys([*path, *own]))


def is_installed(file: str) -> bool:
    """Whether a file lies among installed packages."""
    return not _SITE_NAMES.isdisjoint(file.split(os.sep))


def has_files(directory: str) -> bool:
    """Whether the driver's directory of Spark's files is one of this machine that this process may read."""
    return os.path.isdir(directory) and os.access(directory, os.R_OK | os.X_OK)


def prepare(own: list[str]) -> Taken:
    """Has `sys.path` find what the zygote needs: called once in it, before anything of sparkray is imported.

    Args:
        own: the path that this interpreter began with.

    Returns:
        What workers begin with.
    """
    given = json.loads(os.environ.pop(VARIABLE, "null"))
    entries: list[Entry] = describe(own) if given is None else given
    os.environ.pop(PACKAGE_VARIABLE, None)
    python_path = os.environ.pop(PYTHONPATH_VARIABLE, "")
    if python_path:
        os.environ["PYTHONPATH"] = python_path
    inherited = [os.path.abspath(entry) for entry in python_path.split(os.pathsep) if entry]
    last = [*own, *inherited]
    path = resolve(entries, last)
    for entry in path:
        if entry not in own and entry == _user_site():
            site.addsitedir(entry)  # its .pth files may make modules importable in ways of their own
    standard = _standard_directories()
    sys.path[:] = [entry for entry in path if entry in standard] + [entry for entry in path if entry not in standard]
    _import_customization(inherited)
    for how, name, *_ in entries:
        if how == "standard":
            with contextlib.suppress(ImportError):  # the driver's interpreter has more
                importlib.import_module(name)
    kept = frozenset(name for how, name, *_ in entries if how == "standard")
    return Taken(path, digest_of(entries), last, kept)


def take(prepared: Taken) -> None:
    """From now on modules are found as the driver finds them. Standard modules that this process has imported, and
    that the driver would find elsewhere, are forgotten: user code imports its own."""
    path = prepared.path
    taken.path, taken.digest, taken.own = list(path), prepared.digest, list(prepared.own)
    sys.path[:] = path
    standard = _standard_directories()
    names = {name.partition(".")[0] for name in sys.modules} - _STARTED_WITH - prepared.kept
    for name in names & _shadowing_names(_ahead_of(standard, path)):
        if not _is_standard(name, standard):
            continue
        for known in [known for known in sys.modules if known.partition(".")[0] == name]:
            del sys.modules[known]


# What the interpreter itself needs; a driver has the standard ones of these too.
_STARTED_WITH = frozenset({"__main__", "builtins", "sys", "os", "site", "io", "abc", "codecs", "encodings", "types"})


def _ahead_of(standard: frozenset[str], path: Iterable[Any]) -> list[str]:
    """What a module is looked for in before the standard library."""
    ahead: list[str] = []
    for entry in path:
        if isinstance(entry, str):
            if entry in standard:
                break
            absolute = _absolute(entry)
            if absolute is not None:
                ahead.append(absolute)
    return ahead


def _absolute(entry: str) -> str | None:
    """None: it is relative to a working directory that was deleted, where nothing can be found."""
    try:
        return os.path.abspath(entry)
    except FileNotFoundError:
        return None


def _is_standard(name: str, standard: frozenset[str]) -> bool:
    """Whether a module that is imported came from the standard library's directories."""
    origin = getattr(getattr(sys.modules.get(name), "__spec__", None), "origin", None)
    return isinstance(origin, str) and any(_is_below(origin, entry) for entry in standard)


def _shadowing_names(directories: Iterable[str]) -> set[str]:
    """Modules and packages at the top of directories."""
    suffixes = tuple(importlib.machinery.all_suffixes())
    names: set[str] = set()
    for directory in directories:
        try:
            children = os.listdir(directory)
        except OSError:  # not here, or an archive
            continue
        for child in children:
            if child.endswith(suffixes):
                names.add(child.partition(".")[0])
            elif os.path.exists(os.path.join(directory, child, "__init__.py")):
                names.add(child)
    return names


def take_later(path: Sequence[str], digest: bytes) -> None:
    """The driver's path has changed since. What user code has added to the path of this process itself stays."""
    added = [entry for entry in sys.path if entry not in taken.path and entry not in path]
    taken.path, taken.digest = list(path), digest
    sys.path[:] = [*path, *added]


def _import_customization(python_path: list[str]) -> None:
    """A `sitecustomize` in PYTHONPATH, which the driver's interpreter has run at its start."""
    name = "sitecustomize"
    if name not in sys.modules and importlib.machinery.PathFinder.find_spec(name, python_path) is not None:
        try:
            __import__(name)
        except Exception as error:
            print(f"{name} in PYTHONPATH failed: {type(error).__name__}: {error}", file=sys.stderr)


def _standard_directories() -> frozenset[str]:
    """Where the standard library is, as `sys.path` says it."""
    version = sys.version_info
    found: set[str] = set()
    for name in ("stdlib", "platstdlib"):
        directory = sysconfig.get_path(name)
        found |= {directory, os.path.join(directory, "lib-dynload")}
        found.add(os.path.join(os.path.dirname(directory), f"python{version.major}{version.minor}.zip"))
    return frozenset(found)


def _user_site() -> str | None:
    return site.getusersitepackages() if site.ENABLE_USER_SITE else None


def _of_interpreter(entry: str) -> Entry:
    user_site = _user_site()
    is_user = user_site is not None and _is_below(entry, user_site)
    for how, root in (("prefix", sys.prefix), ("base", sys.base_prefix)):
        if not is_user and _is_below(entry, root):
            return [how, os.path.relpath(entry, root)]
    return ["path", entry]


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)
