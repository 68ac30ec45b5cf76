"""What the packages `zoo` and `bigdl` of this wheel are made of: RayOnSpark's old names on top of sparkray.

`zoo` and `bigdl` only give these functions and classes under the paths where programs look for them. Neither can share
an environment with Analytics Zoo or BigDL.
"""

from __future__ import annotations

from importlib import metadata

from sparkray_zoo_compat.missing import explain_missing_modules

# Distributions that have files at the paths where this one has them.
_ORIGINALS = (
    "analytics-zoo",
    "bigdl",
    *(f"bigdl-{part}{spark}" for part in ("dllib", "orca") for spark in ("", "-spark2", "-spark3")),
)


def _refuse_originals() -> None:
    """Both put files into the same folders; whichever came last has overwritten the other's."""
    found = []
    for name in _ORIGINALS:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    if found:
        names = " ".join(entry.split()[0] for entry in found)
        raise ImportError(
            f"{', '.join(found)} and sparkray-zoo-compat are installed in one environment, and both provide `zoo` or "
            f"`bigdl`: uninstall both with `pip uninstall {names} sparkray-zoo-compat`, then install the one that you "
            "want"
        )


_refuse_originals()
explain_missing_modules()
