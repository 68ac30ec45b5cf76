"""The kinds of failures, by the numbers that all processes and languages use for them."""

from __future__ import annotations

import enum


class ErrorCode(enum.IntEnum):
    """sparkray_common::ErrorCode, which says what each is for. tests/process/test_numbers.py compares them."""

    INTERNAL = 1
    INVALID_ARGUMENT = 2
    NOT_FOUND = 3
    ALREADY_EXISTS = 4
    UNAUTHENTICATED = 5
    STALE = 6
    UNAVAILABLE = 7
    DEADLINE_EXCEEDED = 8
    OUT_OF_STORAGE = 9
    OBJECT_LOST = 10
    OWNER_DIED = 11
    WORKER_DIED = 12
    ACTOR_DIED = 13
    ACTOR_UNAVAILABLE = 14
    INFEASIBLE = 15
    CANCELLED = 16
    VERSION_MISMATCH = 17
    NOT_RUNNING = 18
    FETCH_TIMED_OUT = 19
    ACTOR_UNSCHEDULABLE = 20
    RUNTIME_ENV_SETUP = 21
    TASK_PLACEMENT_GROUP_REMOVED = 22
    ACTOR_PLACEMENT_GROUP_REMOVED = 23
