package org.sparkray;

import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkEnv;
import org.apache.spark.api.plugin.ExecutorPlugin;
import org.apache.spark.api.plugin.PluginContext;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.sparkray.wire.Fields;
import org.sparkray.wire.MessageWriter;

/**
 * The executor's side of the plugin: asks the driver where its manager is and starts this
 * executor's, in the background.
 */
final class RayExecutorPlugin implements ExecutorPlugin {
  private static final Logger LOG = LoggerFactory.getLogger(RayExecutorPlugin.class);
  private static final long ASK_SECONDS = 60;
  private static final long ASK_PAUSE_MILLIS = 50;

  /** A question that Spark cannot carry now, because of a long pause of the driver for example. */
  private static final long RETRY_SECONDS = 600;

  private static final long RETRY_PAUSE_MILLIS = 1000;
  private static final long WITHHELD_PAUSE_MILLIS = 1000;

  private final CountDownLatch closing = new CountDownLatch(1);
  private long manager;

  @Override
  public void init(PluginContext context, Map<String, String> extraConf) {
    try {
      Thread thread = new Thread(() -> start(context), "sparkray-start-executor");
      thread.setDaemon(true);
      thread.start();
    } catch (Throwable e) {
      // Thrown on, it would end the executor.
      LOG.warn("Ray's manager was not started on this executor", e);
    }
  }

  private void start(PluginContext context) {
    try {
      byte[] invitation = askForInvitation(context);
      if (invitation != null) {
        start(context, invitation);
      }
    } catch (Throwable e) {
      LOG.warn("Ray's manager was not started on this executor", e);
    }
  }

  private void start(PluginContext context, byte[] invitation) throws Exception {
    try {
      SparkConf conf = context.conf();
      // Its own message, not the ExceptionInInitializerError of a class that needs it.
      NativeLibrary.load();
      Native.initLogging(RayConf.LOG_FILTER.text(conf));
      MessageWriter config =
          new MessageWriter()
              .bytes(Fields.ExecutorConfig.INVITATION, invitation)
              .text(Fields.ExecutorConfig.EXECUTOR_ID, context.executorID())
              .text(Fields.ExecutorConfig.HOST, host(context))
              .integer(Fields.ExecutorConfig.CORES, conf.getInt("spark.executor.cores", 1))
              .integer(
                  Fields.ExecutorConfig.MEMORY_BUDGET_BYTES,
                  RayConf.memoryBudget(conf, inContainer(conf)))
              .truth(Fields.ExecutorConfig.IN_CONTAINER, inContainer(conf))
              .text(
                  Fields.ExecutorConfig.JAVA_VERSION, System.getProperty("java.version", "unknown"))
              .text(Fields.ExecutorConfig.PYTHON, python(conf))
              .text(Fields.ExecutorConfig.BINARY, NativeLibrary.program().toString())
              .text(Fields.ExecutorConfig.WORK_DIR, NativeLibrary.workDirectory().toString());
      String token = ManagerToken.derived(invitation);
      if (token != null) {
        config.text(Fields.ExecutorConfig.TOKEN, token);
      }
      long started = Native.executorStart(config.toBytes());
      synchronized (this) {
        if (closing.getCount() > 0) {
          manager = started;
          return;
        }
      }
      Native.executorClose(started);
    } catch (Exception | LinkageError e) {
      String reason = e.getMessage() == null ? e.toString() : e.getMessage();
      ask(context, RayDriverPlugin.FAILED + context.executorID() + ":" + reason);
      throw e;
    }
  }

  /**
   * The driver's answer; asks again while Spark cannot carry the question. Null when this executor
   * ends.
   */
  private Object ask(PluginContext context, String question) throws Exception {
    long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(RETRY_SECONDS);
    while (true) {
      try {
        return context.ask(question);
      } catch (Exception e) {
        if (System.nanoTime() >= deadline) {
          throw e;
        }
        LOG.debug("The driver did not answer, asking again", e);
      }
      if (closing.await(RETRY_PAUSE_MILLIS, TimeUnit.MILLISECONDS)) {
        return null;
      }
    }
  }

  /** Null when the driver has no manager or this executor ends. */
  private byte[] askForInvitation(PluginContext context) throws Exception {
    long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(ASK_SECONDS);
    while (System.nanoTime() < deadline) {
      Object told = ask(context, RayDriverPlugin.ASK_INVITATION);
      if (told == null) {
        return null;
      }
      if (told instanceof byte[]) {
        return (byte[]) told;
      }
      String answer = String.valueOf(told);
      if (answer.equals(RayDriverPlugin.WITHHELD)) {
        // Until the program that starts a cluster allows it, if it ever does.
        if (closing.await(WITHHELD_PAUSE_MILLIS, TimeUnit.MILLISECONDS)) {
          return null;
        }
        deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(ASK_SECONDS);
        continue;
      }
      if (answer.startsWith(RayDriverPlugin.REFUSED)) {
        LOG.info(
            "The driver has no Ray manager: {}",
            answer.substring(RayDriverPlugin.REFUSED.length()));
        return null;
      }
      // The driver's manager is starting.
      if (closing.await(ASK_PAUSE_MILLIS, TimeUnit.MILLISECONDS)) {
        return null;
      }
    }
    LOG.warn("The driver's Ray manager did not start within {} s", ASK_SECONDS);
    return null;
  }

  /**
   * The address that Spark gave this executor. {@code PluginContext.hostname} fails where no RPC
   * server listens.
   */
  private static String host(PluginContext context) {
    SparkEnv env = SparkEnv.get();
    if (env != null && env.blockManager() != null && env.blockManager().blockManagerId() != null) {
      return env.blockManager().blockManagerId().host();
    }
    return context.hostname();
  }

  private static boolean inContainer(SparkConf conf) {
    return System.getenv("CONTAINER_ID") != null || conf.get("spark.master", "").startsWith("k8s");
  }

  private static String python(SparkConf conf) {
    String fallback = System.getenv("PYSPARK_PYTHON");
    return conf.get(
        "spark.pyspark.python", fallback == null || fallback.isEmpty() ? "python3" : fallback);
  }

  @Override
  public void shutdown() {
    try {
      long started;
      synchronized (this) {
        closing.countDown();
        started = manager;
        manager = 0;
      }
      if (started != 0) {
        Native.executorClose(started);
      }
    } catch (Throwable e) {
      LOG.warn("Ray's manager did not end properly", e);
    }
  }
}
