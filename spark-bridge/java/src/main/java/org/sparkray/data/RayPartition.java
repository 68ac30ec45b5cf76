package org.sparkray.data;

import org.apache.spark.sql.connector.read.InputPartition;

/** One block of a table. */
final class RayPartition implements InputPartition {
  private static final long serialVersionUID = 2L;

  /** Position in the list of references. */
  final int index;

  /** What native code needs to get it: {@code TableBlock}. */
  final byte[] block;

  /** Bytes of the object. */
  final long size;

  private final String[] preferred;

  /** On the driver, where RDDs have nothing else of the table: keeps it alive. */
  @SuppressWarnings("unused")
  private final transient RayTables.Spec table;

  RayPartition(RayTables.Spec table, int index, byte[] block, long size, String[] preferred) {
    this.table = table;
    this.index = index;
    this.block = block;
    this.size = size;
    this.preferred = preferred;
  }

  @Override
  public String[] preferredLocations() {
    return preferred.clone();
  }
}
