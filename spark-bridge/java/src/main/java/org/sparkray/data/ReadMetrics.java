package org.sparkray.data;

import java.lang.reflect.Method;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.spark.sql.connector.metric.CustomMetric;
import org.apache.spark.sql.connector.metric.CustomSumMetric;
import org.apache.spark.sql.connector.metric.CustomTaskMetric;
import org.apache.spark.sql.connector.read.PartitionReader;

/**
 * What a scan shows on Spark's SQL page beside its rows. A task may read several blocks: Spark 4
 * adds up the values of their readers, or tells each one those of the one before; Spark 3 takes the
 * values of the last reader, so that all readers of a scan in a task count together there.
 */
public final class ReadMetrics {
  private static final String BLOCKS = "sparkrayBlocks";
  private static final String BYTES = "sparkrayBytes";

  private final AtomicLong blocks = new AtomicLong();
  private final AtomicLong bytes = new AtomicLong();

  /** Whether each reader counts for itself. */
  static boolean isForOneReader() {
    for (Method method : PartitionReader.class.getMethods()) {
      if (method.getName().equals("initMetricsValues")) {
        return true;
      }
    }
    return false;
  }

  void add(long bytesOfBlock) {
    blocks.incrementAndGet();
    bytes.addAndGet(bytesOfBlock);
  }

  /** Adds the values of the reader before. */
  void add(CustomTaskMetric[] before) {
    for (CustomTaskMetric metric : before) {
      if (metric.name().equals(BLOCKS)) {
        blocks.addAndGet(metric.value());
      } else if (metric.name().equals(BYTES)) {
        bytes.addAndGet(metric.value());
      }
    }
  }

  CustomTaskMetric[] values() {
    return new CustomTaskMetric[] {new Value(BLOCKS, blocks.get()), new Value(BYTES, bytes.get())};
  }

  static CustomMetric[] ofScan() {
    return new CustomMetric[] {new Blocks(), new Bytes()};
  }

  /** Spark makes one by its name: also in a history server that has the jar. */
  public static final class Blocks extends CustomSumMetric {
    @Override
    public String name() {
      return BLOCKS;
    }

    @Override
    public String description() {
      return "number of blocks";
    }
  }

  /** The blocks' bytes in the object stores, of all columns. */
  public static final class Bytes extends CustomSumMetric {
    @Override
    public String name() {
      return BYTES;
    }

    @Override
    public String description() {
      return "bytes of blocks";
    }
  }

  private static final class Value implements CustomTaskMetric {
    private final String name;
    private final long value;

    Value(String name, long value) {
      this.name = name;
      this.value = value;
    }

    @Override
    public String name() {
      return name;
    }

    @Override
    public long value() {
      return value;
    }
  }
}
