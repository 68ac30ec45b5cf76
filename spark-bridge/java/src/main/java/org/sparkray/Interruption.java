package org.sparkray;

import org.apache.spark.TaskContext;

/** Asked by native code that waits: {@code Thread.interrupt} does not reach it. */
final class Interruption {
  private Interruption() {}

  /** Whether this thread's task was killed, or this thread interrupted. */
  static boolean isInterrupted() {
    TaskContext task = TaskContext.get();
    return Thread.currentThread().isInterrupted() || (task != null && task.isInterrupted());
  }
}
