package org.sparkray.data;

import java.util.Map;
import org.apache.spark.sql.connector.catalog.Table;
import org.apache.spark.sql.connector.catalog.TableProvider;
import org.apache.spark.sql.connector.expressions.Transform;
import org.apache.spark.sql.types.StructType;
import org.apache.spark.sql.util.CaseInsensitiveStringMap;

/**
 * DataSource V2 over objects: {@code spark.read.format("org.sparkray.data.RayTableProvider")} with
 * the option {@code table}. With the option {@code content=schemas} it has one row for each block
 * instead: its schema or what is wrong with it.
 */
public final class RayTableProvider implements TableProvider {
  static final String TABLE = "table";
  static final String CONTENT = "content";
  static final String SCHEMAS = "schemas";

  @Override
  public StructType inferSchema(CaseInsensitiveStringMap options) {
    RayTables.Spec spec = RayTables.get(options.get(TABLE));
    return SCHEMAS.equals(options.get(CONTENT)) ? SchemaReaderFactory.SCHEMA : spec.schema;
  }

  @Override
  public Table getTable(
      StructType schema, Transform[] partitioning, Map<String, String> properties) {
    CaseInsensitiveStringMap options = new CaseInsensitiveStringMap(properties);
    RayTables.Spec spec = RayTables.get(options.get(TABLE));
    return new RayTable(options.get(TABLE), spec, schema, SCHEMAS.equals(options.get(CONTENT)));
  }
}
