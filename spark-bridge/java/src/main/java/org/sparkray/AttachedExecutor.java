package org.sparkray;

import java.util.Arrays;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkEnv;

/**
 * The RayManager of an executor that Spark started without the plugin. A task starts it, and it
 * outlives the task: there is one for each JVM, kept here. The class comes from the jar of {@code
 * SparkContext.addJar}; the loader in which Spark puts such jars lives as long as the executor.
 * Spark knows of no plugin here, so the JVM's own shutdown hook ends it.
 */
final class AttachedExecutor {
  private static ExecutorManager manager;
  private static byte[] invitation;
  private static boolean hooked;

  private AttachedExecutor() {}

  /**
   * Starts the manager, unless that was done with the same invitation before. Another invitation is
   * that of another SparkContext, which a JVM of local mode may have after the first one.
   */
  static synchronized void start(byte[] given) throws Exception {
    if (manager != null && Arrays.equals(invitation, given)) {
      return;
    }
    stop();
    SparkEnv env = SparkEnv.get();
    SparkConf conf = env.conf();
    ExecutorManager started = new ExecutorManager();
    started.start(
        given,
        conf,
        env.executorId(),
        ExecutorManager.host(),
        RayConf.attachedMemoryBudget(conf, ExecutorManager.inContainer(conf)));
    manager = started;
    invitation = given;
    if (!hooked) {
      Runtime.getRuntime().addShutdownHook(new Thread(AttachedExecutor::stop, "sparkray-stop"));
      hooked = true;
    }
  }

  /** Ends the manager, if there is one. */
  static synchronized void stop() {
    ExecutorManager ended = manager;
    manager = null;
    invitation = null;
    if (ended != null) {
      ended.close();
    }
  }
}
