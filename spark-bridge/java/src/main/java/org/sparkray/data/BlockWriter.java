package org.sparkray.data;

import org.apache.spark.sql.catalyst.expressions.UnsafeRow;

/** Writes the rows of one partition into blocks of the node's store. Used by one thread. */
final class BlockWriter implements AutoCloseable {
  private final RowStage stage = new RowStage();
  private long handle;

  BlockWriter(String request, String schemaJson, String timeZone, int partition, long attempt) {
    try {
      handle = DataNative.feedOpen(request, schemaJson, timeZone, partition, attempt);
    } catch (Throwable failure) {
      stage.close();
      throw failure;
    }
  }

  /** Adds a row; its bytes are copied. Returns whether rows went to native code. */
  boolean add(UnsafeRow row) {
    if (stage.add(row)) {
      return false;
    }
    flush();
    stage.add(row);
    return true;
  }

  private void flush() {
    if (stage.rows() > 0) {
      DataNative.feedAppend(handle, stage.address(), stage.length(), stage.rows());
      stage.clear();
    }
  }

  /** Seals the last block; returns the description of all blocks in JSON. */
  String finish(boolean evenIfEmpty) {
    flush();
    return DataNative.feedFinish(handle, evenIfEmpty);
  }

  @Override
  public void close() {
    stage.close();
    if (handle != 0) {
      DataNative.feedClose(handle);
      handle = 0;
    }
  }
}
