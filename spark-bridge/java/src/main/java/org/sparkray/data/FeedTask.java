package org.sparkray.data;

import java.io.Serializable;
import java.util.Collections;
import java.util.Iterator;
import org.apache.spark.TaskContext;
import org.apache.spark.api.java.function.Function2;
import org.apache.spark.sql.execution.metric.SQLMetric;
import org.sparkray.wire.Fields;
import org.sparkray.wire.MessageReader;

/**
 * Writes one partition into blocks; the only result is a {@code FeedReport} (bytes, so that no
 * serializer matters).
 *
 * @param <T> what the partition consists of
 */
final class FeedTask<T> implements Function2<Integer, Iterator<T>, Iterator<byte[]>> {
  private static final long serialVersionUID = 3L;

  /** Writes what a partition consists of. */
  interface Source<T> extends Serializable {
    /** Looks now and then whether the task was killed. */
    void write(Iterator<T> partition, BlockWriter writer, TaskContext context);
  }

  private final Source<T> source;
  private final byte[] request;
  private final String schemaJson;
  private final String timeZone;
  private final boolean evenIfEmpty;
  private final SQLMetric rowsMetric;
  private final SQLMetric bytesMetric;
  private final SQLMetric blocksMetric;

  FeedTask(
      Source<T> source,
      byte[] request,
      String schemaJson,
      String timeZone,
      boolean evenIfEmpty,
      SQLMetric rowsMetric,
      SQLMetric bytesMetric,
      SQLMetric blocksMetric) {
    this.source = source;
    this.request = request;
    this.schemaJson = schemaJson;
    this.timeZone = timeZone;
    this.evenIfEmpty = evenIfEmpty;
    this.rowsMetric = rowsMetric;
    this.bytesMetric = bytesMetric;
    this.blocksMetric = blocksMetric;
  }

  @Override
  public Iterator<byte[]> call(Integer partition, Iterator<T> content) {
    TaskContext context = TaskContext.get();
    try (BlockWriter writer =
        new BlockWriter(request, schemaJson, timeZone, partition, context.taskAttemptId())) {
      source.write(content, writer, context);
      byte[] report = writer.finish(evenIfEmpty);
      count(report);
      return Collections.singletonList(report).iterator();
    }
  }

  private void count(byte[] report) {
    MessageReader partitions = new MessageReader("FeedReport", report);
    while (partitions.next()) {
      if (partitions.field() == Fields.FeedReport.PARTITIONS) {
        countPartition(new MessageReader("FedPartition", partitions.bytes()));
      }
    }
  }

  private void countPartition(MessageReader partition) {
    while (partition.next()) {
      if (partition.field() == Fields.FedPartition.BLOCKS) {
        countBlock(new MessageReader("FedBlock", partition.bytes()));
      }
    }
  }

  private void countBlock(MessageReader block) {
    while (block.next()) {
      if (block.field() == Fields.FedBlock.ROWS) {
        rowsMetric.add(block.integer());
      } else if (block.field() == Fields.FedBlock.SIZE) {
        bytesMetric.add(block.integer());
      }
    }
    blocksMetric.add(1L);
  }
}
