package org.sparkray.data;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.connector.read.InputPartition;

/**
 * Blocks of one place whose schemas one task reads: a task for each of many small blocks would cost
 * seconds.
 */
final class SchemaPartition implements InputPartition {
  private static final long serialVersionUID = 1L;

  private static final int MOST_BLOCKS = 64;

  /** A block may have to come from disk or from another node before its schema can be read. */
  private static final long MOST_BYTES = 256L << 20;

  final List<RayPartition> blocks = new ArrayList<>();
  private long bytes;

  private SchemaPartition() {}

  /** All blocks, in the order that they have in each group. */
  static List<SchemaPartition> groups(List<RayPartition> blocks) {
    List<SchemaPartition> all = new ArrayList<>();
    Map<String, SchemaPartition> open = new LinkedHashMap<>();
    for (RayPartition block : blocks) {
      String place = String.join(",", block.preferredLocations());
      SchemaPartition group = open.get(place);
      if (group == null
          || group.blocks.size() == MOST_BLOCKS
          || group.bytes + block.size > MOST_BYTES) {
        group = new SchemaPartition();
        open.put(place, group);
        all.add(group);
      }
      group.blocks.add(block);
      group.bytes += block.size;
    }
    return all;
  }

  @Override
  public String[] preferredLocations() {
    return blocks.get(0).preferredLocations();
  }
}
