package org.sparkray.data;

import org.apache.spark.TaskContext;
import org.apache.spark.sql.connector.read.PartitionReader;
import org.apache.spark.sql.types.StructType;
import org.apache.spark.sql.vectorized.ColumnarBatch;
import org.apache.spark.util.TaskCompletionListener;

/**
 * The batches of one block. Strings that Spark takes out of a batch point into the mapping, and operators may hold them
 * for longer than the batch: so the mapping stays until the task completes, not until the reader is closed.
 */
final class BlockReader implements PartitionReader<ColumnarBatch> {
  private final ArrowColumns columns;
  private final long handle;
  private ColumnarBatch batch;

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
                  release();
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
      return false;
    }
    batch = columns.wrap(words);
    return true;
  }

  @Override
  public ColumnarBatch get() {
    return batch;
  }

  @Override
  public void close() {
    closeBatch();
  }

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
