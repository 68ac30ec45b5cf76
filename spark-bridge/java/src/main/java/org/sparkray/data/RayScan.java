package org.sparkray.data;

import java.util.OptionalLong;
import org.apache.spark.sql.connector.metric.CustomMetric;
import org.apache.spark.sql.connector.read.Batch;
import org.apache.spark.sql.connector.read.InputPartition;
import org.apache.spark.sql.connector.read.PartitionReaderFactory;
import org.apache.spark.sql.connector.read.Scan;
import org.apache.spark.sql.connector.read.ScanBuilder;
import org.apache.spark.sql.connector.read.Statistics;
import org.apache.spark.sql.connector.read.SupportsPushDownRequiredColumns;
import org.apache.spark.sql.connector.read.SupportsReportStatistics;
import org.apache.spark.sql.types.StructType;

/** A scan of some columns of a table; one partition for each block, where the block is. */
final class RayScan implements SupportsReportStatistics, Batch {
  private final RayTables.Spec spec;
  private final StructType tableSchema;
  private final StructType readSchema;
  private final boolean schemasOnly;

  private RayScan(
      RayTables.Spec spec, StructType tableSchema, StructType readSchema, boolean schemasOnly) {
    this.spec = spec;
    this.tableSchema = tableSchema;
    this.readSchema = readSchema;
    this.schemasOnly = schemasOnly;
  }

  /** Lets Spark leave columns out. */
  static final class Builder implements ScanBuilder, SupportsPushDownRequiredColumns {
    private final RayTables.Spec spec;
    private final StructType tableSchema;
    private final boolean schemasOnly;
    private StructType readSchema;

    Builder(RayTables.Spec spec, StructType tableSchema, boolean schemasOnly) {
      this.spec = spec;
      this.tableSchema = tableSchema;
      this.readSchema = tableSchema;
      this.schemasOnly = schemasOnly;
    }

    @Override
    public void pruneColumns(StructType requiredSchema) {
      if (!schemasOnly) {
        readSchema = requiredSchema;
      }
    }

    @Override
    public Scan build() {
      return new RayScan(spec, tableSchema, readSchema, schemasOnly);
    }
  }

  @Override
  public StructType readSchema() {
    return readSchema;
  }

  @Override
  public String description() {
    return "sparkray objects (" + spec.blocks.size() + " blocks)";
  }

  /** On the scan's node of Spark's SQL page, beside the number of rows. */
  @Override
  public CustomMetric[] supportedCustomMetrics() {
    return schemasOnly ? new CustomMetric[0] : ReadMetrics.ofScan();
  }

  @Override
  public Batch toBatch() {
    return this;
  }

  @Override
  public InputPartition[] planInputPartitions() {
    if (schemasOnly) {
      return SchemaPartition.groups(spec.blocks).toArray(new InputPartition[0]);
    }
    return spec.blocks.toArray(new InputPartition[0]);
  }

  @Override
  public PartitionReaderFactory createReaderFactory() {
    if (schemasOnly) {
      return new SchemaReaderFactory();
    }
    int[] columns = new int[readSchema.length()];
    for (int index = 0; index < columns.length; index++) {
      columns[index] = tableSchema.fieldIndex(readSchema.fields()[index].name());
    }
    return new BlockReaderFactory(spec.blockSchemaJson, readSchema, columns, Holding.isNeeded());
  }

  @Override
  public Statistics estimateStatistics() {
    return new Statistics() {
      @Override
      public OptionalLong sizeInBytes() {
        return OptionalLong.of(spec.bytes);
      }

      @Override
      public OptionalLong numRows() {
        return OptionalLong.empty();
      }
    };
  }
}
