package org.sparkray.data;

import org.apache.spark.sql.connector.read.InputPartition;

/** One block of a table. */
final class RayPartition implements InputPartition {
  private static final long serialVersionUID = 1L;

  /** Position in the list of references. */
  final int index;
  /** What native code needs to get it, in JSON. */
  final String block;
  private final String[] preferred;

  RayPartition(int index, String block, String[] preferred) {
    this.index = index;
    this.block = block;
    this.preferred = preferred;
  }

  @Override
  public String[] preferredLocations() {
    return preferred.clone();
  }
}
