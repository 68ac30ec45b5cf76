package org.sparkray.data;

import java.util.ArrayList;
import java.util.List;
import org.apache.arrow.memory.ArrowBuf;
import org.apache.arrow.memory.BufferAllocator;
import org.apache.arrow.memory.ForeignAllocation;
import org.apache.arrow.memory.RootAllocator;
import org.apache.arrow.vector.FieldVector;
import org.apache.arrow.vector.NullVector;
import org.apache.arrow.vector.ipc.message.ArrowFieldNode;
import org.apache.arrow.vector.types.DateUnit;
import org.apache.arrow.vector.types.FloatingPointPrecision;
import org.apache.arrow.vector.types.TimeUnit;
import org.apache.arrow.vector.types.pojo.ArrowType;
import org.apache.arrow.vector.types.pojo.Field;
import org.apache.arrow.vector.types.pojo.FieldType;
import org.apache.spark.sql.types.BinaryType;
import org.apache.spark.sql.types.BooleanType;
import org.apache.spark.sql.types.ByteType;
import org.apache.spark.sql.types.DataType;
import org.apache.spark.sql.types.DateType;
import org.apache.spark.sql.types.DecimalType;
import org.apache.spark.sql.types.DoubleType;
import org.apache.spark.sql.types.FloatType;
import org.apache.spark.sql.types.IntegerType;
import org.apache.spark.sql.types.LongType;
import org.apache.spark.sql.types.NullType;
import org.apache.spark.sql.types.ShortType;
import org.apache.spark.sql.types.StringType;
import org.apache.spark.sql.types.StructField;
import org.apache.spark.sql.types.StructType;
import org.apache.spark.sql.types.TimestampNTZType;
import org.apache.spark.sql.types.TimestampType;
import org.apache.spark.sql.vectorized.ArrowColumnVector;
import org.apache.spark.sql.vectorized.ColumnVector;
import org.apache.spark.sql.vectorized.ColumnarBatch;

/** Makes Arrow vectors over native addresses, which they do not own. */
final class ArrowColumns implements AutoCloseable {
  private final BufferAllocator allocator = new RootAllocator(Long.MAX_VALUE);
  private final List<Field> fields = new ArrayList<>();

  ArrowColumns(StructType schema) {
    for (StructField field : schema.fields()) {
      FieldType type = new FieldType(true, arrowType(field.dataType()), null);
      fields.add(new Field(field.name(), type, null));
    }
  }

  /** Reads what {@link DataNative#tableNext} returned. */
  ColumnarBatch wrap(long[] words) {
    int rows = Math.toIntExact(words[0]);
    ColumnVector[] columns = new ColumnVector[fields.size()];
    int at = 1;
    for (int index = 0; index < columns.length; index++) {
      int nulls = Math.toIntExact(words[at]);
      int buffers = (int) words[at + 1];
      columns[index] = wrapColumn(fields.get(index), rows, nulls, words, at + 2, buffers);
      at += 2 + 2 * buffers;
    }
    return new ColumnarBatch(columns, rows);
  }

  private ColumnVector wrapColumn(
      Field field, int rows, int nulls, long[] words, int first, int count) {
    FieldVector vector = field.createVector(allocator);
    if (vector instanceof NullVector) {
      vector.setValueCount(rows);
      return new ArrowColumnVector(vector);
    }
    List<ArrowBuf> buffers = new ArrayList<>(count);
    for (int index = 0; index < count; index++) {
      buffers.add(wrapBuffer(words[first + 2 * index], words[first + 2 * index + 1]));
    }
    vector.loadFieldBuffers(new ArrowFieldNode(rows, nulls), buffers);
    // The vector holds them now.
    for (ArrowBuf buffer : buffers) {
      buffer.getReferenceManager().release();
    }
    return new ArrowColumnVector(vector);
  }

  private ArrowBuf wrapBuffer(long address, long length) {
    if (length == 0) {
      return allocator.getEmpty();
    }
    return allocator.wrapForeignAllocation(
        new ForeignAllocation(length, address) {
          @Override
          protected void release0() {
            // Native code frees the memory when the block is closed.
          }
        });
  }

  @Override
  public void close() {
    allocator.close();
  }

  private static ArrowType arrowType(DataType type) {
    if (type instanceof BooleanType) {
      return ArrowType.Bool.INSTANCE;
    }
    if (type instanceof ByteType) {
      return new ArrowType.Int(8, true);
    }
    if (type instanceof ShortType) {
      return new ArrowType.Int(16, true);
    }
    if (type instanceof IntegerType) {
      return new ArrowType.Int(32, true);
    }
    if (type instanceof LongType) {
      return new ArrowType.Int(64, true);
    }
    if (type instanceof FloatType) {
      return new ArrowType.FloatingPoint(FloatingPointPrecision.SINGLE);
    }
    if (type instanceof DoubleType) {
      return new ArrowType.FloatingPoint(FloatingPointPrecision.DOUBLE);
    }
    if (type instanceof DecimalType) {
      DecimalType decimal = (DecimalType) type;
      return new ArrowType.Decimal(decimal.precision(), decimal.scale(), 128);
    }
    if (type instanceof StringType) {
      return ArrowType.Utf8.INSTANCE;
    }
    if (type instanceof BinaryType) {
      return ArrowType.Binary.INSTANCE;
    }
    if (type instanceof DateType) {
      return new ArrowType.Date(DateUnit.DAY);
    }
    if (type instanceof TimestampType) {
      return new ArrowType.Timestamp(TimeUnit.MICROSECOND, "UTC");
    }
    if (type instanceof TimestampNTZType) {
      return new ArrowType.Timestamp(TimeUnit.MICROSECOND, null);
    }
    if (type instanceof NullType) {
      return ArrowType.Null.INSTANCE;
    }
    throw new IllegalArgumentException("blocks have no columns of type " + type.simpleString());
  }
}
