"""Where Spark does not authenticate, anybody could ask its driver for the way into the cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import sparkray
from sparkray.spark import RayContext, RayContextError, init_spark_on_local
from sparkray.spark.manager import Manager

STORE = "64m"
CONF = {
    "spark.master": "local-cluster[1,1,1024]",
    "spark.authenticate": "false",
    "spark.ui.enabled": "false",
    "spark.ray.memory.budget": "1g",
    "spark.ray.init.timeout": "120s",
    "spark.ray.worker.prestart": "0",
}


@pytest.fixture
def spark(request: pytest.FixtureRequest) -> Iterator[Any]:
    context = init_spark_on_local(memory="1g", conf={**CONF, **getattr(request, "param", {})})
    yield context
    context.stop()


def runs(context: RayContext) -> None:
    with context:
        assert sparkray.get(sparkray.remote(len).remote("abc"), timeout=60) == 3


def test_executors_are_not_let_in_until_it_is_allowed_by_name(spark: Any) -> None:
    with pytest.raises(RayContextError) as caught:
        RayContext(spark, object_store_memory=STORE).init()
    message = str(caught.value)
    ways = ("spark.authenticate=true", "allow_unauthenticated_spark=True", "spark.ray.allowUnauthenticatedSpark=true")
    for way in ways:
        assert way in message
    assert Manager.find(spark).status()["nodes"] == [], "the executor has not been told how to join"
    runs(RayContext(spark, object_store_memory=STORE, allow_unauthenticated_spark=True))


@pytest.mark.parametrize(
    "spark",
    [{"spark.ray.allowUnauthenticatedSpark": "true", "spark.ray.encryption": "off"}],
    indirect=True,
    ids=["allowed"],
)
def test_settings_allow_it_and_turn_encryption_off(spark: Any) -> None:
    runs(RayContext(spark, object_store_memory=STORE))
