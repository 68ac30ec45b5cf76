package org.sparkray.data;

import java.lang.reflect.InvocationTargetException;
import org.apache.spark.SparkContext;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.rdd.RDD;
import org.apache.spark.sql.execution.QueryExecution;
import org.apache.spark.sql.types.StructType;

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
