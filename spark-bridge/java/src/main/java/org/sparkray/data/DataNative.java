package org.sparkray.data;

import org.sparkray.NativeLibrary;

/**
 * The exports of {@code feed.rs} and {@code table.rs}. Handles are keys of native tables; a stale
 * one is an error, not a crash.
 */
final class DataNative {
  static {
    NativeLibrary.load();
  }

  private DataNative() {}

  /**
   * Begins the blocks of one partition.
   *
   * @param request a {@code FeedRequest}
   */
  static native long feedOpen(
      byte[] request, String schemaJson, String timeZone, int partition, long attempt);

  /**
   * Adds {@code rows} staged rows in {@code length} bytes at {@code address}; writes blocks that
   * are full.
   */
  static native void feedAppend(long handle, long address, long length, int rows);

  /**
   * Adds {@code rows} rows whose columns are staged in {@code length} bytes at {@code address};
   * writes blocks that are full.
   */
  static native void feedAppendColumns(long handle, long address, long length, int rows);

  /**
   * Writes the last block.
   *
   * @param evenIfEmpty writes a block without rows when there is none
   * @return a {@code FeedReport} of all blocks
   */
  static native byte[] feedFinish(long handle, boolean evenIfEmpty);

  /** Frees what the feed holds; blocks that it wrote stay provisional. */
  static native void feedClose(long handle);

  /**
   * Gets a block into this node's store and maps it.
   *
   * @param block a {@code TableBlock}
   * @param holdDirectory where a copy goes when it is held until the task ends and the store has no
   *     room for that; null when it is not held for so long
   */
  static native long tableOpen(byte[] block, String holdDirectory);

  /**
   * The columns of several blocks, some of which are in use at a time.
   *
   * @param blocks a {@code Table}
   * @return {@code TableSchemas}, which say too what is wrong with a block
   */
  static native byte[] tableSchemas(byte[] blocks);

  /**
   * Fixes which columns are read; fails when the block's columns are not those of {@code
   * schemaJson}.
   */
  static native void tableProject(long handle, String schemaJson, int[] columns);

  /**
   * The next batch: its rows, then for each column the nulls, the number of buffers, and address
   * and length of each; {@code null} at the end.
   */
  static native long[] tableNext(long handle);

  /** Unmaps the block and frees what was cast; every address becomes invalid. */
  static native void tableClose(long handle);
}
