package org.sparkray.data;

import java.util.Collections;
import java.util.Set;
import org.apache.spark.sql.connector.catalog.SupportsRead;
import org.apache.spark.sql.connector.catalog.TableCapability;
import org.apache.spark.sql.connector.read.ScanBuilder;
import org.apache.spark.sql.types.StructType;
import org.apache.spark.sql.util.CaseInsensitiveStringMap;

/** A list of blocks as a table. */
final class RayTable implements SupportsRead {
  private final String tableId;
  private final RayTables.Spec spec;
  private final StructType schema;
  private final boolean schemasOnly;

  RayTable(String tableId, RayTables.Spec spec, StructType schema, boolean schemasOnly) {
    this.tableId = tableId;
    this.spec = spec;
    this.schema = schema;
    this.schemasOnly = schemasOnly;
  }

  @Override
  public String name() {
    return "sparkray objects " + tableId;
  }

  // Spark 3.4 has columns() beside it; schema() is what every version knows.
  @Override
  @SuppressWarnings("deprecation")
  public StructType schema() {
    return schema;
  }

  @Override
  public Set<TableCapability> capabilities() {
    return Collections.singleton(TableCapability.BATCH_READ);
  }

  @Override
  public ScanBuilder newScanBuilder(CaseInsensitiveStringMap options) {
    return new RayScan.Builder(spec, schema, schemasOnly);
  }
}
