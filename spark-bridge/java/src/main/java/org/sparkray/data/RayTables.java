package org.sparkray.data;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.spark.sql.types.DataType;
import org.apache.spark.sql.types.StructType;

/**
 * The tables that {@code sparkray.to_spark} made in this driver, by their ids. {@code to_spark} registers a table, reads
 * the schemas of its blocks by a job, sets the schema, and keeps the references of its blocks alive.
 */
public final class RayTables {
  /** Where a table's blocks are. */
  static final class Spec {
    final List<RayPartition> blocks;
    final long bytes;
    volatile StructType schema;

    Spec(List<RayPartition> blocks, long bytes) {
      this.blocks = blocks;
      this.bytes = bytes;
    }
  }

  private static final ConcurrentHashMap<String, Spec> TABLES = new ConcurrentHashMap<>();

  private RayTables() {}

  /**
   * Adds a table.
   *
   * @param blocksJson a list of {@code {"object_id", "size", "locations", "preferred"}}; all but the list of preferred
   *     locations is for native code
   */
  public static void register(String tableId, String blocksJson) {
    List<RayPartition> blocks = new ArrayList<>();
    long bytes = 0;
    try {
      for (JsonNode block : new ObjectMapper().readTree(blocksJson)) {
        List<String> preferred = new ArrayList<>();
        for (JsonNode location : block.path("preferred")) {
          preferred.add(location.asText());
        }
        bytes += block.path("size").asLong();
        blocks.add(
            new RayPartition(blocks.size(), block.toString(), preferred.toArray(new String[0])));
      }
    } catch (JsonProcessingException failure) {
      throw new IllegalArgumentException("the list of blocks is not JSON", failure);
    }
    TABLES.put(tableId, new Spec(blocks, bytes));
  }

  /** Fixes a table's columns. */
  public static void setSchema(String tableId, String schemaJson) {
    get(tableId).schema = (StructType) DataType.fromJson(schemaJson);
  }

  /** Forgets a table; DataFrames over it fail from now on. */
  public static void unregister(String tableId) {
    TABLES.remove(tableId);
  }

  static Spec get(String tableId) {
    Spec spec = tableId == null ? null : TABLES.get(tableId);
    if (spec == null) {
      throw new IllegalStateException(
          "this DataFrame's objects are gone: the cluster that held them was stopped");
    }
    return spec;
  }
}
