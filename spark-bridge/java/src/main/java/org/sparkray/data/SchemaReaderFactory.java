package org.sparkray.data;

import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.catalyst.expressions.GenericInternalRow;
import org.apache.spark.sql.connector.read.InputPartition;
import org.apache.spark.sql.connector.read.PartitionReader;
import org.apache.spark.sql.connector.read.PartitionReaderFactory;
import org.apache.spark.sql.types.DataTypes;
import org.apache.spark.sql.types.StructType;
import org.apache.spark.unsafe.types.UTF8String;
import org.sparkray.SparkRayException;

/**
 * Reads the schema of each block where the block is. What is wrong with a block is a value, not a failure: the driver
 * names the block and decides by the code.
 */
final class SchemaReaderFactory implements PartitionReaderFactory {
  private static final long serialVersionUID = 1L;

  static final StructType SCHEMA =
      new StructType()
          .add("block", DataTypes.IntegerType, false)
          .add("schema", DataTypes.StringType, true)
          .add("error_code", DataTypes.IntegerType, true)
          .add("error", DataTypes.StringType, true);

  @Override
  public PartitionReader<InternalRow> createReader(InputPartition partition) {
    RayPartition block = (RayPartition) partition;
    return new PartitionReader<InternalRow>() {
      private boolean done;

      @Override
      public boolean next() {
        boolean first = !done;
        done = true;
        return first;
      }

      @Override
      public InternalRow get() {
        return describe(block);
      }

      @Override
      public void close() {}
    };
  }

  private static InternalRow describe(RayPartition block) {
    Object[] row = new Object[4];
    row[0] = block.index;
    long handle = 0;
    try {
      handle = DataNative.tableOpen(block.block);
      row[1] = UTF8String.fromString(DataNative.tableSchema(handle));
    } catch (SparkRayException failure) {
      row[2] = failure.getCode();
      row[3] = UTF8String.fromString(failure.getMessage());
    } finally {
      if (handle != 0) {
        DataNative.tableClose(handle);
      }
    }
    return new GenericInternalRow(row);
  }
}
