package org.sparkray.data;

import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.connector.read.InputPartition;
import org.apache.spark.sql.connector.read.PartitionReader;
import org.apache.spark.sql.connector.read.PartitionReaderFactory;
import org.apache.spark.sql.types.StructType;
import org.apache.spark.sql.vectorized.ColumnarBatch;

/** Reads blocks as columns. */
final class BlockReaderFactory implements PartitionReaderFactory {
  private static final long serialVersionUID = 1L;

  private final String blockSchemaJson;
  private final StructType readSchema;
  private final int[] columns;
  private final boolean held;

  /** Each task has a factory of its own, with the plan that was sent to it. */
  private transient BlockReader.Exhausted exhausted;

  private transient ReadMetrics metrics;

  /**
   * @param blockSchemaJson all columns, as the blocks have them
   * @param readSchema the columns to read, as Spark names them
   * @param columns the position of each of these in a block
   * @param held whether blocks stay until their task ends
   */
  BlockReaderFactory(String blockSchemaJson, StructType readSchema, int[] columns, boolean held) {
    this.blockSchemaJson = blockSchemaJson;
    this.readSchema = readSchema;
    this.columns = columns;
    this.held = held;
  }

  @Override
  public boolean supportColumnarReads(InputPartition partition) {
    return true;
  }

  @Override
  public PartitionReader<ColumnarBatch> createColumnarReader(InputPartition partition) {
    return new BlockReader(
        (RayPartition) partition,
        blockSchemaJson,
        readSchema,
        columns,
        held,
        metrics(),
        exhausted());
  }

  private synchronized ReadMetrics metrics() {
    if (metrics == null || ReadMetrics.isForOneReader()) {
      metrics = new ReadMetrics();
    }
    return metrics;
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
