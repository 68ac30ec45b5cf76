"""What scikit-learn's logistic regression reaches on the demo's features: `make floor`.

The demo must come within a hundredth of it; AUC_FLOOR in flights.py is this number less 0.01.
"""

from __future__ import annotations

import pathlib
import tempfile

import data
import features
import numpy as np
import pyarrow.parquet
from pyspark.sql import SparkSession
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler


def main() -> None:
    """Prints the area under the ROC curve over the test rows."""
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    with tempfile.TemporaryDirectory() as directory:
        data.put(spark, f"file://{directory}/flights-data")
        rows = features.flight_features(spark, f"file://{directory}/flights-data")
        columns = ["flight_id", "label", "is_test", *features.CATEGORIES, *features.NUMBERS]
        path = pathlib.Path(directory) / "features"
        rows.select(columns).where("label IS NOT NULL").write.parquet(f"file://{path}")
        table = pyarrow.parquet.read_table(path)
    spark.stop()

    labels = table["label"].to_numpy()
    test = table["is_test"].to_numpy(zero_copy_only=False)
    numbers = np.column_stack([table[name].to_numpy() for name in features.NUMBERS])
    codes = np.column_stack([table[name].to_numpy() for name in features.CATEGORIES])
    every = np.hstack([numbers, codes])
    model = make_pipeline(
        ColumnTransformer(
            [
                ("numbers", StandardScaler(), slice(0, numbers.shape[1])),
                ("codes", OneHotEncoder(handle_unknown="ignore"), slice(numbers.shape[1], every.shape[1])),
            ]
        ),
        LogisticRegression(max_iter=1000),
    )
    model.fit(every[~test], labels[~test])
    area = roc_auc_score(labels[test], model.predict_proba(every[test])[:, 1])
    print(f"{len(labels)} rows with a label, {test.sum()} of them for the test, {labels.mean():.4f} late")
    print(f"scikit-learn: AUC {area:.4f}; floor {area - 0.01:.4f}")


if __name__ == "__main__":
    main()
