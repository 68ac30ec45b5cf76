package org.sparkray.data;

import org.apache.spark.sql.vectorized.ColumnVector;
import org.apache.spark.sql.vectorized.ColumnarBatch;
import org.apache.spark.unsafe.Platform;

/**
 * A buffer outside the heap in which columns wait for native code: for each column eight bytes, 1
 * when it has nulls; if so a byte for each row, 1 where it is null; then the values. Each part ends
 * at a multiple of eight bytes.
 */
final class ColumnStage implements AutoCloseable {
  private static final int HEADER = 8;

  /** Small enough for a core's cache. */
  private static final int CAPACITY = 256 << 10;

  /** So that the headers of a frame with very many columns do not matter. */
  private static final int LEAST_ROWS = 64;

  private final FixedWidth[] widths;
  private final int mostRows;
  private long address;
  private long used;
  private int rows;

  ColumnStage(FixedWidth[] widths) {
    this.widths = widths;
    int rowBytes = 0;
    for (FixedWidth width : widths) {
      rowBytes += 1 + width.bytes;
    }
    mostRows = Math.max(CAPACITY / Math.max(rowBytes, 1), LEAST_ROWS);
    address = Platform.allocateMemory((long) mostRows * rowBytes + widths.length * (HEADER + 16L));
  }

  /** Replaces what is there by rows of a batch, from {@code first} on; returns how many. */
  int fill(ColumnarBatch batch, int first) {
    rows = Math.min(mostRows, batch.numRows() - first);
    long at = address;
    for (int index = 0; index < widths.length; index++) {
      ColumnVector vector = batch.column(index);
      boolean hasNull = vector.hasNull();
      Platform.putLong(null, at, hasNull ? 1 : 0);
      at += HEADER;
      long nulls = 0;
      if (hasNull) {
        nulls = at;
        for (int row = 0; row < rows; row++) {
          Platform.putByte(null, nulls + row, (byte) (vector.isNullAt(first + row) ? 1 : 0));
        }
        at += padded(rows);
      }
      widths[index].copy(vector, first, rows, nulls, at);
      at += padded((long) rows * widths[index].bytes);
    }
    used = at - address;
    return rows;
  }

  private static long padded(long bytes) {
    return (bytes + 7) / 8 * 8;
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

  @Override
  public void close() {
    if (address != 0) {
      Platform.freeMemory(address);
      address = 0;
    }
  }
}
