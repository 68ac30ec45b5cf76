package org.sparkray.data;

import java.lang.reflect.InvocationTargetException;
import org.apache.spark.SparkContext;
import org.apache.spark.api.java.JavaRDD;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.rdd.RDD;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.execution.QueryExecution;
import org.apache.spark.sql.execution.SQLExecutionRDD;
import org.apache.spark.sql.execution.SparkPlan;
import org.apache.spark.sql.internal.SQLConf;
import org.apache.spark.sql.types.StructType;
import org.apache.spark.sql.vectorized.ColumnarBatch;

/**
 * The few calls whose signatures differ between Spark's versions: {@code Dataset} and {@code
 * SparkSession} are other classes in Spark 4, so they are called by name.
 */
final class SparkAdapter {
  private SparkAdapter() {}

  static StructType schema(Object dataset) {
    return (StructType) call(dataset, "schema");
  }

  static QueryExecution queryExecution(Object dataset) {
    return (QueryExecution) call(dataset, "queryExecution");
  }

  static JavaSparkContext sparkContext(Object dataset) {
    SparkContext context = (SparkContext) call(call(dataset, "sparkSession"), "sparkContext");
    return JavaSparkContext.fromSparkContext(context);
  }

  static String sessionTimeZone(Object dataset) {
    Object conf = call(call(dataset, "sparkSession"), "conf");
    try {
      return (String)
          conf.getClass().getMethod("get", String.class).invoke(conf, "spark.sql.session.timeZone");
    } catch (ReflectiveOperationException failure) {
      throw unexpected(conf, "get", failure);
    }
  }

  /** The columns of a plan; its tasks see the session's configuration, as those of its rows do. */
  @SuppressWarnings("unchecked")
  static JavaRDD<ColumnarBatch> columns(SparkPlan plan, QueryExecution execution) {
    SQLConf conf = (SQLConf) call(call(call(execution, "sparkSession"), "sessionState"), "conf");
    // Spark itself says that these are rows: it looks at none of them.
    RDD<InternalRow> batches = (RDD<InternalRow>) (RDD<?>) plan.executeColumnar();
    RDD<?> configured = new SQLExecutionRDD(batches, conf);
    return ((RDD<ColumnarBatch>) configured).toJavaRDD();
  }

  static boolean isDeterminate(RDD<?> rdd) {
    return "DETERMINATE".equals(String.valueOf(call(rdd, "outputDeterministicLevel")));
  }

  private static Object call(Object target, String method) {
    try {
      return target.getClass().getMethod(method).invoke(target);
    } catch (InvocationTargetException failure) {
      Throwable cause = failure.getCause();
      if (cause instanceof RuntimeException) {
        throw (RuntimeException) cause;
      }
      if (cause instanceof Error) {
        throw (Error) cause;
      }
      throw new IllegalStateException(cause.getMessage(), cause);
    } catch (ReflectiveOperationException failure) {
      throw unexpected(target, method, failure);
    }
  }

  private static IllegalStateException unexpected(
      Object target, String method, ReflectiveOperationException failure) {
    return new IllegalStateException(
        target.getClass().getName() + " has no method " + method + ": this Spark is not supported",
        failure);
  }
}
