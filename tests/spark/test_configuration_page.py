"""docs/configuration.md is what the jar says."""

from __future__ import annotations

import pathlib
import subprocess

import pyspark

from sparkray.spark.packaging import jar_path

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "configuration.md"


def test_the_page_lists_every_setting_of_the_jar() -> None:
    jars = pathlib.Path(pyspark.__file__).parent / "jars"
    command = ["java", "-cp", f"{jar_path()}:{jars}/*", "org.sparkray.RayConf"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert printed == PAGE.read_text(), f"{' '.join(command)} > {PAGE}"
