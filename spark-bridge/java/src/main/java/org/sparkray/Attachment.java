package org.sparkray;

import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.scheduler.SparkListener;
import org.apache.spark.scheduler.SparkListenerApplicationEnd;
import org.apache.spark.scheduler.SparkListenerBlockManagerAdded;
import org.apache.spark.storage.BlockManagerId;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Does for a SparkContext that was started without the plugin what the plugin does: the driver's
 * manager runs in this JVM, and short tasks carry its invitation to the executors, also to those
 * that come later. It ends with the SparkContext.
 *
 * <p>Only this class's own thread runs Spark jobs. Which executors there are is asked of Spark each
 * time; what the listener hears is only a reason to look again.
 */
final class Attachment extends SparkListener {
  private static final Logger LOG = LoggerFactory.getLogger(Attachment.class);

  /** Between two jobs for executors that have no free slot. */
  private static final long BUSY_PAUSE_MILLIS = 1000;

  /** Guarded by the class. */
  private static Attachment current;

  private final JavaSparkContext context;
  private final RayDriverPlugin plugin = new RayDriverPlugin();

  /** Executors whose managers run. */
  private final Set<String> reached = ConcurrentHashMap.newKeySet();

  /** Executors whose managers cannot start, or that no task has reached: not tried until asked. */
  private final Set<String> failed = ConcurrentHashMap.newKeySet();

  private final Semaphore reasons = new Semaphore(0);
  private volatile boolean ended;

  private Attachment(JavaSparkContext context) {
    this.context = context;
  }

  /** The attachment of the running SparkContext; null where the plugin runs, or nothing. */
  static synchronized Attachment current() {
    return current;
  }

  /** Starts the driver's manager in the background, unless that was done for this SparkContext. */
  static synchronized void begin(JavaSparkContext context) {
    if (current != null && current.context.sc() == context.sc()) {
      return;
    }
    if (current != null) {
      current.end();
    }
    Attachment attachment = new Attachment(context);
    attachment.plugin.init(context.sc(), null);
    context.sc().addSparkListener(attachment);
    attachment.executors().forEach(attachment.plugin::executorAdded);
    Thread thread = new Thread(attachment::run, "sparkray-attach");
    thread.setDaemon(true);
    thread.start();
    current = attachment;
  }

  /** Sends tasks to executors that have no manager, also to those where it failed before. */
  void reach() {
    forgetFailures();
    reasons.release();
  }

  /** Executors that no task has reached yet, in words; empty when there are none. */
  String unreached() {
    return missing().entrySet().stream()
        .map(executor -> "executor " + executor.getKey() + " on " + executor.getValue())
        .collect(Collectors.joining(", "));
  }

  @Override
  public void onBlockManagerAdded(SparkListenerBlockManagerAdded event) {
    // All else is for this class's own thread: Spark waits for its listeners.
    reasons.release();
  }

  @Override
  public void onApplicationEnd(SparkListenerApplicationEnd event) {
    end();
  }

  private void end() {
    ended = true;
    reasons.release();
    plugin.shutdown();
    if (plugin.isLocal()) {
      AttachedExecutor.stop();
    }
    forget(this);
  }

  private static synchronized void forget(Attachment attachment) {
    if (current == attachment) {
      current = null;
    }
  }

  private void run() {
    try {
      while (!ended) {
        if (isDone()) {
          reasons.acquire();
          forgetFailures();
        } else {
          // Some have no free slot.
          reasons.tryAcquire(BUSY_PAUSE_MILLIS, TimeUnit.MILLISECONDS);
        }
        reasons.drainPermits();
      }
    } catch (InterruptedException e) {
      // Nobody interrupts it but the end of the JVM.
      Thread.currentThread().interrupt();
    }
  }

  /** Runs a job if that may help; whether there is nothing to do until there is another reason. */
  private boolean isDone() {
    byte[] invitation = plugin.invitation();
    if (invitation == null) {
      return true;
    }
    Map<String, String> missing = missing();
    if (missing.isEmpty()) {
      return true;
    }
    send(invitation, missing);
    return missing().isEmpty();
  }

  private void forgetFailures() {
    Map<String, String> executors = executors();
    for (String executorId : failed) {
      if (executors.containsKey(executorId)) {
        plugin.executorRemoved(executorId);
        plugin.executorAdded(executorId, executors.get(executorId));
      }
    }
    failed.clear();
  }

  private void send(byte[] invitation, Map<String, String> missing) {
    try {
      if (plugin.isLocal()) {
        AttachedExecutor.start(invitation);
        reached.addAll(missing.keySet());
        if (ended) {
          AttachedExecutor.stop();
        }
        return;
      }
      AttachJob.run(context, invitation, missing)
          .forEach(
              (executorId, failure) -> {
                if (failure.isEmpty()) {
                  reached.add(executorId);
                } else {
                  fail(executorId, failure);
                }
              });
    } catch (Exception | LinkageError e) {
      if (ended || context.sc().isStopped()) {
        return;
      }
      LOG.warn("Ray's managers were not started on executors {}", missing.keySet(), e);
      String reason = e.getMessage() == null ? e.toString() : e.getMessage();
      missing.keySet().forEach(executorId -> fail(executorId, reason.split("\n", 2)[0]));
    }
  }

  private void fail(String executorId, String reason) {
    failed.add(executorId);
    plugin.executorFailed(executorId, reason);
  }

  private Map<String, String> missing() {
    Map<String, String> missing = executors();
    missing.keySet().removeAll(reached);
    missing.keySet().removeAll(failed);
    return missing;
  }

  /**
   * Hosts of the executors that Spark has now, by their ids. In local mode the driver is one. Empty
   * when the SparkContext ends.
   */
  private Map<String, String> executors() {
    Map<String, String> executors = new TreeMap<>();
    try {
      scala.collection.Iterator<BlockManagerId> all =
          context.sc().env().blockManager().master().getMemoryStatus().keysIterator();
      while (all.hasNext()) {
        BlockManagerId one = all.next();
        if (plugin.isLocal() || !one.isDriver()) {
          executors.put(one.executorId(), one.host());
        }
      }
    } catch (Exception e) {
      // Scala's methods throw checked exceptions without saying so.
      LOG.debug("Spark does not say which executors there are", e);
    }
    return executors;
  }
}
