package org.sparkray;

import java.util.Collections;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.LongConsumer;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkContext;
import org.apache.spark.api.plugin.DriverPlugin;
import org.apache.spark.api.plugin.PluginContext;
import org.apache.spark.scheduler.SparkListener;
import org.apache.spark.scheduler.SparkListenerExecutorAdded;
import org.apache.spark.scheduler.SparkListenerExecutorRemoved;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.sparkray.wire.Fields;
import org.sparkray.wire.MessageWriter;

/**
 * The driver's side of the plugin: starts the manager in the background and tells executors where
 * it is.
 */
final class RayDriverPlugin implements DriverPlugin {
  /** What executors ask for. */
  static final String ASK_INVITATION = "sparkray-invitation";

  /** Begins an executor's report that it cannot run a manager: then its id, a colon, and why. */
  static final String FAILED = "sparkray-failed:";

  /** Begins an answer that says why there is no manager. */
  static final String REFUSED = "refused:";

  /**
   * The answer while executors may not join: they may be allowed to when the program starts a
   * cluster.
   */
  static final String WITHHELD = "withheld";

  private static final Logger LOG = LoggerFactory.getLogger(RayDriverPlugin.class);
  private static final long START_SECONDS = 30;

  private static volatile RayDriverPlugin current;

  private final CompletableFuture<Long> manager = new CompletableFuture<>();

  /** What executors are told; null until the manager runs. */
  private volatile byte[] invitation;

  /** What they are told instead: nothing yet, or why there is no manager. */
  private volatile String excuse = "";

  private volatile SparkConf conf;
  private volatile boolean local;

  /**
   * Whether the invitation is given to whoever asks: Spark lets only its own ask, or somebody said
   * that all may.
   */
  private volatile boolean open;

  private boolean closed;

  /**
   * Hosts of the executors that Spark has, by their ids, for the manager when it runs. Guarded by
   * itself.
   */
  private final Map<String, String> executors = new HashMap<>();

  /** The plugin of the running SparkContext, or null. */
  static RayDriverPlugin current() {
    return current;
  }

  @Override
  public Map<String, String> init(SparkContext context, PluginContext plugin) {
    try {
      conf = context.conf();
      local = context.isLocal();
      current = this;
      context.addSparkListener(new Executors());
      Thread thread = new Thread(this::start, "sparkray-start-driver");
      thread.setDaemon(true);
      thread.start();
    } catch (Throwable e) {
      fail(e);
    }
    // What is returned here would reach SparkConf, the UI and the event log.
    return Collections.emptyMap();
  }

  private void start() {
    try {
      RayConf.checkKeys(conf);
      // Refused now, and not when a cluster is started.
      RayConf.ENCRYPTION.isOn(conf);
      open = isAuthenticated() || RayConf.ALLOW_UNAUTHENTICATED.isOn(conf);
      // Its own message, not the ExceptionInInitializerError of a class that needs it.
      NativeLibrary.load();
      Native.initLogging(RayConf.LOG_FILTER.text(conf));
      String host = conf.get("spark.driver.host");
      MessageWriter config =
          new MessageWriter()
              .text(Fields.DriverConfig.HOST, host)
              .text(Fields.DriverConfig.BIND_ADDRESS, conf.get("spark.driver.bindAddress", host))
              .integer(Fields.DriverConfig.PORT, RayConf.MANAGER_PORT.number(conf))
              .text(Fields.DriverConfig.BINARY, NativeLibrary.program().toString())
              .text(Fields.DriverConfig.WORK_DIR, NativeLibrary.workDirectory().toString());
      String nonce = ManagerToken.nonce();
      String token = ManagerToken.derive(nonce);
      if (token != null) {
        config.text(Fields.DriverConfig.TOKEN, token);
      }
      long started = Native.driverStart(config.toBytes());
      synchronized (this) {
        if (closed) {
          Native.driverClose(started);
          throw new SparkRayException(ErrorCode.NOT_RUNNING, "the SparkContext was stopped");
        }
        byte[] told = Native.driverInvitation(started);
        invitation = token == null ? told : ManagerToken.withNonce(told, nonce);
        synchronized (executors) {
          executors.forEach((id, at) -> Native.driverExecutorAdded(started, id, at));
          manager.complete(started);
        }
      }
    } catch (Throwable e) {
      fail(e);
    }
  }

  /** Tells the manager which executors Spark has, so that it can name those that do not join. */
  private final class Executors extends SparkListener {
    @Override
    public void onExecutorAdded(SparkListenerExecutorAdded event) {
      executorAdded(event.executorId(), event.executorInfo().executorHost());
    }

