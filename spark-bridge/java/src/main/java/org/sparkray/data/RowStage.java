package org.sparkray.data;

import org.apache.spark.sql.catalyst.expressions.UnsafeRow;
import org.apache.spark.unsafe.Platform;

/**
 * A buffer outside the heap in which rows wait for native code: for each row eight bytes with its
 * size, then its bytes.
 */
final class RowStage implements AutoCloseable {
  private static final int ROW_PREFIX = 8;
  private static final int COPY_BY_WORDS = 256;

  /** Small enough for a core's cache: native code reads the batch once for each column. */
  private static final long CAPACITY = 256 << 10;

  private long address;
  private long capacity;
  private long used;
  private int rows;

  RowStage() {
    capacity = CAPACITY;
    address = Platform.allocateMemory(capacity);
  }

  /** Copies a row; {@code false} when it does not fit and the stage must be emptied first. */
  boolean add(UnsafeRow row) {
    int size = row.getSizeInBytes();
    long end = used + ROW_PREFIX + size;
    if (end > capacity) {
      if (rows > 0) {
        return false;
      }
      grow(end);
    }
    long target = address + used;
    Platform.putLong(null, target, size);
    copy(row.getBaseObject(), row.getBaseOffset(), target + ROW_PREFIX, size);
    used = end;
    rows++;
    return true;
  }

  /** Short rows are copied word by word: a call of copyMemory costs more than that. */
  private static void copy(Object base, long offset, long target, int size) {
    if (size > COPY_BY_WORDS) {
      Platform.copyMemory(base, offset, null, target, size);
      return;
    }
    for (int at = 0; at < size; at += 8) {
      Platform.putLong(null, target + at, Platform.getLong(base, offset + at));
    }
  }

  private void grow(long needed) {
    Platform.freeMemory(address);
    address = 0;
    address = Platform.allocateMemory(needed);
    capacity = needed;
  }

  long address() {
    return address;
  }

  long length() {
    return used;
  }

  int rows() {
    return rows;
  }

  void clear() {
    used = 0;
    rows = 0;
  }

  @Override
  public void close() {
    if (address != 0) {
      Platform.freeMemory(address);
      address = 0;
    }
  }
}
