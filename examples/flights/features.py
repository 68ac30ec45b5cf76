"""Spark SQL: flights joined with weather, planes and airlines, as flat numbers that a model can read.

One row for each flight. ``flight_id`` is its stable name; ``label`` says whether it arrived more than 15 minutes late
and is null where that is not known (cancelled or diverted); ``is_test`` sets a fifth of the flights aside. No feature
is known only after departure.
"""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession

LATE_MINUTES = 15
# By `origin_code`.
AIRPORTS = ("EWR", "JFK", "LGA")

# Numeric columns; the model scales them to mean 0 and deviation 1.
NUMBERS = (
    "log_distance",
    "minute",
    "temperature",
    "dew_point",
    "humidity",
    "wind_speed",
    "wind_gust",
    "gust_missing",
    "rain",
    "log_rain",
    "pressure",
    "pressure_missing",
    "visibility",
    "low_visibility",
    "weather_missing",
    "plane_age",
    "plane_age_missing",
    "log_seats",
    "seats_missing",
)

# Whole numbers 0 … n-1, each of which gets a weight of its own.
CATEGORIES = {
    "carrier_code": 17,
    "origin_code": 3,
    "destination_code": 256,
    "month_code": 12,
    "weekday_code": 7,
    "hour_code": 24,
}

QUERY = f"""
SELECT
  f.flight_id,
  CASE WHEN f.arr_delay IS NULL THEN NULL WHEN f.arr_delay > {LATE_MINUTES} THEN 1 ELSE 0 END     AS label,
  pmod(hash(f.flight_id), 5) = 0                                                 AS is_test,

  CAST(coalesce(array_position(
    (SELECT sort_array(collect_list(carrier)) FROM airlines), f.carrier), 0) AS INT)              AS carrier_code,
  CAST(array_position(array{AIRPORTS}, f.origin) - 1 AS INT)                      AS origin_code,
  pmod(hash(f.dest), {CATEGORIES["destination_code"]})                           AS destination_code,
  CAST(f.month - 1 AS INT)                                                       AS month_code,
  weekday(make_date(f.year, f.month, f.day))                                     AS weekday_code,
  CAST(f.hour AS INT)                                                            AS hour_code,

  CAST(ln(f.distance) AS FLOAT)                                                  AS log_distance,
  CAST(f.minute AS FLOAT)                                                        AS minute,
  CAST(coalesce(w.temp, 55) AS FLOAT)                                            AS temperature,
  CAST(coalesce(w.dewp, 42) AS FLOAT)                                            AS dew_point,
  CAST(coalesce(w.humid, 62) AS FLOAT)                                           AS humidity,
  CAST(coalesce(w.wind_speed, 10) AS FLOAT)                                      AS wind_speed,
  CAST(coalesce(w.wind_gust, w.wind_speed, 10) AS FLOAT)                         AS wind_gust,
  CAST(w.wind_gust IS NULL AS FLOAT)                                             AS gust_missing,
  CAST(coalesce(w.precip, 0) AS FLOAT)                                           AS rain,
  CAST(ln(1 + 100 * coalesce(w.precip, 0)) AS FLOAT)                             AS log_rain,
  CAST(coalesce(w.pressure, 1018) AS FLOAT)                                      AS pressure,
  CAST(w.pressure IS NULL AS FLOAT)                                              AS pressure_missing,
  CAST(coalesce(w.visib, 10) AS FLOAT)                                           AS visibility,
  CAST(coalesce(w.visib, 10) < 3 AS FLOAT)                                       AS low_visibility,
  CAST(w.origin IS NULL AS FLOAT)                                                AS weather_missing,
  CAST(coalesce(f.year - p.year, 11) AS FLOAT)                                   AS plane_age,
  CAST(p.year IS NULL AS FLOAT)                                                  AS plane_age_missing,
  CAST(ln(coalesce(p.seats, 137)) AS FLOAT)                                      AS log_seats,
  CAST(p.seats IS NULL AS FLOAT)                                                 AS seats_missing
FROM flights f
LEFT JOIN weather w ON f.origin = w.origin AND f.time_hour = w.time_hour
LEFT JOIN planes  p ON f.tailnum = p.tailnum
"""


def flight_features(spark: SparkSession, source: str) -> DataFrame:
    """The features of every flight, from the Parquet tables under the URI ``source``."""
    for table in ("flights", "weather", "planes", "airlines"):
        spark.read.parquet(f"{source}/{table}").createOrReplaceTempView(table)
    return spark.sql(QUERY)


SUMMARY = """
SELECT f.carrier, a.name, count(*) AS flights, round(avg(p.probability), 3) AS predicted,
       round(avg(CASE WHEN f.arr_delay > {late} THEN 1.0 WHEN f.arr_delay IS NOT NULL THEN 0.0 END), 3) AS late
FROM predictions p JOIN flights f USING (flight_id) JOIN airlines a ON f.carrier = a.carrier
GROUP BY f.carrier, a.name ORDER BY predicted DESC
"""


def summarise(spark: SparkSession, predictions: DataFrame) -> DataFrame:
    """Predicted and real rate of late arrivals of each airline; ``predictions`` has flight_id and probability."""
    predictions.createOrReplaceTempView("predictions")
    return spark.sql(SUMMARY.format(late=LATE_MINUTES))
