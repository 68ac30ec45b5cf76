package org.sparkray.data;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;

class SchemaPartitionTest {
  private static final long MIB = 1L << 20;

  private static RayPartition block(int index, long size, String... preferred) {
    return new RayPartition(null, index, new byte[0], size, preferred);
  }

  /** The indexes of the blocks of each group. */
  private static List<List<Integer>> indexes(List<RayPartition> blocks) {
    return SchemaPartition.groups(blocks).stream()
        .map(group -> group.blocks.stream().map(block -> block.index).collect(Collectors.toList()))
        .collect(Collectors.toList());
  }

  @Test
  void noBlocksNeedNoTask() {
    assertEquals(Collections.emptyList(), SchemaPartition.groups(Collections.emptyList()));
  }

  @Test
  void blocksOfOnePlaceAreReadTogetherWhereTheyAre() {
    List<RayPartition> blocks =
        Arrays.asList(block(0, 1, "a"), block(1, 1, "b"), block(2, 1, "a"), block(3, 1, "b", "a"));
    assertEquals(
        Arrays.asList(Arrays.asList(0, 2), Arrays.asList(1), Arrays.asList(3)), indexes(blocks));
    assertArrayEquals(
        new String[] {"b", "a"}, SchemaPartition.groups(blocks).get(2).preferredLocations());
  }

  @Test
  void aGroupHasAtMost64Blocks() {
    List<RayPartition> blocks = new ArrayList<>();
    for (int index = 0; index < 130; index++) {
      blocks.add(block(index, 0, "a"));
    }
    List<Integer> sizes = indexes(blocks).stream().map(List::size).collect(Collectors.toList());
    assertEquals(Arrays.asList(64, 64, 2), sizes);
  }

  @Test
  void aGroupHasAtMost256MibUnlessOneBlockHasMore() {
    List<RayPartition> blocks =
        Arrays.asList(
            block(0, 200 * MIB, "a"),
            block(1, 56 * MIB, "a"),
            block(2, 1, "a"),
            block(3, 300 * MIB, "a"));
    assertEquals(
        Arrays.asList(Arrays.asList(0, 1), Arrays.asList(2), Arrays.asList(3)), indexes(blocks));
  }
}
