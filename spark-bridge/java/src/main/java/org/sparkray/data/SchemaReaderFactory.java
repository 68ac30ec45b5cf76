package org.sparkray.data;

import java.util.List;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.catalyst.expressions.GenericInternalRow;
import org.apache.spark.sql.connector.read.InputPartition;
import org.apache.spark.sql.connector.read.PartitionReader;
import org.apache.spark.sql.connector.read.PartitionReaderFactory;
import org.apache.spark.sql.types.DataTypes;
import org.apache.spark.sql.types.StructType;
import org.sparkray.wire.Fields;
import org.sparkray.wire.MessageWriter;

/**
 * Reads the schemas of blocks where the blocks are: one row for each task. What is wrong with a
 * block is a value, not a failure: the driver names the block and decides by the code.
 */
final class SchemaReaderFactory implements PartitionReaderFactory {
  private static final long serialVersionUID = 2L;

  /** {@code TableSchemas}. */
  static final StructType SCHEMA = new StructType().add("schemas", DataTypes.BinaryType, false);

  @Override
  public PartitionReader<InternalRow> createReader(InputPartition partition) {
    return new SchemaReader(((SchemaPartition) partition).blocks);
  }

  private static final class SchemaReader implements PartitionReader<InternalRow> {
    private final List<RayPartition> blocks;
    private InternalRow row;

    SchemaReader(List<RayPartition> blocks) {
      this.blocks = blocks;
    }

    @Override
    public boolean next() {
      if (row != null) {
        return false;
      }
      MessageWriter table = new MessageWriter();
      for (RayPartition block : blocks) {
        table.bytes(Fields.Table.BLOCKS, block.block);
      }
      row = new GenericInternalRow(new Object[] {DataNative.tableSchemas(table.toBytes())});
      return true;
    }

    @Override
    public InternalRow get() {
      return row;
    }

    @Override
    public void close() {}
  }
}
