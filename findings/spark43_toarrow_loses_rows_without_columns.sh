#!/usr/bin/env bash
# DataFrame.toArrow() of pyspark 4.3.0 forgets how many rows there are when a DataFrame has no columns: count() and
# collect() say 3, toPandas() has 3 rows, toArrow() has none. An Arrow table can have rows without columns. It hurts who
# counts by num_rows after selecting columns by a list that may be empty, and who moves rows between engines by toArrow().
# Fails when that changes. Needs Java 17 or newer and the package index; installs into a temporary folder only.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pyspark==4.3.0 pyarrow==26.0.1 pandas==2.3.3 numpy==2.2.6
cat >"$folder/program.py" <<'PROGRAM'
import pyarrow
import pyspark
from pyspark.sql import SparkSession

spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
spark.sparkContext.setLogLevel("OFF")
frame = spark.range(3).select()
seen = (frame.count(), len(frame.collect()), len(frame.toPandas()), frame.toArrow().num_rows)
spark.stop()
print(f"pyspark {pyspark.__version__}, pyarrow {pyarrow.__version__}")
print("rows of spark.range(3).select() by count, collect, toPandas, toArrow:", seen)
raise SystemExit(0 if seen == (3, 3, 3, 0) else "this has changed: expected (3, 3, 3, 0)")
PROGRAM
cd "$folder" && "$folder/venv/bin/python" program.py 2>"$folder/errors" || { cat "$folder/errors" >&2; exit 1; }
