package org.sparkray.data;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.apache.spark.sql.execution.vectorized.OnHeapColumnVector;
import org.apache.spark.sql.types.DataTypes;
import org.apache.spark.sql.types.StructType;
import org.apache.spark.sql.vectorized.ColumnVector;
import org.apache.spark.sql.vectorized.ColumnarBatch;
import org.apache.spark.unsafe.Platform;
import org.junit.jupiter.api.Test;

class ColumnStageTest {
  private static final StructType SCHEMA =
      new StructType()
          .add("flag", DataTypes.BooleanType)
          .add("small", DataTypes.ByteType)
          .add("short", DataTypes.ShortType)
          .add("day", DataTypes.DateType)
          .add("at", DataTypes.TimestampType)
          .add("single", DataTypes.FloatType)
          .add("double", DataTypes.DoubleType);

  private static OnHeapColumnVector[] vectors(int rows) {
    return OnHeapColumnVector.allocateColumns(rows, SCHEMA);
  }

  private static ColumnarBatch batch(OnHeapColumnVector[] vectors, int rows) {
    return new ColumnarBatch((ColumnVector[]) vectors, rows);
  }

  @Test
  void eachColumnIsBehindItsNulls() {
    OnHeapColumnVector[] vectors = vectors(2);
    vectors[0].putBoolean(0, true);
    vectors[1].putByte(0, (byte) -7);
    vectors[2].putShort(0, (short) -700);
    vectors[3].putInt(0, -70000);
    vectors[4].putLong(0, Long.MIN_VALUE);
    vectors[5].putFloat(0, Float.intBitsToFloat(0x7fc00001));
    vectors[6].putDouble(0, -0.0);
    for (OnHeapColumnVector vector : vectors) {
      vector.putNull(1);
    }
    try (ColumnStage stage = new ColumnStage(FixedWidth.of(SCHEMA))) {
      assertEquals(2, stage.fill(batch(vectors, 2), 0));
      int[] widths = {1, 1, 2, 4, 8, 4, 8};
      long[] values = {
        1, 0xf9, 0xfd44, 0xfffeee90L, Long.MIN_VALUE, 0x7fc00001, Double.doubleToRawLongBits(-0.0)
      };
      long at = stage.address();
      for (int column = 0; column < widths.length; column++) {
        assertEquals(1, Platform.getLong(null, at), "column " + column);
        assertEquals(0x0100, Platform.getShort(null, at + 8), "nulls of column " + column);
        long[] words = {Platform.getLong(null, at + 16), 0};
        if (widths[column] == 8) {
          words[1] = Platform.getLong(null, at + 24);
        }
        // The second value is 0, and so is what is above the two in a narrower word.
        long mask = widths[column] >= 4 ? -1 : (1L << (16 * widths[column])) - 1;
        assertArrayEquals(
            new long[] {values[column], 0},
            new long[] {words[0] & mask, words[1]},
            "column " + column);
        at += 16 + (2L * widths[column] + 7) / 8 * 8;
      }
      assertEquals(at - stage.address(), stage.length());
    }
  }

  @Test
  void aLargeBatchIsStagedInParts() {
    int rows = 100_000;
    OnHeapColumnVector[] vectors = vectors(rows);
    for (int row = 0; row < rows; row++) {
      vectors[1].putByte(row, (byte) row);
    }
    ColumnarBatch batch = batch(vectors, rows);
    try (ColumnStage stage = new ColumnStage(FixedWidth.of(SCHEMA))) {
      int parts = 0;
      int first = 0;
      while (first < rows) {
        int filled = stage.fill(batch, first);
        assertTrue(filled > 0 && stage.length() <= 256 << 10);
        assertEquals(filled, stage.rows());
        long column = stage.address() + 8 + (filled + 7) / 8 * 8 + 8;
        for (int row = 0; row < filled; row++) {
          assertEquals((byte) (first + row), Platform.getByte(null, column + row));
        }
        first += filled;
        parts++;
      }
      assertTrue(parts > 1);
    }
  }

  @Test
  void aColumnOfAnotherKindHasNoFixedWidth() {
    assertNull(FixedWidth.of(SCHEMA.add("text", DataTypes.StringType)));
    assertNull(FixedWidth.of(SCHEMA.add("money", DataTypes.createDecimalType(9, 2))));
  }
}
