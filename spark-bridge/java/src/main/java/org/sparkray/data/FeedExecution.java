package org.sparkray.data;

import java.lang.reflect.Constructor;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Supplier;
import org.apache.spark.SparkContext;
import org.apache.spark.sql.execution.QueryExecution;
import org.apache.spark.sql.execution.SQLExecution$;
import org.apache.spark.sql.execution.SparkPlanInfo;
import org.apache.spark.sql.execution.metric.SQLMetric;
import org.apache.spark.sql.execution.metric.SQLMetricInfo;
import org.apache.spark.sql.execution.metric.SQLMetrics$;
import org.apache.spark.sql.execution.ui.SparkListenerSQLAdaptiveExecutionUpdate;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import scala.Some;
import scala.collection.immutable.$colon$colon;
import scala.collection.immutable.HashMap;
import scala.collection.immutable.Nil$;
import scala.runtime.AbstractFunction0;

/**
 * A feed as Spark sees it: a named SQL execution, like a write. It is on the SQL page with the
 * DataFrame's plan below a node of its own, which has the feed's metrics; observations of the
 * DataFrame and query execution listeners hear of it.
 */
final class FeedExecution {
  static final String NAME = "sparkray.from_spark";

  private static final Logger LOG = LoggerFactory.getLogger(FeedExecution.class);
  private static final String EXECUTION_ID = "spark.sql.execution.id";

  private final QueryExecution execution;
  private final SparkContext context;
  final SQLMetric rows;
  final SQLMetric bytes;
  final SQLMetric blocks;

  FeedExecution(QueryExecution execution, SparkContext context) {
    this.execution = execution;
    this.context = context;
    rows = SQLMetrics$.MODULE$.createMetric(context, "number of rows");
    bytes = SQLMetrics$.MODULE$.createSizeMetric(context, "bytes of blocks", 0);
    blocks = SQLMetrics$.MODULE$.createMetric(context, "number of blocks");
  }

  /** Runs something that computes the DataFrame as one execution. */
  <T> T run(Supplier<T> job) {
    return SQLExecution$.MODULE$.withNewExecutionId(
        execution,
        new Some<>(NAME),
        new AbstractFunction0<T>() {
          @Override
          public T apply() {
            // As Dataset's own actions do: the DataFrame may have been computed before.
            execution.executedPlan().resetMetrics();
            rows.reset();
            bytes.reset();
            blocks.reset();
            return job.get();
          }
        });
  }

  /**
   * Shows the feed's node above the plan, inside {@link #run} and after the plan is final: adaptive
   * execution shows its own plans until then.
   */
  void showMetrics() {
    String id = context.getLocalProperty(EXECUTION_ID);
    if (id == null) {
      return;
    }
    try {
      SparkPlanInfo plan = SparkPlanInfo.fromSparkPlan(execution.executedPlan());
      SparkListenerSQLAdaptiveExecutionUpdate update =
          new SparkListenerSQLAdaptiveExecutionUpdate(
              Long.parseLong(id), execution.toString(), above(plan));
      context.listenerBus().post(update);
    } catch (ReflectiveOperationException | LinkageError failure) {
      // The rows are what counts: the page has the plan without our node then.
      LOG.warn("Spark's SQL page will not show the metrics of {}", NAME, failure);
    }
  }

  private SparkPlanInfo above(SparkPlanInfo plan) throws ReflectiveOperationException {
    List<SQLMetricInfo> metrics = new ArrayList<>();
    for (SQLMetric metric : new SQLMetric[] {blocks, bytes, rows}) {
      String name = metric.name().get();
      metrics.add(new SQLMetricInfo(name, metric.id(), metric.metricType()));
    }
    // Its lists are of other types in Scala 2.12 and 2.13, between which the immutable list is
    // both.
    Constructor<?> constructor = SparkPlanInfo.class.getConstructors()[0];
    return (SparkPlanInfo)
        constructor.newInstance(
            NAME,
            NAME + ": blocks in the object stores",
            listOf(java.util.Collections.singletonList(plan)),
            new HashMap<String, String>(),
            listOf(metrics));
  }

  private static <T> scala.collection.immutable.List<T> listOf(List<T> items) {
    @SuppressWarnings("unchecked")
    scala.collection.immutable.List<T> list =
        (scala.collection.immutable.List<T>) (Object) Nil$.MODULE$;
    for (int index = items.size() - 1; index >= 0; index--) {
      list = new $colon$colon<>(items.get(index), list);
    }
    return list;
  }
}
