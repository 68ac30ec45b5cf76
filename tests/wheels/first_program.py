"""What a new user tries first, run in an environment that has only the wheel with its extra `spark`."""

import os
import sys

import sparkray
from sparkray.spark import RayContext, init_spark_on_local


@sparkray.remote
def double(table):
    """Twice the numbers, and in which process."""
    import pyarrow
    import pyarrow.compute

    ids = pyarrow.compute.multiply(table["id"], 2)
    return pyarrow.table({"id": ids, "pid": pyarrow.array([os.getpid()] * len(ids))})


def main() -> None:
    """Tasks and numpy arrays without Spark; then a DataFrame to tasks and back."""
    import numpy

    sparkray.init(num_cpus=2, object_store_memory=64 << 20)
    numbers = sparkray.put(numpy.arange(100_000))
    total = sparkray.remote(lambda array, factor: int(array.sum()) * factor)
    assert sparkray.get([total.remote(numbers, factor) for factor in (1, 2)]) == [4_999_950_000, 9_999_900_000]
    sparkray.shutdown()

    from pyspark.sql import SparkSession

    sc = init_spark_on_local(cores=2, conf={"spark.ui.enabled": "false"})
    spark = SparkSession(sc)
    context = RayContext(sc, object_store_memory="64m")
    context.init()
    blocks = sparkray.from_spark(spark.range(0, 10_000, 1, 3))
    back = sparkray.to_spark([double.remote(block) for block in blocks], spark)
    (row,) = back.selectExpr("count(1)", "sum(id)", "min(pid)").collect()
    assert tuple(row[:2]) == (10_000, 99_990_000) and row[2] != os.getpid(), row
    context.stop()
    sc.stop()
    assert os.path.dirname(sparkray.__file__).startswith(sys.prefix), sparkray.__file__
    print("it works")


if __name__ == "__main__":
    main()
