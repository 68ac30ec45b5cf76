package org.sparkray.data;

import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import org.apache.spark.TaskContext;
import org.apache.spark.sql.connector.read.PartitionReader;
import org.apache.spark.sql.types.StructType;
import org.apache.spark.sql.vectorized.ColumnarBatch;
import org.apache.spark.util.TaskCompletionListener;

/**
 * The batches of one block. Strings that Spark takes out of a batch point into the mapping, and operators may hold them
 * for longer than the batch: so the mapping stays until the task completes, not until the reader is closed.
 *
 * <p>A task may complete while rows are left, under a limit for example. A thread of Spark that feeds a Python worker
 * may then be in the middle of a row; Spark interrupts it and does not wait for it. So such a mapping stays for a while
 * longer: without it that thread would end the JVM.
 */
final class BlockReader implements PartitionReader<ColumnarBatch> {
  private static final long LINGER_MILLIS = 500;
  private static final ScheduledExecutorService LATER =
      Executors.newSingleThreadScheduledExecutor(
          body -> {
            Thread thread = new Thread(body, "sparkray-release");
            thread.setDaemon(true);
            return thread;
          });

  private final ArrowColumns columns;
  private final long handle;
  private ColumnarBatch batch;
  private boolean exhausted;

  BlockReader(RayPartition block, String tableSchemaJson, StructType readSchema, int[] projection) {
    handle = DataNative.tableOpen(block.block);
    ArrowColumns arrow = null;
    try {
      DataNative.tableProject(handle, tableSchemaJson, projection);
      arrow = new ArrowColumns(readSchema);
      columns = arrow;
      TaskContext.get()
          .addTaskCompletionListener(
              new TaskCompletionListener() {
                @Override
                public void onTaskCompletion(TaskContext context) {
                  if (exhausted) {
                    release();
                  } else {
                    LATER.schedule(BlockReader.this::release, LINGER_MILLIS, TimeUnit.MILLISECONDS);
                  }
                }
              });
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
    closeBatch();
    long[] words = DataNative.tableNext(handle);
    if (words == null) {
      exhausted = true;
      return false;
    }
    batch = columns.wrap(words);
    return true;
  }

  @Override
  public ColumnarBatch get() {
    return batch;
  }

  /** The batch stays as it is: see above. */
  @Override
  public void close() {}

  private void closeBatch() {
    if (batch != null) {
      batch.close();
      batch = null;
    }
  }

  private void release() {
    try {
      closeBatch();
      columns.close();
    } finally {
      DataNative.tableClose(handle);
    }
  }
}
