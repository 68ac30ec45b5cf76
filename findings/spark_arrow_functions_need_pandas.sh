#!/usr/bin/env bash
# DataFrame.mapInArrow and GroupedData.applyInArrow of pyspark 4.3.0 take and give Arrow batches only, and are an ImportError
# of pandas where that is not installed: they are made by pandas_udf, which asks for it first. DataFrame.toArrow, and
# createDataFrame of an Arrow table, work without. It hurts who keeps an environment small that is shipped to executors:
# with pyarrow alone, which is what these methods are for, they cannot be used, and pandas has to go along. (pyspark 3.5.9 has
# the same in mapInArrow.)
# Fails when that changes. Needs Java 17 or newer and the package index; installs into a temporary folder only.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pyspark==4.3.0 pyarrow==25.0.1
cat >"$folder/program.py" <<'PROGRAM'
import importlib.util

import pyarrow
import pyspark
from pyspark.sql import SparkSession

assert importlib.util.find_spec("pandas") is None
spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
spark.sparkContext.setLogLevel("OFF")
frame = spark.range(3)


def same(batches):
    yield from batches


uses = {
    "toArrow": lambda: frame.toArrow().num_rows,
    "createDataFrame of a table": lambda: spark.createDataFrame(pyarrow.table({"id": [1, 2]})).count(),
    "mapInArrow": lambda: frame.mapInArrow(same, "id long").count(),
    "applyInArrow": lambda: frame.groupBy("id").applyInArrow(lambda table: table, "id long").count(),
}
seen = {}
print(f"pyspark {pyspark.__version__}, pyarrow {pyarrow.__version__}, no pandas")
for name, use in uses.items():
    try:
        seen[name] = use()
    except ImportError as error:
        seen[name] = str(error).splitlines()[0]
    print(f"{name}: {seen[name]}")
spark.stop()
lacking = [name for name, outcome in seen.items() if "Pandas >= 2.2.0 must be installed" in str(outcome)]
others = [seen["toArrow"], seen["createDataFrame of a table"]]
raise SystemExit(0 if (lacking, others) == (["mapInArrow", "applyInArrow"], [3, 2]) else "this has changed")
PROGRAM
cd "$folder" && "$folder/venv/bin/python" program.py 2>"$folder/errors" || { cat "$folder/errors" >&2; exit 1; }
