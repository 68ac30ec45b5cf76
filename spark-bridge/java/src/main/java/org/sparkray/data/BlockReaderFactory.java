package org.sparkray.data;

import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.connector.read.InputPartition;
import org.apache.spark.sql.connector.read.PartitionReader;
import org.apache.spark.sql.connector.read.PartitionReaderFactory;
import org.apache.spark.sql.types.DataType;
import org.apache.spark.sql.types.StructType;
import org.apache.spark.sql.vectorized.ColumnarBatch;

/** Reads blocks as columns. */
final class BlockReaderFactory implements PartitionReaderFactory {
  private static final long serialVersionUID = 1L;

  private final String tableSchemaJson;
  private final StructType readSchema;
  /** Each task has a factory of its own, with the plan that was sent to it. */
  private transient BlockReader.Exhausted exhausted;

  BlockReaderFactory(String tableSchemaJson, StructType readSchema) {
    this.tableSchemaJson = tableSchemaJson;
    this.readSchema = readSchema;
  }

  @Override
  public boolean supportColumnarReads(InputPartition partition) {
    return true;
  }

  @Override
  public PartitionReader<ColumnarBatch> createColumnarReader(InputPartition partition) {
    StructType tableSchema = (StructType) DataType.fromJson(tableSchemaJson);
    int[] columns = new int[readSchema.length()];
    if (readSchema.length() == tableSchema.length()) {
      for (int index = 0; index < columns.length; index++) {
        columns[index] = index;
      }
    } else {
      for (int index = 0; index < columns.length; index++) {
        columns[index] = tableSchema.fieldIndex(readSchema.fields()[index].name());
      }
    }
    return new BlockReader((RayPartition) partition, tableSchemaJson, readSchema, columns, exhausted());
  }

  private synchronized BlockReader.Exhausted exhausted() {
    if (exhausted == null) {
      exhausted = new BlockReader.Exhausted();
    }
    return exhausted;
  }

  @Override
  public PartitionReader<InternalRow> createReader(InputPartition partition) {
    throw new UnsupportedOperationException("objects are read as columns");
  }
}
