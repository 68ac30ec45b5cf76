package org.sparkray.data;

import org.apache.spark.sql.catalyst.expressions.UnsafeRow;
import org.apache.spark.unsafe.Platform;

/**
 * A buffer outside the heap in which rows wait for native code: for each row eight bytes with its size, then its bytes.
 */
final class RowStage implements AutoCloseable {
  private static final int ROW_PREFIX = 8;
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
    Platform.putLong(null, address + used, size);
    row.writeToMemory(null, address + used + ROW_PREFIX);
    used = end;
    rows++;
    return true;
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
