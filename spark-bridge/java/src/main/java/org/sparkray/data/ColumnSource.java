package org.sparkray.data;

import java.util.Iterator;
import org.apache.spark.TaskContext;
import org.apache.spark.sql.execution.ColumnarToRowExec;
import org.apache.spark.sql.execution.InputAdapter;
import org.apache.spark.sql.execution.SparkPlan;
import org.apache.spark.sql.execution.WholeStageCodegenExec;
import org.apache.spark.sql.execution.adaptive.AdaptiveSparkPlanExec;
import org.apache.spark.sql.execution.adaptive.QueryStageExec;
import org.apache.spark.sql.vectorized.ColumnarBatch;

/**
 * Partitions that are columns already, as scans of files and of cached DataFrames give them: to
 * make rows of them, and columns again, takes several times as long as all else of a feed.
 */
final class ColumnSource implements FeedTask.Source<ColumnarBatch> {
  private static final long serialVersionUID = 1L;

  private final FixedWidth[] widths;

  ColumnSource(FixedWidth[] widths) {
    this.widths = widths;
  }

  /** The part of a final plan that gives its result as columns; null when only rows can be had. */
  static SparkPlan columnarPlan(SparkPlan plan) {
    while (!plan.supportsColumnar()) {
      if (plan instanceof AdaptiveSparkPlanExec) {
        plan = ((AdaptiveSparkPlanExec) plan).executedPlan();
      } else if (plan instanceof QueryStageExec) {
        plan = ((QueryStageExec) plan).plan();
      } else if (plan instanceof WholeStageCodegenExec) {
        plan = ((WholeStageCodegenExec) plan).child();
      } else if (plan instanceof InputAdapter) {
        plan = ((InputAdapter) plan).child();
      } else if (plan instanceof ColumnarToRowExec) {
        plan = ((ColumnarToRowExec) plan).child();
      } else {
        return null;
      }
    }
    return plan;
  }

  @Override
  public void write(Iterator<ColumnarBatch> batches, BlockWriter writer, TaskContext context) {
    try (ColumnStage stage = new ColumnStage(widths)) {
      while (batches.hasNext()) {
        ColumnarBatch batch = batches.next();
        for (int row = 0; row < batch.numRows(); ) {
          row += stage.fill(batch, row);
          writer.append(stage);
          context.killTaskIfInterrupted();
        }
      }
    }
  }
}
