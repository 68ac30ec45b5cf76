"""How many threads libraries use in a worker: as many as its task or actor has CPUs, at least one (Ray: the same).

Libraries read OMP_NUM_THREADS and its like when they are loaded, so the variables are set before user code imports
them. Those that are loaded already (numpy, which the zygote has imported; what an earlier task has used) are told.
Variables that the user has set stay, and so do their libraries.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

# Names the variables that nobody has set before the node's raylet did.
_VARIABLE = "SPARKRAY_THREAD_VARIABLES"
# The functions of OpenBLAS builds: plain, with 64 bit integers, numpy's own.
_OPENBLAS = (
    "scipy_openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads",
    "openblas_set_num_threads64_",
    "openblas_set_num_threads",
)

_variables: tuple[str, ...] = ()


def begin() -> None:
    """Called once, in the zygote."""
    global _variables
    _variables = tuple(filter(None, os.environ.pop(_VARIABLE, "").split(",")))


def set_threads(count: int) -> None:
    """Lets libraries use `count` threads from now on."""
    for name in _variables:
        os.environ[name] = str(count)
    if "OPENBLAS_NUM_THREADS" in _variables and "OMP_NUM_THREADS" in _variables:
        _tell_openblas(count)
    if "OMP_NUM_THREADS" not in _variables:
        return
    pyarrow = sys.modules.get("pyarrow")
    torch = sys.modules.get("torch")
    with contextlib.suppress(Exception):
        if pyarrow is not None:
            pyarrow.set_cpu_count(count)
    with contextlib.suppress(Exception):
        if torch is not None:
            torch.set_num_threads(count)


def _tell_openblas(count: int) -> None:
    with contextlib.suppress(OSError), open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        paths = {line[line.index("/") :].rstrip("\n") for line in maps if "openblas" in line and "/" in line}
        for path in paths:
            library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
            for name in _OPENBLAS:
                function = getattr(library, name, None)
                if function is not None:
                    function(ctypes.c_int(count))
