"""Two models trained at once from Spark's own tasks: each puts the data, has a Ray task train, and gives a row back.

Spark prepares the data, Ray trains, and the models are rows of a DataFrame, written as Parquet. The code in `train`
runs in Python workers of Spark's executors; `ray_train` runs in the Ray workers beside them.

    python train_in_spark_tasks.py --master local-cluster --output /tmp/models
    python train_in_spark_tasks.py --master yarn --hadoop-conf /etc/hadoop/conf --output hdfs:///user/me/models
"""

from __future__ import annotations

import argparse
import base64
import os
import pickle
from typing import Any

import numpy as np
from pyspark import SparkContext
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql.types import StringType, StructField, StructType

import ray
from sparkray import RayContext, init_spark_on_local, init_spark_on_yarn

ROWS = 2000
FEATURES = 4
MODELS = ["BAYES", "SVM"]
SCHEMA = StructType([StructField("modelType", StringType()), StructField("modelBinary", StringType())])


def make_rows(spark: SparkSession) -> DataFrame:
    """Points around two centres, and on which side each is."""
    random = np.random.default_rng(7)
    labels = random.integers(0, 2, ROWS)
    points = random.normal(size=(ROWS, FEATURES)) + 2.0 * labels[:, None]
    return spark.createDataFrame(
        [([float(value) for value in point], int(label)) for point, label in zip(points, labels, strict=True)],
        "features array<double>, label int",
    )


def train_models(spark: SparkSession, rows: DataFrame) -> DataFrame:
    """A row for each model: its kind, and the pickled model as text."""
    collected = spark.sparkContext.broadcast(rows.collect())

    def train(wanted: Row) -> list[str]:
        ray.init(ignore_reinit_error=True)
        train_data = ray.put(collected.value)

        @ray.remote
        def ray_train(kind: str) -> str:
            points = np.array([row["features"] for row in ray.get(train_data)])
            labels = np.array([row["label"] for row in ray.get(train_data)])
            model: dict[str, Any]
            if kind == "BAYES":
                # Gaussian naive Bayes: a mean and a variance for each class and feature.
                model = {
                    "mean": np.stack([points[labels == label].mean(axis=0) for label in (0, 1)]),
                    "variance": np.stack([points[labels == label].var(axis=0) for label in (0, 1)]),
                }
            else:
                # A linear support vector machine, by the subgradient of its hinge loss.
                signs = 2 * labels - 1
                weights, bias = np.zeros(points.shape[1]), 0.0
                for step in range(1, 301):
                    inside = signs * (points @ weights + bias) < 1
                    weights += (signs[inside] @ points[inside] / len(points) - 0.01 * weights) / np.sqrt(step)
                    bias += signs[inside].sum() / len(points) / np.sqrt(step)
                model = {"weights": weights, "bias": bias}
            return base64.b64encode(pickle.dumps(model)).decode()

        return [wanted["model"], ray.get(ray_train.remote(wanted["model"]))]

    wanted = spark.createDataFrame([[name] for name in MODELS], ["model"]).repartition(len(MODELS))
    return spark.createDataFrame(wanted.rdd.map(train), SCHEMA)


def predict(kind: str, text: str, points: np.ndarray) -> np.ndarray:
    """On which side a model sees points: 0 or 1 for each."""
    model = pickle.loads(base64.b64decode(text))
    if kind == "SVM":
        return (points @ model["weights"] + model["bias"] > 0).astype(int)
    spread = model["variance"][:, None, :]
    distance = (points[None] - model["mean"][:, None, :]) ** 2 / spread + np.log(spread)
    nearest: np.ndarray = distance.sum(axis=2).argmin(axis=0)
    return nearest


def report(rows: DataFrame, models: DataFrame) -> dict[str, float]:
    """How many of the rows each model sees on the right side, as a share of all."""
    collected = rows.collect()
    points = np.array([row["features"] for row in collected])
    labels = np.array([row["label"] for row in collected])
    return {
        row["modelType"]: float((predict(row["modelType"], row["modelBinary"], points) == labels).mean())
        for row in models.collect()
    }


def start_spark(master: str, hadoop_conf: str | None) -> SparkContext:
    """Two executors: containers on YARN, or processes of this machine."""
    sc: SparkContext
    if master == "yarn":
        sc = init_spark_on_yarn(
            hadoop_conf=hadoop_conf or os.environ["HADOOP_CONF_DIR"],
            num_executors=2,
            executor_cores=1,
            executor_memory="1g",
            extra_executor_memory_for_ray="1g",
        )
    else:
        sc = init_spark_on_local(memory="1g", conf={"spark.master": "local-cluster[2,1,1024]"})
    return sc


def main() -> None:
    """Trains, writes, reads back, and says how good the models are."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--master", choices=["yarn", "local-cluster"], default="local-cluster")
    parser.add_argument("--hadoop-conf")
    parser.add_argument("--output", required=True, help="directory of the Parquet files, as Spark names it")
    options = parser.parse_args()
    spark = SparkSession(start_spark(options.master, options.hadoop_conf))
    with RayContext(spark, object_store_memory="128m"):
        rows = make_rows(spark)
        train_models(spark, rows).write.format("parquet").mode("overwrite").save(options.output)
        for name, share in report(rows, spark.read.parquet(options.output)).items():
            print(f"{name}: {share:.3f} of the rows on the right side")
    spark.stop()


if __name__ == "__main__":
    main()
