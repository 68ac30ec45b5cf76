"""A conda environment made by hand, in the form that conda documents: a package cache, links to it, and records."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import sys
import sysconfig

import sparkray

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
SITE_PACKAGES = f"lib/python{VERSION}/site-packages"


class CondaPrefix:
    """An environment with a Python that runs, installed as conda does it.

    Arguments:
        directory: where the environment and its package cache are made.
        name: name of the environment.
    """

    def __init__(self, directory: pathlib.Path, name: str = "zoo") -> None:
        self._directory = directory / "conda"
        self.root = directory / "conda" / "envs" / name
        self.cache = directory / "conda" / "pkgs"
        (self.root / "conda-meta").mkdir(parents=True)
        (self.root / "conda-meta" / "history").touch()
        (self.root / "conda-meta" / "history").write_text("")
        (self.root / SITE_PACKAGES).mkdir(parents=True)
        python = self.cache / "python-package" / "bin"
        python.mkdir(parents=True)
        shutil.copy(os.path.realpath(sys.executable), python / f"python{VERSION}")
        (python / "python").symlink_to(f"python{VERSION}")
        self._link("python", f"{VERSION}.0", ["bin/python", f"bin/python{VERSION}"])
        # In the place of the standard library: too large to be copied for a test.
        for path in pathlib.Path(sysconfig.get_path("stdlib")).iterdir():
            if path.name not in ("site-packages", "__pycache__"):
                (self.root / f"lib/python{VERSION}" / path.name).symlink_to(path)

    def install(self, name: str, files: dict[str, str]) -> None:
        """As ``conda install``: texts by their paths in the environment."""
        for path, text in files.items():
            cached = self.cache / f"{name}-package" / path
            cached.parent.mkdir(parents=True, exist_ok=True)
            cached.write_text(text)
        self._link(name, "1.0", list(files))

    def write(self, path: str, text: str) -> None:
        """As pip does: a file of the environment that conda does not know, or in the place of one that it does."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(text)

    def link_packages(self) -> None:
        """As pip does with all packages that run here; in the place of copies, which are too large for a test."""
        packages = self.root / SITE_PACKAGES
        (packages / "sparkray").symlink_to(pathlib.Path(sparkray.__file__).parent)
        for path in pathlib.Path(sysconfig.get_path("purelib")).iterdir():
            # Others may have installed this tree's own package in editable mode.
            if not path.name.startswith(("sparkray", "__pycache__")) and path.suffix != ".pth":
                (packages / path.name).symlink_to(path)

    def program(self) -> str:
        """Path of a program in the place of conda, which tells where its environments are: a value for CONDA_EXE."""
        path = self._directory / "conda-program"
        answer = json.dumps({"envs": [str(self._directory), str(self.root)], "default_prefix": str(self.root)})
        path.write_text(f"#!/bin/sh\ntest \"$1 $2\" = 'info --json' && echo '{answer}'\n")
        path.chmod(0o755)
        return str(path)

    def _link(self, name: str, version: str, files: list[str]) -> None:
        package = self.cache / f"{name}-package"
        (package / "info").mkdir()
        paths = [{"_path": path, "path_type": "hardlink"} for path in files]
        (package / "info" / "paths.json").write_text(json.dumps({"paths": paths, "paths_version": 1}))
        for path in files:
            installed = self.root / path
            installed.parent.mkdir(parents=True, exist_ok=True)
            os.link(package / path, installed, follow_symlinks=False)
        record = {
            "name": name,
            "version": version,
            "url": f"https://conda.example/{name}",
            "files": files,
            "link": {"source": str(package), "type": 1},
        }
        (self.root / "conda-meta" / f"{name}-{version}-0.json").write_text(json.dumps(record))
