package org.sparkray.data;

import org.apache.spark.sql.execution.vectorized.WritableColumnVector;
import org.apache.spark.sql.types.BooleanType;
import org.apache.spark.sql.types.ByteType;
import org.apache.spark.sql.types.DataType;
import org.apache.spark.sql.types.DateType;
import org.apache.spark.sql.types.DoubleType;
import org.apache.spark.sql.types.FloatType;
import org.apache.spark.sql.types.IntegerType;
import org.apache.spark.sql.types.LongType;
import org.apache.spark.sql.types.ShortType;
import org.apache.spark.sql.types.StructField;
import org.apache.spark.sql.types.StructType;
import org.apache.spark.sql.types.TimestampNTZType;
import org.apache.spark.sql.types.TimestampType;
import org.apache.spark.sql.vectorized.ColumnVector;
import org.apache.spark.unsafe.Platform;

/** How the values of a column lie in memory when all have the same number of bytes. */
enum FixedWidth {
  BOOLEAN(1),
  BYTE(1),
  SHORT(2),
  INT(4),
  LONG(8),
  FLOAT(4),
  DOUBLE(8);

  final int bytes;

  FixedWidth(int bytes) {
    this.bytes = bytes;
  }

  /** One for each column; null when a column's values are of another kind. */
  static FixedWidth[] of(StructType schema) {
    StructField[] fields = schema.fields();
    FixedWidth[] widths = new FixedWidth[fields.length];
    for (int index = 0; index < fields.length; index++) {
      widths[index] = of(fields[index].dataType());
      if (widths[index] == null) {
        return null;
      }
    }
    return widths;
  }

  private static FixedWidth of(DataType type) {
    if (type instanceof BooleanType) {
      return BOOLEAN;
    }
    if (type instanceof ByteType) {
      return BYTE;
    }
    if (type instanceof ShortType) {
      return SHORT;
    }
    if (type instanceof IntegerType || type instanceof DateType) {
      return INT;
    }
    if (type instanceof LongType
        || type instanceof TimestampType
        || type instanceof TimestampNTZType) {
      return LONG;
    }
    if (type instanceof FloatType) {
      return FLOAT;
    }
    return type instanceof DoubleType ? DOUBLE : null;
  }

  /**
   * Copies values to {@code target}. At {@code nulls}, unless that is 0, is a byte for each row: 1
   * where it is null. Such a row's value is not looked at, for not every vector has one, and
   * becomes 0.
   */
  void copy(ColumnVector vector, int first, int rows, long nulls, long target) {
    if (nulls == 0 && vector instanceof WritableColumnVector) {
      copyAtOnce(vector, first, rows, target);
    } else {
      copyOneByOne(vector, first, rows, nulls, target);
    }
  }

  /** Spark's own vectors copy memory, which is fast before the compilers have seen any loop. */
  private void copyAtOnce(ColumnVector vector, int first, int rows, long target) {
    Object values;
    long start;
    switch (this) {
      case BOOLEAN:
        values = vector.getBooleans(first, rows);
        start = Platform.BOOLEAN_ARRAY_OFFSET;
        break;
      case BYTE:
        values = vector.getBytes(first, rows);
        start = Platform.BYTE_ARRAY_OFFSET;
        break;
      case SHORT:
        values = vector.getShorts(first, rows);
        start = Platform.SHORT_ARRAY_OFFSET;
        break;
      case INT:
        values = vector.getInts(first, rows);
        start = Platform.INT_ARRAY_OFFSET;
        break;
      case LONG:
        values = vector.getLongs(first, rows);
        start = Platform.LONG_ARRAY_OFFSET;
        break;
      case FLOAT:
        values = vector.getFloats(first, rows);
        start = Platform.FLOAT_ARRAY_OFFSET;
        break;
      default:
        values = vector.getDoubles(first, rows);
        start = Platform.DOUBLE_ARRAY_OFFSET;
    }
    Platform.copyMemory(values, start, null, target, (long) rows * bytes);
  }

  private void copyOneByOne(ColumnVector vector, int first, int rows, long nulls, long target) {
    switch (this) {
      case BOOLEAN:
        for (int row = 0; row < rows; row++) {
          boolean value = !isNull(nulls, row) && vector.getBoolean(first + row);
          Platform.putByte(null, target + row, (byte) (value ? 1 : 0));
        }
        return;
      case BYTE:
        for (int row = 0; row < rows; row++) {
          byte value = isNull(nulls, row) ? 0 : vector.getByte(first + row);
          Platform.putByte(null, target + row, value);
        }
        return;
      case SHORT:
        for (int row = 0; row < rows; row++) {
          short value = isNull(nulls, row) ? 0 : vector.getShort(first + row);
          Platform.putShort(null, target + 2L * row, value);
        }
        return;
      case INT:
        for (int row = 0; row < rows; row++) {
          int value = isNull(nulls, row) ? 0 : vector.getInt(first + row);
          Platform.putInt(null, target + 4L * row, value);
        }
        return;
      case LONG:
        for (int row = 0; row < rows; row++) {
          long value = isNull(nulls, row) ? 0 : vector.getLong(first + row);
          Platform.putLong(null, target + 8L * row, value);
        }
        return;
      case FLOAT:
        for (int row = 0; row < rows; row++) {
          float value = isNull(nulls, row) ? 0 : vector.getFloat(first + row);
          Platform.putFloat(null, target + 4L * row, value);
        }
        return;
      default:
        for (int row = 0; row < rows; row++) {
          double value = isNull(nulls, row) ? 0 : vector.getDouble(first + row);
          Platform.putDouble(null, target + 8L * row, value);
        }
    }
  }

  private static boolean isNull(long nulls, int row) {
    return nulls != 0 && Platform.getByte(null, nulls + row) != 0;
  }
}
