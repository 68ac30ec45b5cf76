package org.sparkray;

import org.apache.spark.SparkConf;
import org.apache.spark.SparkEnv;
import org.sparkray.wire.Fields;
import org.sparkray.wire.MessageWriter;

/**
 * The RayManager of this executor, from its start to its end. Who starts it knows the driver's
 * invitation: the plugin has asked for it, or a task has brought it.
 */
final class ExecutorManager implements AutoCloseable {
  private long key;
  private boolean closed;

  /**
   * Starts it and returns at once: it joins the driver's manager in the background. Once closed, it
   * stays so.
   *
   * @param memoryBudget bytes of this container that are Ray's; 0: none, or no limit
   */
  void start(byte[] invitation, SparkConf conf, String executorId, String host, long memoryBudget)
      throws Exception {
    // Its own message, not the ExceptionInInitializerError of a class that needs it.
    NativeLibrary.load();
    Native.initLogging(RayConf.LOG_FILTER.text(conf));
    MessageWriter config =
        new MessageWriter()
            .bytes(Fields.ExecutorConfig.INVITATION, invitation)
            .text(Fields.ExecutorConfig.EXECUTOR_ID, executorId)
            .text(Fields.ExecutorConfig.HOST, host)
            .integer(Fields.ExecutorConfig.CORES, conf.getInt("spark.executor.cores", 1))
            .integer(Fields.ExecutorConfig.MEMORY_BUDGET_BYTES, memoryBudget)
            .truth(Fields.ExecutorConfig.IN_CONTAINER, inContainer(conf))
            .text(Fields.ExecutorConfig.JAVA_VERSION, System.getProperty("java.version", "unknown"))
            .text(Fields.ExecutorConfig.PYTHON, python(conf))
            .text(Fields.ExecutorConfig.BINARY, NativeLibrary.program().toString())
            .text(Fields.ExecutorConfig.WORK_DIR, NativeLibrary.workDirectory().toString());
    String token = ManagerToken.derived(invitation);
    if (token != null) {
      config.text(Fields.ExecutorConfig.TOKEN, token);
    }
    long started = Native.executorStart(config.toBytes());
    synchronized (this) {
      if (!closed) {
        key = started;
        return;
      }
    }
    Native.executorClose(started);
  }

  /** The address that Spark gave this executor; null where it gave none. */
  static String host() {
    SparkEnv env = SparkEnv.get();
    if (env != null && env.blockManager() != null && env.blockManager().blockManagerId() != null) {
      return env.blockManager().blockManagerId().host();
    }
    return null;
  }

  /** Whether executors run in containers of limited memory, as this process does. */
  static boolean inContainer(SparkConf conf) {
    return System.getenv("CONTAINER_ID") != null || conf.get("spark.master", "").startsWith("k8s");
  }

  private static String python(SparkConf conf) {
    String fallback = System.getenv("PYSPARK_PYTHON");
    return conf.get(
        "spark.pyspark.python", fallback == null || fallback.isEmpty() ? "python3" : fallback);
  }

  /** Ends it and its children; a second call does nothing. */
  @Override
  public void close() {
    long started;
    synchronized (this) {
      closed = true;
      started = key;
      key = 0;
    }
    if (started != 0) {
      Native.executorClose(started);
    }
  }
}
