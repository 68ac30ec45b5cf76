package org.sparkray.data;

import java.util.Iterator;
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

  /** {@code same_as}: an earlier block of the same task that has exactly this schema, which is not repeated then. */
  static final StructType SCHEMA =
      new StructType()
          .add("block", DataTypes.IntegerType, false)
          .add("same_as", DataTypes.IntegerType, true)
          .add("schema", DataTypes.StringType, true)
          .add("error_code", DataTypes.IntegerType, true)
          .add("error", DataTypes.StringType, true);

  @Override
  public PartitionReader<InternalRow> createReader(InputPartition partition) {
    return new SchemaReader(((SchemaPartition) partition).blocks.iterator());
  }

  private static final class SchemaReader implements PartitionReader<InternalRow> {
    private final Iterator<RayPartition> blocks;
    private InternalRow row;
    private int lastIndex;
    private String lastSchema;

    SchemaReader(Iterator<RayPartition> blocks) {
      this.blocks = blocks;
    }

    @Override
    public boolean next() {
      if (!blocks.hasNext()) {
        return false;
      }
      row = describe(blocks.next());
      return true;
    }

    @Override
    public InternalRow get() {
      return row;
    }

    @Override
    public void close() {}

    private InternalRow describe(RayPartition block) {
      Object[] row = new Object[SCHEMA.length()];
      row[0] = block.index;
      long handle = 0;
      try {
        handle = DataNative.tableOpen(block.block, null);
        String schema = DataNative.tableSchema(handle);
        if (schema.equals(lastSchema)) {
          row[1] = lastIndex;
        } else {
          row[2] = UTF8String.fromString(schema);
          lastSchema = schema;
          lastIndex = block.index;
        }
      } catch (SparkRayException failure) {
        row[3] = failure.getCode();
        row[4] = UTF8String.fromString(failure.getMessage());
      } finally {
        if (handle != 0) {
          DataNative.tableClose(handle);
        }
      }
      return new GenericInternalRow(row);
    }
  }
}
