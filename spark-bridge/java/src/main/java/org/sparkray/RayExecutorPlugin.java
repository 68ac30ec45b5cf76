package org.sparkray;

import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.spark.SparkConf;
import org.apache.spark.api.plugin.ExecutorPlugin;
import org.apache.spark.api.plugin.PluginContext;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

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
  private final ExecutorManager manager = new ExecutorManager();

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
      // PluginContext's own fails where no RPC server listens.
      String host = ExecutorManager.host();
      manager.start(
          invitation,
          conf,
          context.executorID(),
          host == null ? context.hostname() : host,
          RayConf.memoryBudget(conf, ExecutorManager.inContainer(conf)));
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

  @Override
  public void shutdown() {
    try {
      closing.countDown();
      manager.close();
    } catch (Throwable e) {
      LOG.warn("Ray's manager did not end properly", e);
    }
  }
}
