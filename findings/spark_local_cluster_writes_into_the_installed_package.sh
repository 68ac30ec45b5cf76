#!/usr/bin/env bash
# Spark's master local-cluster[...], with pip's pyspark 4.3.0, makes its executors' directories inside the installed package
# (site-packages/pyspark/work), puts a copy of every jar of the application into each, and never removes them: not when
# the application ends, not when Java does. venv-pack then ships all of it. It hurts who tests on local-cluster and ships the
# same environment to YARN: the archive grows with every run, and is another one each time.
# Fails when that changes. Needs Java 17 or newer and the package index; installs into a temporary folder only.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# venv-pack needs pkg_resources, which newer setuptools no longer have.
"$folder/venv/bin/pip" install -q pyspark==4.3.0 venv-pack==0.2.0 setuptools==80.9.0
cat >"$folder/program.py" <<'PROGRAM'
import pathlib
import sys
import tarfile

import pyspark
import venv_pack

package = pathlib.Path(pyspark.__file__).parent
pathlib.Path("mine.jar").write_bytes(b"PK\x05\x06" + bytes(18))  # The empty archive.


def run():
    conf = pyspark.SparkConf().setMaster("local-cluster[2,1,1024]").set("spark.ui.enabled", "false")
    conf = conf.set("spark.scheduler.minRegisteredResourcesRatio", "1.0")
    context = pyspark.SparkContext(conf=conf.set("spark.jars", "mine.jar").set("spark.executor.memory", "512m"))
    context.setLogLevel("OFF")
    context.parallelize(range(100), 8).count()
    context.stop()
    java = context._gateway.proc
    context._gateway.shutdown()
    java.stdin.close()
    java.wait()
    pyspark.SparkContext._gateway = pyspark.SparkContext._jvm = None
    venv_pack.pack(sys.prefix, output="env.tar.gz", force=True)
    with tarfile.open("env.tar.gz") as tar:
        packed = [name for name in tar.getnames() if "pyspark/work/app-" in name and name.endswith("mine.jar")]
    return len(list((package / "work").glob("app-*/*/mine.jar"))), len(packed)


print(f"pyspark {pyspark.__version__}, venv-pack {venv_pack.__version__}")
seen = [run(), run()]
for copies, packed in seen:
    print(f"copies of the jar in site-packages/pyspark/work: {copies}, in the packed environment: {packed}")
raise SystemExit(0 if seen == [(2, 2), (4, 4)] else "this has changed: expected two more copies after each application")
PROGRAM
cd "$folder" && "$folder/venv/bin/python" program.py 2>"$folder/errors" || { cat "$folder/errors" >&2; exit 1; }
