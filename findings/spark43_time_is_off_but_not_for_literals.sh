#!/usr/bin/env bash
# Spark 4.3.0 ships with its TIME type turned off (spark.sql.timeType.enabled=false), and refuses it in casts, make_time and
# Parquet. Yet a literal, current_time() and createDataFrame with datetime.time make columns of time(6) all the same, which
# collect() and toArrow() return. It hurts who writes such a frame later: the type error comes at the write, far from the
# place that made the column, and who decides by the switch whether frames can have the type.
# Fails when that changes. Needs Java 17 or newer and the package index; installs into a temporary folder only.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pyspark==4.3.0 pyarrow==26.0.1 pandas==2.3.3 numpy==2.2.6
cat >"$folder/program.py" <<'PROGRAM'
import datetime

import pyspark
from pyspark.sql import SparkSession

spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
spark.sparkContext.setLogLevel("OFF")


def outcome(make):
    try:
        return make()
    except Exception as error:
        return str(error).partition("]")[0].strip("[ ")


literal = spark.sql("select time'12:30:00' as t")
seen = {
    "the switch": spark.conf.get("spark.sql.timeType.enabled"),
    "a literal": outcome(lambda: literal.dtypes[0][1]),
    "createDataFrame": outcome(lambda: spark.createDataFrame([(datetime.time(12, 30),)], ["t"]).dtypes[0][1]),
    "toArrow": outcome(lambda: str(literal.toArrow().schema.field(0).type)),
    "cast": outcome(lambda: spark.sql("select cast('12:30:00' as time) as t").dtypes[0][1]),
    "write": outcome(lambda: literal.write.parquet("written")),
}
spark.stop()
print(f"pyspark {pyspark.__version__}")
for what, found in seen.items():
    print(f"{what}: {found}")
expected = {"the switch": "false", "a literal": "time(6)", "createDataFrame": "time(6)", "toArrow": "time64[ns]"}
unsupported = all("TIME" in str(seen[what]) and "UNSUPPORTED" in str(seen[what]) for what in ("cast", "write"))
changed = {what: found for what, found in expected.items() if seen[what] != found}
raise SystemExit(f"this has changed: expected {changed}" if changed else 0 if unsupported else "cast or write work now")
PROGRAM
cd "$folder" && "$folder/venv/bin/python" program.py 2>"$folder/errors" || { cat "$folder/errors" >&2; exit 1; }
