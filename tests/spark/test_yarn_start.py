"""The wait for executors on YARN: what it says when not all come. The queue itself is in tests/yarn."""

from __future__ import annotations

import types
from typing import Any

import pytest

from sparkray.spark import yarn_start
from sparkray.spark.spark_conf import START_TIMEOUT


class FakeSpark:
    """A SparkContext in Java with some executors."""

    def __init__(self, executors: int, stopped: bool = False) -> None:
        self.applicationId = "application_1_0001"
        self._jsc = self
        self._executors, self._stopped = executors, stopped

    def sc(self) -> FakeSpark:
        return self

    def isStopped(self) -> bool:
        return self._stopped

    def getExecutorMemoryStatus(self) -> FakeSpark:
        return self

    def size(self) -> int:
        return self._executors + 1


def watch(**conf: str) -> yarn_start.StartWatch:
    thread = types.SimpleNamespace(currentThread=lambda: None)
    jvm = types.SimpleNamespace(java=types.SimpleNamespace(lang=types.SimpleNamespace(Thread=thread)))
    settings = {"spark.executor.instances": "3", yarn_start.EXECUTORS_TIMEOUT: "0s", **conf}
    return yarn_start.StartWatch(jvm, settings, "tag")


def test_all_executors_are_there(recwarn: pytest.WarningsRecorder) -> None:
    watch().wait_for_executors(FakeSpark(3))
    assert not recwarn.list


def test_some_executors_are_there() -> None:
    with pytest.warns(RuntimeWarning, match="2 of 3 executors are there 0 s after the application application_1_0001"):
        watch().wait_for_executors(FakeSpark(2))


def test_no_executor_is_there() -> None:
    with pytest.raises(yarn_start.ExecutorsMissingError, match=r"0 of 3 executors .*spark\.yarn\.queue"):
        watch().wait_for_executors(FakeSpark(0))


def test_application_that_ends_while_executors_are_waited_for() -> None:
    conf = {yarn_start.EXECUTORS_TIMEOUT: "60s"}
    with pytest.raises(yarn_start.ExecutorsMissingError, match="application_1_0001 ended before its executors came"):
        watch(**conf).wait_for_executors(FakeSpark(1, stopped=True))


def test_spark_waits_itself_when_it_is_told_to(recwarn: pytest.WarningsRecorder) -> None:
    watch(**{yarn_start.RATIO: "0.8"}).wait_for_executors(FakeSpark(0))
    assert not recwarn.list


def test_tag_is_added_to_the_user_s() -> None:
    conf, tag = yarn_start.with_tag({yarn_start.TAGS: "a, b"})
    assert tag is not None and tag == tag.lower() and conf[yarn_start.TAGS] == f"a,b,{tag}"
    assert yarn_start.with_tag({})[0] != yarn_start.with_tag({})[0]
    # YARN refuses more than ten.
    many: dict[str, Any] = {yarn_start.TAGS: ",".join("abcdefghij")}
    assert yarn_start.with_tag(many) == (many, None)


def test_deadline_is_a_time() -> None:
    with pytest.raises(ValueError, match=START_TIMEOUT):
        watch(**{START_TIMEOUT: "soon"})