    @Override
    public void onExecutorRemoved(SparkListenerExecutorRemoved event) {
      executorRemoved(event.executorId());
    }
  }

  void executorAdded(String executorId, String host) {
    synchronized (executors) {
      executors.put(executorId, host);
      tell(started -> Native.driverExecutorAdded(started, executorId, host));
    }
  }

  void executorRemoved(String executorId) {
    synchronized (executors) {
      executors.remove(executorId);
      tell(started -> Native.driverExecutorRemoved(started, executorId));
    }
  }

  /** An executor cannot run a manager, for this reason. */
  void executorFailed(String executorId, String reason) {
    tell(started -> Native.driverExecutorFailed(started, executorId, reason));
  }

  private void tell(LongConsumer event) {
    if (!manager.isDone() || manager.isCompletedExceptionally()) {
      return;
    }
    try {
      event.accept(manager.join());
    } catch (RuntimeException | LinkageError e) {
      // The SparkContext ends, and the manager has.
      LOG.debug("Ray's manager does not hear of an executor", e);
    }
  }

  private void fail(Throwable cause) {
    LOG.debug("Ray's manager did not start in the driver", cause);
    String reason = cause.getMessage() == null ? cause.toString() : cause.getMessage();
    excuse = REFUSED + reason;
    manager.completeExceptionally(cause);
  }

  /** Answers from memory: Spark has one thread for the questions of all executors. */
  @Override
  public Object receive(Object message) {
    if (ASK_INVITATION.equals(message)) {
      if (invitation == null) {
        return excuse;
      }
      byte[] told = invitation();
      return told == null ? WITHHELD : told;
    }
    if (message instanceof String && ((String) message).startsWith(FAILED)) {
      String[] parts = ((String) message).substring(FAILED.length()).split(":", 2);
      // Only who has the invitation reports, so the manager runs.
      if (parts.length == 2) {
        executorFailed(parts[0], parts[1]);
      }
      return "";
    }
    return REFUSED + "this version does not know the question";
  }

  @Override
  public void shutdown() {
    try {
      long started;
      synchronized (this) {
        closed = true;
        if (current == this) {
          current = null;
        }
        started = manager.isDone() && !manager.isCompletedExceptionally() ? manager.join() : 0;
      }
      if (started != 0) {
        Native.driverClose(started);
      }
    } catch (Throwable e) {
      LOG.warn("Ray's manager did not end properly", e);
    }
  }

  /** The manager's key; waits for its start. */
  long manager() {
    synchronized (this) {
      if (closed) {
        throw new SparkRayException(
            ErrorCode.NOT_RUNNING, "the SparkContext was stopped, and its Ray cluster with it");
      }
    }
    try {
      return manager.get(START_SECONDS, TimeUnit.SECONDS);
    } catch (ExecutionException e) {
      Throwable cause = e.getCause();
      if (cause instanceof SparkRayException) {
        throw (SparkRayException) cause;
      }
      throw new SparkRayException(
          ErrorCode.INTERNAL, "Ray's manager did not start in the driver: " + cause, cause);
    } catch (TimeoutException e) {
      throw new SparkRayException(
          ErrorCode.DEADLINE_EXCEEDED,
          "Ray's manager did not start in the driver within " + START_SECONDS + " s",
          e);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new SparkRayException(ErrorCode.CANCELLED, "interrupted", e);
    }
  }

  /**
   * Whether only Spark's own processes can ask: they know its secret, or (in local mode) are this
   * very process.
   */
  private boolean isAuthenticated() {
    return local || conf.getBoolean("spark.authenticate", false);
  }

  /**
   * Lets executors join, or says what must be done before they may.
   *
   * @param byName the program says that they may although Spark's RPC is open to everybody
   */
  void allowExecutors(boolean byName) {
    manager();
    if (!open && !byName) {
      throw new SparkRayException(
          ErrorCode.INVALID_ARGUMENT,
          "spark.authenticate is off: anybody who reaches the driver's port could ask Spark for the secret with which "
              + "executors join, and run code in the cluster. Set spark.authenticate=true before Spark starts (on YARN "
              + "Spark makes a secret itself; elsewhere set spark.authenticate.secret too, on the workers as well), or "
              + "allow it by name: spark.ray.allowUnauthenticatedSpark=true, or "
              + "RayContext(sc, allow_unauthenticated_spark=True)");
    }
    open = true;
  }

  /** What executors need to join; null while they may not, or the manager does not run yet. */
  byte[] invitation() {
    return open ? invitation : null;
  }

  SparkConf conf() {
    return conf;
  }

  boolean isLocal() {
    return local;
  }
}
