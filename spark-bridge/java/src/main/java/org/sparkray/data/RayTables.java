package org.sparkray.data;

import java.lang.ref.ReferenceQueue;
import java.lang.ref.WeakReference;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.spark.sql.types.DataType;
import org.apache.spark.sql.types.StructType;
import org.sparkray.wire.Fields;
import org.sparkray.wire.MessageReader;

/**
 * The tables that {@code sparkray.to_spark} made in this driver, by their ids. {@code to_spark}
 * registers a table, reads the schemas of its blocks by a job, sets the schema, makes the
 * DataFrame, and keeps the references of the blocks alive until {@link #collected} names the table.
 *
 * <p>Invariants: (1) a table that was not handed over is held here; (2) afterwards it is held by
 * what may read it only: plans hold its {@link RayTable}, RDDs its partitions, and both hold the
 * {@link Spec}.
 */
public final class RayTables {
  /** Where a table's blocks are. */
  static final class Spec {
    final List<RayPartition> blocks = new ArrayList<>();
    long bytes;

    /** The columns as the blocks have them, in JSON. */
    volatile String blockSchemaJson;

    /** The same columns under names that are different from each other. */
    volatile StructType schema;

    private void add(byte[] block) {
      long size = 0;
      List<String> preferred = new ArrayList<>();
      MessageReader reader = new MessageReader("TableBlock", block);
      while (reader.next()) {
        if (reader.field() == Fields.TableBlock.SIZE) {
          size = reader.integer();
        } else if (reader.field() == Fields.TableBlock.PREFERRED) {
          preferred.add(reader.text());
        }
      }
      bytes += size;
      blocks.add(
          new RayPartition(this, blocks.size(), block, size, preferred.toArray(new String[0])));
    }
  }

  private static final class Entry extends WeakReference<Spec> {
    final String tableId;

    Entry(String tableId, Spec spec) {
      super(spec, COLLECTED);
      this.tableId = tableId;
    }
  }

  private static final ReferenceQueue<Spec> COLLECTED = new ReferenceQueue<>();
  private static final ConcurrentHashMap<String, Entry> TABLES = new ConcurrentHashMap<>();
  private static final ConcurrentHashMap<String, Spec> NEW_TABLES = new ConcurrentHashMap<>();

  private RayTables() {}

  /**
   * Adds a table.
   *
   * @param table a {@code Table}
   * @throws IllegalArgumentException when it is none
   */
  public static void register(String tableId, byte[] table) {
    Spec spec = new Spec();
    MessageReader reader = new MessageReader("Table", table);
    while (reader.next()) {
      if (reader.field() == Fields.Table.BLOCKS) {
        spec.add(reader.bytes());
      }
    }
    NEW_TABLES.put(tableId, spec);
    TABLES.put(tableId, new Entry(tableId, spec));
  }

  /**
   * Fixes a table's columns.
   *
   * @param blockSchemaJson as the blocks have them
   * @param schemaJson the same with names that are different from each other
   */
  public static void setSchema(String tableId, String blockSchemaJson, String schemaJson) {
    Spec spec = get(tableId);
    spec.blockSchemaJson = blockSchemaJson;
    spec.schema = (StructType) DataType.fromJson(schemaJson);
  }

  /**
   * From now on the table lives as long as the DataFrame that was made over it, and what was
   * derived from that.
   */
  public static void handOver(String tableId) {
    NEW_TABLES.remove(tableId);
  }

  /**
   * The ids, with commas between them, of tables that nothing can read any more; each is named
   * once.
   */
  public static String collected() {
    List<String> ids = new ArrayList<>();
    for (Object found = COLLECTED.poll(); found != null; found = COLLECTED.poll()) {
      Entry entry = (Entry) found;
      TABLES.remove(entry.tableId, entry);
      ids.add(entry.tableId);
    }
    return String.join(",", ids);
  }

  /** Forgets a table; DataFrames over it fail from now on. */
  public static void unregister(String tableId) {
    NEW_TABLES.remove(tableId);
    TABLES.remove(tableId);
  }

  static Spec get(String tableId) {
    Entry entry = tableId == null ? null : TABLES.get(tableId);
    Spec spec = entry == null ? null : entry.get();
    if (spec == null) {
      throw new IllegalStateException(
          "this DataFrame's objects are gone: the cluster that held them was stopped");
    }
    return spec;
  }
}
