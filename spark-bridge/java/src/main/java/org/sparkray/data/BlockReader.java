package org.sparkray.data;

import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import org.apache.spark.TaskContext;
import org.apache.spark.sql.connector.metric.CustomTaskMetric;
import org.apache.spark.sql.connector.read.PartitionReader;
import org.apache.spark.sql.types.StructType;
import org.apache.spark.sql.vectorized.ColumnarBatch;
import org.apache.spark.util.TaskCompletionListener;

/**
 * The batches of one block. Strings that Spark takes out of a batch point into the mapping, and
 * operators may hold the last row for a while. So a block and all its batches stay until the next
 * reader of the same scan in the same task has delivered a batch, or, where Spark looks back
 * further ({@link Holding}), until the task completes; not only until the reader is closed.
 *
 * <p>A task may complete while rows are left, under a limit for example. A thread of Spark that
 * feeds a Python worker may then be in the middle of a row; Spark interrupts it and does not wait
 * for it, and without the mapping it would end the JVM. So a mapping that other threads than the
 * task's have read goes when these threads have ended.
 */
final class BlockReader implements PartitionReader<ColumnarBatch> {
  /**
   * The readers of one scan in one task that have no more batches and whose mappings are there
   * still.
   */
  static final class Exhausted {
    private final List<BlockReader> readers = new ArrayList<>();

    private synchronized void add(BlockReader reader) {
      readers.add(reader);
    }

    /** Releases those of the same task. */
    private synchronized void releaseAll(TaskContext task) {
      readers.removeIf(
          reader -> {
            if (reader.task == task) {
              reader.release();
            }
            return reader.task == task;
          });
    }

    private synchronized void remove(BlockReader reader) {
      readers.remove(reader);
    }
  }

  private final TaskContext task = TaskContext.get();
  private final boolean held;
  private final ReadMetrics metrics;
  private final Exhausted exhausted;
  private final ArrowColumns columns;
  private final long handle;

  /** Threads that asked for batches. */
  private final Set<Thread> threads = new LinkedHashSet<>();

  /** All that were handed out: the last is the present one. */
  private final List<ColumnarBatch> batches = new ArrayList<>();

  private boolean delivered;
  private volatile boolean ended;
  private boolean released;

  BlockReader(
      RayPartition block,
      String tableSchemaJson,
      StructType readSchema,
      int[] projection,
      boolean held,
      ReadMetrics metrics,
      Exhausted exhausted) {
    this.held = held;
    this.metrics = metrics;
    this.exhausted = exhausted;
    handle = DataNative.tableOpen(block.block, held ? Holding.directory(block.index) : null);
    ArrowColumns arrow = null;
    try {
      DataNative.tableProject(handle, tableSchemaJson, projection);
      arrow = new ArrowColumns(readSchema);
      columns = arrow;
      task.addTaskCompletionListener(
          new TaskCompletionListener() {
            @Override
            public void onTaskCompletion(TaskContext context) {
              exhausted.remove(BlockReader.this);
              releaseWhenUnused();
            }
          });
      metrics.add(block.size);
    } catch (Throwable failure) {
      if (arrow != null) {
        arrow.close();
      }
      DataNative.tableClose(handle);
      throw failure;
    }
  }

  @Override
  public boolean next() {
    synchronized (threads) {
      threads.add(Thread.currentThread());
    }
    long[] words = DataNative.tableNext(handle);
    if (words == null) {
      ended = true;
      if (!held) {
        exhausted.add(this);
      }
      return false;
    }
    batches.add(columns.wrap(words));
    if (!delivered) {
      delivered = true;
      exhausted.releaseAll(task);
    }
    return true;
  }

  @Override
  public ColumnarBatch get() {
    return batches.get(batches.size() - 1);
  }

  @Override
  public CustomTaskMetric[] currentMetricsValues() {
    return metrics.values();
  }

  /** Spark 4 calls it, in some of its versions. */
  public void initMetricsValues(CustomTaskMetric[] before) {
    metrics.add(before);
  }

  /** The batches stay as they are: see above. */
  @Override
  public void close() {}

  /**
   * Threads of Spark that feed Python workers or scripts, of this task or another. Such a thread
   * may read a batch that the task's own thread has asked for.
   */
  private static List<Thread> feeders() {
    ThreadGroup group = Thread.currentThread().getThreadGroup();
    Thread[] found = new Thread[2 * group.activeCount() + 16];
    int count = group.enumerate(found);
    List<Thread> feeders = new ArrayList<>();
    for (int index = 0; index < count; index++) {
      String name = found[index].getName();
      if (name.startsWith("stdout writer for ") || name.endsWith("-Feed")) {
        feeders.add(found[index]);
      }
    }
    return feeders;
  }

  /**
   * At once when only this thread has read; else when the others have ended, which Spark has told
   * them to do.
   */
  private void releaseWhenUnused() {
    List<Thread> others = new ArrayList<>();
    synchronized (threads) {
      if (!ended) {
        threads.addAll(feeders());
      }
      for (Thread thread : threads) {
        if (thread != Thread.currentThread() && thread.isAlive()) {
          others.add(thread);
        }
      }
    }
    if (others.isEmpty()) {
      release();
      return;
    }
    Thread reaper =
        new Thread(
            () -> {
              try {
                for (Thread thread : others) {
                  thread.join();
                }
                release();
              } catch (InterruptedException e) {
                // Nobody does that; the mapping stays.
                Thread.currentThread().interrupt();
              }
            },
            "sparkray-release");
    reaper.setDaemon(true);
    reaper.start();
  }

  private synchronized void release() {
    if (released) {
      return;
    }
    released = true;
    try {
      for (ColumnarBatch batch : batches) {
        batch.close();
      }
      columns.close();
    } finally {
      DataNative.tableClose(handle);
    }
  }
}
