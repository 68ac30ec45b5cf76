"""Environments on the cluster: what is deleted, and what Spark is told. tests/yarn has the same on a real HDFS."""

from __future__ import annotations

import pytest

from sparkray.spark.cluster_cache import removable, with_environment
from sparkray.spark.spark_conf import build_spark_conf

HOUR = 3600.0
NOW = 1000 * HOUR


def archive(number: int) -> str:
    return f"{number:032x}.tar.gz"


def used(number: int) -> str:
    return f"{archive(number)}.used"


def ages(**hours: float) -> dict[str, float]:
    """Times of archives `a1`, marks `u1` and other names, given how many hours ago they were."""
    names = {"a": archive, "u": used}
    return {names[name[0]](int(name[1:])): NOW - HOUR * age for name, age in hours.items()}


def test_the_four_that_were_used_last_are_kept() -> None:
    times = ages(a1=60, a2=50, a3=40, a4=30, a5=29, a6=28)
    assert removable(times, NOW) == [archive(2), archive(1)]


def test_what_counts_is_the_last_use() -> None:
    times = ages(a1=600, u1=26, a2=50, u2=49, a3=40, a4=30, a5=29, a6=28)
    # The mark of an archive is not deleted by itself.
    assert removable(times, NOW) == [archive(3), archive(2)]


def test_all_of_the_last_day_are_kept() -> None:
    assert removable(ages(a1=600, u1=23, a2=23, a3=5, a4=4, a5=3, a6=2, a7=1), NOW) == []


def test_what_cut_uploads_left_is_deleted_after_a_day() -> None:
    times = {".uploading-1": NOW - 25 * HOUR, ".uploading-2": NOW - 23 * HOUR, **ages(u1=25, u2=23)}
    assert removable(times, NOW) == [".uploading-1", used(1)]


def test_files_of_others_stay() -> None:
    names = ["notes.txt", "mine.tar.gz", "mine.tar.gz.used", "0.tar.gz", f"{archive(1)}.bak", f"a{archive(1)}"]
    assert removable(dict.fromkeys(names, 0.0), NOW) == []


def test_only_the_environment_is_another_file() -> None:
    before = "file:/a/data.zip#data,file:/home/me/.cache/1.tar.gz#python_env,file:/b/python_env.zip"
    after = with_environment(before, "hdfs://name:8020/user/me/1.tar.gz")
    assert after == "file:/a/data.zip#data,hdfs://name:8020/user/me/1.tar.gz#python_env,file:/b/python_env.zip"


@pytest.mark.parametrize("value", [False, "", " ", "false"])
def test_the_cache_can_be_switched_off(value: object) -> None:
    conf = build_spark_conf(
        num_executors=1,
        executor_cores=1,
        executor_memory="1g",
        driver_cores=1,
        driver_memory="1g",
        extra_executor_memory_for_ray=None,
        environment_archive="1.tar.gz",
        driver_python="python",
        plugin_jar=None,
        conf={"spark.ray.environment.cache": value},
    )
    # Spark takes no settings without a value.
    assert conf["spark.ray.environment.cache"] == "false"
