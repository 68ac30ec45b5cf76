package org.sparkray.data;

/** Writes one partition into blocks of the node's store. Used by one thread. */
final class BlockWriter implements AutoCloseable {
  private long handle;

  BlockWriter(byte[] request, String schemaJson, String timeZone, int partition, long attempt) {
    handle = DataNative.feedOpen(request, schemaJson, timeZone, partition, attempt);
  }

  /** Adds the staged rows; the stage is empty afterwards. */
  void append(RowStage stage) {
    if (stage.rows() > 0) {
      DataNative.feedAppend(handle, stage.address(), stage.length(), stage.rows());
      stage.clear();
    }
  }

  /** Adds the staged columns. */
  void append(ColumnStage stage) {
    DataNative.feedAppendColumns(handle, stage.address(), stage.length(), stage.rows());
  }

  /** Seals the last block; returns a {@code FeedReport} of all blocks. */
  byte[] finish(boolean evenIfEmpty) {
    return DataNative.feedFinish(handle, evenIfEmpty);
  }

  @Override
  public void close() {
    if (handle != 0) {
      DataNative.feedClose(handle);
      handle = 0;
    }
  }
}
