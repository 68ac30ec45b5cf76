package org.sparkray.data;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTimeoutPreemptively;

import java.time.Duration;
import org.junit.jupiter.api.Test;
import org.sparkray.wire.Fields;
import org.sparkray.wire.MessageWriter;

class RayTablesTest {
  private static final byte[] FIRST =
      new MessageWriter()
          .integer(Fields.TableBlock.SIZE, 10)
          .text(Fields.TableBlock.PREFERRED, "host1")
          .text(Fields.TableBlock.PREFERRED, "host2")
          .toBytes();
  private static final byte[] SECOND =
      new MessageWriter().integer(Fields.TableBlock.SIZE, 32).toBytes();
  private static final byte[] BLOCKS =
      new MessageWriter()
          .bytes(Fields.Table.BLOCKS, FIRST)
          .bytes(Fields.Table.BLOCKS, SECOND)
          .toBytes();

  /** The next id of a table that was collected; runs the collector until there is one. */
  private static String awaitCollected() {
    return assertTimeoutPreemptively(
        Duration.ofSeconds(30),
        () -> {
          String ids = RayTables.collected();
          while (ids.isEmpty()) {
            System.gc();
            Thread.yield();
            ids = RayTables.collected();
          }
          return ids;
        });
  }

  @Test
  void aTableHasItsBlocksInTheOrderOfTheList() {
    RayTables.register("order", BLOCKS);
    RayTables.Spec spec = RayTables.get("order");
    assertEquals(2, spec.blocks.size());
    assertEquals(42, spec.bytes);
    assertEquals(1, spec.blocks.get(1).index);
    assertEquals(32, spec.blocks.get(1).size);
    assertArrayEquals(SECOND, spec.blocks.get(1).block);
    assertArrayEquals(new String[] {"host1", "host2"}, spec.blocks.get(0).preferredLocations());
    assertArrayEquals(new String[0], spec.blocks.get(1).preferredLocations());
    RayTables.unregister("order");
  }

  @Test
  void whatIsNoTableIsRefusedWithTheNameOfTheMessage() {
    IllegalArgumentException refusal =
        assertThrows(
            IllegalArgumentException.class,
            () -> RayTables.register("broken", new byte[] {0x0a, 0x01, 0x28}));
    assertEquals("cannot read TableBlock: it is cut off", refusal.getMessage());
    assertThrows(IllegalStateException.class, () -> RayTables.get("broken"));
  }

  @Test
  void theColumnsAreFixedAfterwards() {
    RayTables.register("columns", BLOCKS);
    String asStored = "{\"type\":\"struct\",\"fields\":[]}";
    String field = "{\"name\":\"x\",\"type\":\"long\",\"nullable\":true,\"metadata\":{}}";
    RayTables.setSchema("columns", asStored, "{\"type\":\"struct\",\"fields\":[" + field + "]}");
    RayTables.Spec spec = RayTables.get("columns");
    assertEquals(asStored, spec.blockSchemaJson);
    assertArrayEquals(new String[] {"x"}, spec.schema.fieldNames());
    RayTables.unregister("columns");
  }

  @Test
  void aTableThatIsForgottenCannotBeRead() {
    RayTables.register("forgotten", BLOCKS);
    RayTables.unregister("forgotten");
    assertThrows(IllegalStateException.class, () -> RayTables.get("forgotten"));
    assertThrows(IllegalStateException.class, () -> RayTables.get(null));
  }

  @Test
  void aTableIsCollectedWhenItWasHandedOverAndNothingReadsItAnyMore() {
    RayTables.register("held", BLOCKS);
    RayTables.register("first", BLOCKS);
    RayTables.register("second", BLOCKS);
    RayTables.handOver("first");
    assertEquals("first", awaitCollected());

    // A partition holds its table, as an RDD does.
    RayPartition reader = RayTables.get("second").blocks.get(0);
    RayTables.handOver("second");
    System.gc();
    assertSame(reader, RayTables.get("second").blocks.get(0));
    reader = null;
    assertEquals("second", awaitCollected());

    // Neither handed over nor forgotten: it is here still.
    assertEquals(2, RayTables.get("held").blocks.size());
    RayTables.unregister("held");
  }
}
