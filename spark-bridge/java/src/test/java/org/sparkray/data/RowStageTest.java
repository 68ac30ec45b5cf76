package org.sparkray.data;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.apache.spark.sql.catalyst.expressions.UnsafeRow;
import org.apache.spark.unsafe.Platform;
import org.junit.jupiter.api.Test;

class RowStageTest {
  /** A row of so many bytes that holds its own positions. */
  private static UnsafeRow row(int size) {
    byte[] bytes = new byte[size];
    for (int at = 0; at < size; at++) {
      bytes[at] = (byte) at;
    }
    UnsafeRow row = new UnsafeRow(1);
    row.pointTo(bytes, Platform.BYTE_ARRAY_OFFSET, size);
    return row;
  }

  private static void check(long address, int size) {
    assertEquals(size, Platform.getLong(null, address));
    for (int at = 0; at < size; at++) {
      assertEquals((byte) at, Platform.getByte(null, address + 8 + at), "byte " + at);
    }
  }

  @Test
  void rowsStandOneAfterTheOtherEachBehindItsSize() {
    // Short ones are copied by words, long ones at once.
    int[] sizes = {16, 256, 264, 4096};
    try (RowStage stage = new RowStage()) {
      for (int size : sizes) {
        assertTrue(stage.add(row(size)));
      }
      assertEquals(sizes.length, stage.rows());
      long at = stage.address();
      for (int size : sizes) {
        check(at, size);
        at += 8 + size;
      }
      assertEquals(at - stage.address(), stage.length());
    }
  }

  @Test
  void aRowThatDoesNotFitWaitsUntilTheStageWasEmptied() {
    try (RowStage stage = new RowStage()) {
      int size = 100 << 10;
      assertTrue(stage.add(row(size)));
      assertTrue(stage.add(row(size)));
      assertFalse(stage.add(row(size)));
      assertEquals(2, stage.rows());
      stage.clear();
      assertEquals(0, stage.length());
      assertTrue(stage.add(row(size)));
      check(stage.address(), size);
    }
  }

  @Test
  void aRowThatIsLargerThanTheStageGetsALargerOne() {
    try (RowStage stage = new RowStage()) {
      int size = 1 << 20;
      assertTrue(stage.add(row(size)));
      check(stage.address(), size);
      assertFalse(stage.add(row(8)));
    }
  }
}
