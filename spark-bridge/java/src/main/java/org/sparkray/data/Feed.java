package org.sparkray.data;

import java.io.ByteArrayOutputStream;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CancellationException;
import org.apache.spark.api.java.JavaRDD;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.execution.QueryExecution;
import org.apache.spark.sql.execution.SparkPlan;
import org.apache.spark.sql.types.StructType;
import org.sparkray.wire.Fields;
import org.sparkray.wire.MessageReader;

/**
 * One transfer of a DataFrame into the object stores: a Spark job whose tasks write blocks and
 * return only where they are. Made on the driver by {@code sparkray.from_spark}.
 */
public final class Feed {
  private static final String JOB_GROUP = "spark.jobGroup.id";
  private static final String JOB_DESCRIPTION = "spark.job.description";
  private static final String JOB_INTERRUPT = "spark.job.interruptOnCancel";

  private final String jobGroup;
  private final byte[] request;
  private final String schemaJson;
  private final String timeZone;
  private final JavaSparkContext context;
  private final QueryExecution execution;
  private final FeedExecution shown;
  // Null when a column's values have no fixed width.
  private final FixedWidth[] widths;
  // Planned in the job group: to plan adaptively, Spark runs jobs.
  private JavaRDD<byte[]> blocks;
  private volatile boolean cancelled;

  /**
   * Looks at the DataFrame's columns; nothing runs yet.
   *
   * @param dataset a {@code Dataset}
   * @param feedId names the job group
   * @param request what the tasks need: a {@code FeedRequest}
   * @throws IllegalArgumentException naming the column whose type cannot be carried
   */
  public Feed(Object dataset, String feedId, byte[] request) {
    StructType schema = SparkAdapter.schema(dataset);
    FlatTypes.check(schema);
    this.execution = SparkAdapter.queryExecution(dataset);
    this.jobGroup = "sparkray-feed-" + feedId;
    this.request = request;
    this.schemaJson = schema.json();
    this.widths = FixedWidth.of(schema);
    this.timeZone = SparkAdapter.sessionTimeZone(dataset);
    this.context = SparkAdapter.sparkContext(dataset);
    this.shown = new FeedExecution(execution, context.sc());
  }

  private synchronized JavaRDD<byte[]> blocks() {
    if (blocks == null) {
      // Makes the plan final, also when columns of it are taken instead.
      JavaRDD<InternalRow> rows = execution.toRdd().toJavaRDD();
      SparkPlan columnar =
          widths == null ? null : ColumnSource.columnarPlan(execution.executedPlan());
      blocks =
          columnar == null
              ? rows.mapPartitionsWithIndex(task(new RowSource(schemaJson), false), true)
              : SparkAdapter.columns(columnar, execution)
                  .mapPartitionsWithIndex(task(new ColumnSource(widths), false), true);
    }
    return blocks;
  }

  private <T> FeedTask<T> task(FeedTask.Source<T> source, boolean evenIfEmpty) {
    return new FeedTask<>(
        source, request, schemaJson, timeZone, evenIfEmpty, shown.rows, shown.bytes, shown.blocks);
  }

  /** Whether a partition that is computed again has the same rows in the same order. */
  public boolean isDeterminate() {
    return SparkAdapter.isDeterminate(blocks().rdd());
  }

  /** The schema as {@code StructType.json()}. */
  public String schemaJson() {
    return schemaJson;
  }

  /** Writes all partitions; returns a {@code FeedReport} with all of them. */
  public byte[] run() {
    return inJobGroup(
        FeedExecution.NAME,
        () ->
            shown.run(
                () -> {
                  JavaRDD<byte[]> planned = blocks();
                  shown.showMetrics();
                  return joined(planned.collect());
                }));
  }

  /**
   * Writes some partitions again.
   *
   * @param partitions which: {@code FeedPartitions}
   * @return a {@code FeedReport} with these
   */
  public byte[] runPartitions(byte[] partitions) {
    int[] indexes = indexes(partitions);
    return inJobGroup(
        "sparkray.from_spark: partitions that were lost",
        () -> {
          List<byte[]> all = new ArrayList<>();
          for (List<byte[]> partition : blocks().collectPartitions(indexes)) {
            all.addAll(partition);
          }
          return joined(all);
        });
  }

  /** Writes one block without rows: it carries the schema of a DataFrame that has none. */
  public byte[] runEmpty() {
    return inJobGroup(
        "sparkray.from_spark: an empty block",
        () -> {
          JavaRDD<InternalRow> nothing =
              context.parallelize(Collections.<InternalRow>emptyList(), 1);
          return joined(
              nothing
                  .mapPartitionsWithIndex(task(new RowSource(schemaJson), true), true)
                  .collect());
        });
  }

  /**
   * Ends the job from another thread; no other one begins. A job that is about to begin is ended by
   * the next call.
   */
  public void cancel() {
    cancelled = true;
    context.cancelJobGroup(jobGroup);
  }

  private interface Job {
    byte[] run();
  }

  private byte[] inJobGroup(String description, Job job) {
    String group = context.getLocalProperty(JOB_GROUP);
    String text = context.getLocalProperty(JOB_DESCRIPTION);
    String interrupt = context.getLocalProperty(JOB_INTERRUPT);
    context.setJobGroup(jobGroup, description, true);
    try {
      if (cancelled) {
        throw new CancellationException("the transfer was cancelled");
      }
      return job.run();
    } finally {
      context.setLocalProperty(JOB_GROUP, group);
      context.setLocalProperty(JOB_DESCRIPTION, text);
      context.setLocalProperty(JOB_INTERRUPT, interrupt);
    }
  }

  private static int[] indexes(byte[] partitions) {
    MessageReader reader = new MessageReader("FeedPartitions", partitions);
    while (reader.next()) {
      if (reader.field() == Fields.FeedPartitions.PARTITIONS) {
        return reader.integers();
      }
    }
    return new int[0];
  }

  /** One report of all: what follows each other in an encoding is repeated. */
  private static byte[] joined(List<byte[]> reports) {
    ByteArrayOutputStream all = new ByteArrayOutputStream();
    for (byte[] report : reports) {
      all.write(report, 0, report.length);
    }
    return all.toByteArray();
  }
}
