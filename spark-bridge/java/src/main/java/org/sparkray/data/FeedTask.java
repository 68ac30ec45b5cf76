package org.sparkray.data;

import java.nio.charset.StandardCharsets;
import java.util.Collections;
import java.util.Iterator;
import org.apache.spark.TaskContext;
import org.apache.spark.api.java.function.Function2;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.catalyst.expressions.UnsafeProjection;
import org.apache.spark.sql.catalyst.expressions.UnsafeRow;
import org.apache.spark.sql.types.DataType;
import org.apache.spark.sql.types.StructType;

/** Writes one partition into blocks; the only result is their description (bytes, so that no serializer matters). */
final class FeedTask implements Function2<Integer, Iterator<InternalRow>, Iterator<byte[]>> {
  private static final long serialVersionUID = 1L;

  private final String request;
  private final String schemaJson;
  private final String timeZone;
  private final boolean evenIfEmpty;

  FeedTask(String request, String schemaJson, String timeZone, boolean evenIfEmpty) {
    this.request = request;
    this.schemaJson = schemaJson;
    this.timeZone = timeZone;
    this.evenIfEmpty = evenIfEmpty;
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
      return Collections.singletonList(blocks.getBytes(StandardCharsets.UTF_8)).iterator();
    }
  }
}
