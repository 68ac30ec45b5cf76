package org.sparkray.data;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.apache.spark.sql.types.DataTypes;
import org.apache.spark.sql.types.StructType;
import org.apache.spark.sql.vectorized.ColumnarBatch;
import org.apache.spark.unsafe.Platform;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/** Columns over memory that somebody else owns: here the test, else native code. */
class ArrowColumnsTest {
  private static final long SIZE = 256;

  private final long memory = Platform.allocateMemory(SIZE);

  ArrowColumnsTest() {
    Platform.setMemory(memory, (byte) 0, SIZE);
  }

  @AfterEach
  void free() {
    Platform.freeMemory(memory);
  }

  /** Three longs, the second of them null, behind their validity. */
  private long[] longs() {
    Platform.putByte(null, memory, (byte) 0b101);
    Platform.putLong(null, memory + 64, 7);
    Platform.putLong(null, memory + 80, -1);
    return new long[] {3, 1, 2, memory, 8, memory + 64, 24};
  }

  @Test
  void valuesAndNullsAreReadFromTheAddresses() {
    StructType schema = new StructType().add("x", DataTypes.LongType);
    try (ArrowColumns columns = new ArrowColumns(schema)) {
      ColumnarBatch batch = columns.wrap(longs());
      assertEquals(3, batch.numRows());
      assertEquals(7, batch.column(0).getLong(0));
      assertTrue(batch.column(0).isNullAt(1));
      assertEquals(-1, batch.column(0).getLong(2));
      batch.close();
    }
    // It is still the test's: closing a batch frees nothing of it.
    assertEquals(7, Platform.getLong(null, memory + 64));
  }

  @Test
  void aColumnWithoutNullsMayHaveNoValidity() {
    Platform.putInt(null, memory, 1);
    Platform.putInt(null, memory + 4, 4);
    Platform.putInt(null, memory + 8, 5);
    Platform.putLong(null, memory + 64, 'a' | 'b' << 8 | 'c' << 16 | 'd' << 24 | (long) 'e' << 32);
    StructType schema = new StructType().add("s", DataTypes.StringType);
    try (ArrowColumns columns = new ArrowColumns(schema)) {
      ColumnarBatch batch = columns.wrap(new long[] {2, 0, 3, 0, 0, memory, 12, memory + 64, 5});
      assertEquals("bcd", batch.column(0).getUTF8String(0).toString());
      assertEquals("e", batch.column(0).getUTF8String(1).toString());
      assertFalse(batch.column(0).hasNull());
      batch.close();
    }
  }

  @Test
  void columnsOfNullsHaveNoBuffersAndTheNextColumnStandsBehindThem() {
    StructType schema = new StructType().add("n", DataTypes.NullType).add("x", DataTypes.LongType);
    long[] longs = longs();
    long[] words = {3, 3, 0, longs[1], longs[2], longs[3], longs[4], longs[5], longs[6]};
    try (ArrowColumns columns = new ArrowColumns(schema)) {
      ColumnarBatch batch = columns.wrap(words);
      assertTrue(batch.column(0).isNullAt(2));
      assertEquals(7, batch.column(1).getLong(0));
      batch.close();
    }
  }

  @Test
  void batchesThatWereHandedOutBeforeStayReadable() {
    StructType schema = new StructType().add("x", DataTypes.LongType);
    try (ArrowColumns columns = new ArrowColumns(schema)) {
      ColumnarBatch first = columns.wrap(longs());
      ColumnarBatch second = columns.wrap(new long[] {1, 0, 2, 0, 0, memory + 80, 8});
      assertEquals(7, first.column(0).getLong(0));
      assertEquals(-1, second.column(0).getLong(0));
      first.close();
      second.close();
    }
  }

  @Test
  void nestedColumnsAreRefused() {
    StructType schema = new StructType().add("a", DataTypes.createArrayType(DataTypes.LongType));
    assertThrows(IllegalArgumentException.class, () -> new ArrowColumns(schema));
  }
}
