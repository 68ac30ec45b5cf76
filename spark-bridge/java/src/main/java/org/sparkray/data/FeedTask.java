package org.sparkray.data;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.Serializable;
import java.nio.charset.StandardCharsets;
import java.util.Collections;
import java.util.Iterator;
import org.apache.spark.TaskContext;
import org.apache.spark.api.java.function.Function2;
import org.apache.spark.sql.execution.metric.SQLMetric;

/**
 * Writes one partition into blocks; the only result is their description (bytes, so that no
 * serializer matters).
 *
 * @param <T> what the partition consists of
 */
final class FeedTask<T> implements Function2<Integer, Iterator<T>, Iterator<byte[]>> {
  private static final long serialVersionUID = 2L;
  private static final ObjectMapper MAPPER = new ObjectMapper();

  /** Writes what a partition consists of. */
  interface Source<T> extends Serializable {
    /** Looks now and then whether the task was killed. */
    void write(Iterator<T> partition, BlockWriter writer, TaskContext context);
  }

  private final Source<T> source;
  private final String request;
  private final String schemaJson;
  private final String timeZone;
  private final boolean evenIfEmpty;
  private final SQLMetric rowsMetric;
  private final SQLMetric bytesMetric;
  private final SQLMetric blocksMetric;

  FeedTask(
      Source<T> source,
      String request,
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
      String blocks = writer.finish(evenIfEmpty);
      count(blocks);
      return Collections.singletonList(blocks.getBytes(StandardCharsets.UTF_8)).iterator();
    }
  }

  private void count(String report) {
    JsonNode blocks;
    try {
      blocks = MAPPER.readTree(report).path("blocks");
    } catch (JsonProcessingException failure) {
      throw new IllegalStateException("the report of a feed is not JSON", failure);
    }
    for (JsonNode block : blocks) {
      rowsMetric.add(block.path("rows").asLong());
      bytesMetric.add(block.path("bytes").asLong());
    }
    blocksMetric.add((long) blocks.size());
  }
}
