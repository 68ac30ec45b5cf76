package org.sparkray.data;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.charset.StandardCharsets;
import java.util.Collections;
import java.util.Iterator;
import org.apache.spark.TaskContext;
import org.apache.spark.api.java.function.Function2;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.catalyst.expressions.UnsafeProjection;
import org.apache.spark.sql.catalyst.expressions.UnsafeRow;
import org.apache.spark.sql.execution.metric.SQLMetric;
import org.apache.spark.sql.types.DataType;
import org.apache.spark.sql.types.StructType;

/**
 * Writes one partition into blocks; the only result is their description (bytes, so that no
 * serializer matters).
 */
final class FeedTask implements Function2<Integer, Iterator<InternalRow>, Iterator<byte[]>> {
  private static final long serialVersionUID = 1L;
  private static final ObjectMapper MAPPER = new ObjectMapper();

  private final String request;
  private final String schemaJson;
  private final String timeZone;
  private final boolean evenIfEmpty;
  private final SQLMetric rowsMetric;
  private final SQLMetric bytesMetric;
  private final SQLMetric blocksMetric;

  FeedTask(
      String request,
      String schemaJson,
      String timeZone,
      boolean evenIfEmpty,
      SQLMetric rowsMetric,
      SQLMetric bytesMetric,
      SQLMetric blocksMetric) {
    this.request = request;
    this.schemaJson = schemaJson;
    this.timeZone = timeZone;
    this.evenIfEmpty = evenIfEmpty;
    this.rowsMetric = rowsMetric;
    this.bytesMetric = bytesMetric;
    this.blocksMetric = blocksMetric;
  }

  @Override
  public Iterator<byte[]> call(Integer partition, Iterator<InternalRow> rows) {
    TaskContext context = TaskContext.get();
    UnsafeProjection projection = null;
    try (BlockWriter writer =
        new BlockWriter(request, schemaJson, timeZone, partition, context.taskAttemptId())) {
      while (rows.hasNext()) {
        InternalRow row = rows.next();
        UnsafeRow unsafe;
        if (row instanceof UnsafeRow) {
          unsafe = (UnsafeRow) row;
        } else {
          if (projection == null) {
            projection = UnsafeProjection.create((StructType) DataType.fromJson(schemaJson));
          }
          unsafe = projection.apply(row);
        }
        if (writer.add(unsafe)) {
          context.killTaskIfInterrupted();
        }
      }
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
