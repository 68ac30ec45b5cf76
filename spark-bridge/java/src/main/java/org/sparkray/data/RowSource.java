package org.sparkray.data;

import java.util.Iterator;
import org.apache.spark.TaskContext;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.catalyst.expressions.UnsafeProjection;
import org.apache.spark.sql.catalyst.expressions.UnsafeRow;
import org.apache.spark.sql.types.DataType;
import org.apache.spark.sql.types.StructType;

/** Partitions that are rows. */
final class RowSource implements FeedTask.Source<InternalRow> {
  private static final long serialVersionUID = 1L;

  private final String schemaJson;

  RowSource(String schemaJson) {
    this.schemaJson = schemaJson;
  }

  @Override
  public void write(Iterator<InternalRow> rows, BlockWriter writer, TaskContext context) {
    UnsafeProjection projection = null;
    try (RowStage stage = new RowStage()) {
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
        if (!stage.add(unsafe)) {
          writer.append(stage);
          stage.add(unsafe);
          context.killTaskIfInterrupted();
        }
      }
      writer.append(stage);
    }
  }
}
