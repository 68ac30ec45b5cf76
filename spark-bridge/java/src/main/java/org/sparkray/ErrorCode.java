package org.sparkray;

/**
 * The kinds of failures, by the numbers that {@link SparkRayException#getCode} gives: those of
 * {@code sparkray_common::ErrorCode}, which says what each is for. {@code
 * tests/process/test_numbers.py} compares them.
 */
final class ErrorCode {
  static final int INTERNAL = 1;
  static final int INVALID_ARGUMENT = 2;
  static final int NOT_FOUND = 3;
  static final int ALREADY_EXISTS = 4;
  static final int UNAUTHENTICATED = 5;
  static final int STALE = 6;
  static final int UNAVAILABLE = 7;
  static final int DEADLINE_EXCEEDED = 8;
  static final int OUT_OF_STORAGE = 9;
  static final int OBJECT_LOST = 10;
  static final int OWNER_DIED = 11;
  static final int WORKER_DIED = 12;
  static final int ACTOR_DIED = 13;
  static final int ACTOR_UNAVAILABLE = 14;
  static final int INFEASIBLE = 15;
  static final int CANCELLED = 16;
  static final int VERSION_MISMATCH = 17;
  static final int NOT_RUNNING = 18;
  static final int FETCH_TIMED_OUT = 19;
  static final int ACTOR_UNSCHEDULABLE = 20;
  static final int RUNTIME_ENV_SETUP = 21;
  static final int TASK_PLACEMENT_GROUP_REMOVED = 22;
  static final int ACTOR_PLACEMENT_GROUP_REMOVED = 23;

  private ErrorCode() {}
}
