#!/usr/bin/env bash
# spark-submit of pip's pyspark 4.3.0 cannot start when PYSPARK_PYTHON names the interpreter of an archive, as Spark's page on
# Python packages has it for cluster mode (PYSPARK_PYTHON=./environment/bin/python, PYSPARK_DRIVER_PYTHON not set): the script
# that looks for Spark's home runs that interpreter here, where the archive is not unpacked, goes on with an empty home, and
# ends with "/bin/spark-class: No such file". It hurts who submits to YARN in cluster mode from a virtual environment: what
# fails is on his machine, before anything is submitted. It works where SPARK_HOME is set, and with
# --conf spark.yarn.appMasterEnv.PYSPARK_PYTHON=./environment/bin/python instead of the variable.
# Fails when that changes. Needs Java 17 or newer and the package index; installs into a temporary folder only.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pyspark==4.3.0
export PATH="$folder/venv/bin:$PATH"
unset SPARK_HOME PYSPARK_PYTHON PYSPARK_DRIVER_PYTHON
cd "$folder"
failed=0

# look WHAT EXPECTED [VARIABLE=VALUE ...]: what `spark-submit --version` does with these variables.
look() {
  what=$1 expected=$2
  shift 2
  code=0
  env "$@" spark-submit --version >output 2>&1 || code=$?
  if grep -q 'version 4.3.0' output; then seen=starts; else seen="ends with $code"; fi
  printf '%s: %s\n' "$what" "$seen"
  [ "$seen" = starts ] || grep -o 'environment/bin/python: No such file.*\|/bin/spark-class: No such file.*' output | sed 's/^/    /'
  [ "$seen" = "$expected" ] || failed=1
}

executors=PYSPARK_PYTHON=./environment/bin/python
printf 'pyspark %s\n' "$(python -c 'import pyspark; print(pyspark.__version__)')"
look 'no variable' starts
look 'PYSPARK_PYTHON of the archive' 'ends with 127' "$executors"
look 'PYSPARK_DRIVER_PYTHON beside it' starts "$executors" PYSPARK_DRIVER_PYTHON=python
look 'SPARK_HOME beside it' starts "$executors" \
  SPARK_HOME="$(python -c 'import os, pyspark; print(os.path.dirname(pyspark.__file__))')"
[ $failed -eq 0 ] || { echo 'this has changed'; exit 1; }
