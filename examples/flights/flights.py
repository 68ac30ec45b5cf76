"""The main job: flights from Spark into objects, a model trained by Ray actors over them, predictions back into Spark.

Three ways to run it:

    python flights.py --master yarn --hadoop-conf /etc/hadoop/conf
    python flights.py --master local-cluster
    python flights.py --master local --fast
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import cloudpickle
import data
import features
import in_spark_tasks
import parameter_server
import pyspark.cloudpickle
import seed_program
from leftovers import Belongings
from pyspark import SparkContext
from pyspark.sql import DataFrame, SparkSession

import ray
import sparkray
from sparkray import RayContext, init_spark_on_local, init_spark_on_yarn

# scikit-learn's logistic regression reaches 0.7266 on the same features (floor.py); less one hundredth.
AUC_FLOOR = 0.7166
# One with --fast, which trains for a quarter of the rounds.
FAST_AUC_FLOOR = 0.70

EXECUTORS = 2
CORES = 2
BLOCK_BYTES = 4 * 1024 * 1024
LEFT_SECONDS = 2.0
# A node reports each second, and sooner when something has changed.
REPORT_SECONDS = 10.0

SPARK_CONF = {
    "spark.sql.shuffle.partitions": "4",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}

# The containers do not have this directory: what runs there travels as code, not as the name of a module.
for module in (in_spark_tasks, parameter_server, seed_program):
    cloudpickle.register_pickle_by_value(module)
# Spark has a cloudpickle of its own.
pyspark.cloudpickle.register_pickle_by_value(in_spark_tasks)


class Clock:
    """Prints each step's name before it and its time after it."""

    def __init__(self) -> None:
        self.times: list[tuple[str, float]] = []

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Times the block."""
        print(f"\n== {name}", flush=True)
        start = time.monotonic()
        yield
        self.times.append((name, time.monotonic() - start))
        print(f"   {self.times[-1][1]:.1f} s", flush=True)

    def print_table(self) -> None:
        """All steps and their sum."""
        for name, seconds in [*self.times, ("all", sum(seconds for _, seconds in self.times))]:
            print(f"  {seconds:6.1f} s  {name}")


def start_spark(master: str, hadoop_conf: str | None = None) -> SparkContext:
    """A SparkContext on ``yarn``, on a ``local-cluster`` of two executor processes, or ``local`` in one JVM."""
    sc: SparkContext
    if master == "yarn":
        hadoop_conf = hadoop_conf or os.environ.get("HADOOP_CONF_DIR")
        if not hadoop_conf:
            raise SystemExit("give --hadoop-conf or set HADOOP_CONF_DIR")
        sc = init_spark_on_yarn(
            hadoop_conf=hadoop_conf,
            num_executors=EXECUTORS,
            executor_cores=CORES,
            executor_memory="1g",
            driver_memory="1g",
            extra_executor_memory_for_ray="1g",
            spark_log_level="ERROR",
            conf=SPARK_CONF,
        )
    elif master == "local":
        sc = init_spark_on_local(cores=EXECUTORS * CORES, memory="1g", spark_log_level="ERROR", conf=SPARK_CONF)
    else:
        executors = {
            "spark.master": f"local-cluster[{EXECUTORS},{CORES},1024]",
            "spark.executor.instances": str(EXECUTORS),
            "spark.executor.cores": str(CORES),
            "spark.executor.memory": "1g",
        }
        sc = init_spark_on_local(memory="1g", spark_log_level="ERROR", conf={**SPARK_CONF, **executors})
    return sc


@contextlib.contextmanager
def working_directory(spark: SparkSession) -> Iterator[str]:
    """A URI for the tables and results: in the user's directory of the cluster's file system, else a local one."""
    java: Any = spark.sparkContext._jvm
    file_system = java.org.apache.hadoop.fs.FileSystem.get(spark.sparkContext._jsc.hadoopConfiguration())
    if file_system.getScheme() != "file":
        yield f"{file_system.getHomeDirectory().toString()}/sparkray-flights"
        return
    directory = tempfile.mkdtemp(prefix="sparkray-flights-")
    try:
        yield f"file://{directory}"
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def make_features(spark: SparkSession, directory: str) -> DataFrame:
    """The features of all flights, kept in the executors' memory."""
    rows = features.flight_features(spark, f"{directory}/tables").cache()
    count = rows.count()
    print(f"   {count:,} flights, {len(rows.columns)} columns, {rows.rdd.getNumPartitions()} partitions")
    if count != data.FLIGHTS:
        raise SystemExit(f"expected {data.FLIGHTS:,} flights: a join lost or doubled some")
    return rows


def ask_in_spark_tasks(rows: DataFrame) -> None:
    """Has tasks of Spark put and call, and shows what came out."""
    counted = in_spark_tasks.late_by_airport(rows).orderBy("origin_code").collect()
    for row in counted:
        name = features.AIRPORTS[row.origin_code]
        print(f"   {name}: {row.flights:,} flights that arrived, {row.late / row.flights:.3f} of them late")
    arrived = rows.where("label is not null").count()
    if sum(row.flights for row in counted) != arrived:
        raise SystemExit(f"expected {arrived:,} flights in all: a partition was lost or counted twice")


def print_stores() -> None:
    """The bytes in each node's object store."""
    asked = {node["NodeID"]: node["ReportCount"] for node in sparkray.nodes()}
    deadline = time.monotonic() + REPORT_SECONDS
    while True:
        # The figures come with the nodes' reports: those of now come with the next one.
        nodes = [node for node in sparkray.nodes() if node["Alive"]]
        if all(node["ReportCount"] > asked.get(node["NodeID"], 0) for node in nodes):
            break
        if time.monotonic() > deadline:
            raise SystemExit(f"not every node has reported within {REPORT_SECONDS} s")
        time.sleep(0.02)
    for node in nodes:
        used = node["ObjectStore"]["used_bytes"]
        address = node.get("NodeManagerAddress", "")
        print(f"   node {node['NodeID'][:8]} on {address}: {used / 1e6:.1f} MB in the object store")


def train_and_score(blocks: Sequence[Any], fast: bool = False) -> list[Any]:
    """Trains, scores every flight, checks the area under the curve; returns references to the predictions."""
    plan = parameter_server.Plan(servers=EXECUTORS, workers=EXECUTORS, rounds=100 if fast else 400)
    columns = (features.NUMBERS, features.CATEGORIES)
    model = parameter_server.train(
        blocks, columns, plan, lambda number, loss: print(f"   round {number:3d} of {plan.rounds}: loss {loss:.4f}")
    )
    predictions, area = parameter_server.score(blocks, model)
    floor = FAST_AUC_FLOOR if fast else AUC_FLOOR
    print(f"   AUC {area:.4f} on flights not trained on (at least {floor:.4f} expected)")
    if area < floor:
        raise SystemExit(f"the model is worse than it should be: AUC {area:.4f}, expected {floor:.4f}")
    return predictions


def save_summary(spark: SparkSession, predictions: DataFrame, directory: str) -> None:
    """Writes the predictions and their summary as Parquet, and shows the summary's first airlines."""
    predictions.write.mode("overwrite").parquet(f"{directory}/predictions")
    summary = features.summarise(spark, spark.read.parquet(f"{directory}/predictions"))
    summary.write.mode("overwrite").parquet(f"{directory}/summary")
    summary = spark.read.parquet(f"{directory}/summary").orderBy("predicted", ascending=False)
    rows = summary.collect()
    print(f"   {sum(row.flights for row in rows):,} predictions and their summary are in {directory}")
    for row in rows[:5]:
        rates = f"late: {row.predicted:.3f} predicted, {row.late:.3f} real"
        print(f"   {row['name']:<28} {row.flights:>7,} flights, {rates}")


def stop_and_check(context: RayContext) -> None:
    """Stops the Ray cluster and looks for what it may have left on this machine."""
    cluster_id = str(context.cluster_id)
    had = Belongings.find(cluster_id)
    here = [node for node in sparkray.nodes() if node["Alive"] and node["NodeManagerHostname"] == socket.gethostname()]
    if not {node["Pid"] for node in here} <= had.processes.keys() or not had.memory or not had.ports:
        raise SystemExit(
            f"not all of cluster {cluster_id} was found before stop(): the check would show nothing: {had}"
        )
    context.stop()
    left = had.wait_until_gone(cluster_id, LEFT_SECONDS)
    if left:
        raise SystemExit("left after stop():\n" + "\n".join(left))
    print(f"   stopped: cluster {cluster_id} had {len(had.processes)} processes, {len(had.ports)} open ports")
    print(f"   and {len(had.memory)} pieces of shared memory on this machine; nothing is left")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs every step and prints how long each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--master", choices=["yarn", "local-cluster", "local"], default="yarn")
    parser.add_argument("--hadoop-conf", help="the cluster's configuration; HADOOP_CONF_DIR when not given")
    parser.add_argument("--fast", action="store_true", help="train for a quarter of the rounds")
    options = parser.parse_args(arguments)

    clock = Clock()
    with clock.step(f"Spark on {options.master}, {EXECUTORS} executors"):
        spark = SparkSession(start_spark(options.master, options.hadoop_conf))
    try:
        with working_directory(spark) as directory:
            run(spark, directory, clock, options.fast)
    finally:
        spark.stop()
    print()
    clock.print_table()


def run(spark: SparkSession, directory: str, clock: Clock, fast: bool) -> None:
    """The job itself, on a Spark that is up."""
    with clock.step(f"the flights as Parquet in {directory}"):
        data.put(spark, f"{directory}/tables")
    with clock.step("Spark SQL joins weather and planes and makes features"):
        rows = make_features(spark, directory)
    with clock.step("RayContext.init()"):
        context = RayContext(spark.sparkContext, object_store_memory="256m")
        context.init()
    try:
        with clock.step("the TestRay program, through `import ray`"):
            # The line that every published Ray program has: it joins the cluster that runs.
            joined = ray.init()
            print(f"   ray.init() joined cluster {joined['cluster_id']}")
            seed_program.main(EXECUTORS)
        with clock.step("Ray calls inside Spark's tasks: they put their rows, and Ray tasks count the late flights"):
            ask_in_spark_tasks(rows)
        with clock.step("from_spark: the features as Arrow blocks in the executors' shared memory"):
            blocks = sparkray.from_spark(rows, max_block_bytes=BLOCK_BYTES)
            print(f"   {len(blocks)} blocks")
            print_stores()
        with clock.step("a sharded parameter server trains by SGD over the blocks"):
            references = train_and_score(blocks, fast)
        with clock.step("to_spark: predictions as a DataFrame, summary by Spark SQL, Parquet"):
            save_summary(spark, sparkray.to_spark(references, spark), directory)
            print_stores()
    except BaseException:
        context.stop()
        raise
    with clock.step("RayContext.stop()"):
        stop_and_check(context)


if __name__ == "__main__":
    main()
