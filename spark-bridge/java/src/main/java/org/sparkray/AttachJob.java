package org.sparkray;

import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;
import java.util.Collections;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import org.apache.spark.SparkContext;
import org.apache.spark.SparkEnv;
import org.apache.spark.api.java.JavaRDD;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.api.java.function.FlatMapFunction;
import org.apache.spark.rdd.RDD;
import scala.Tuple2;
import scala.collection.immutable.$colon$colon;
import scala.collection.immutable.List$;
import scala.reflect.ClassTag;
import scala.reflect.ClassTag$;

/**
 * A Spark job with a task for each of some executors. Each task starts the RayManager of the
 * executor on which it runs. That is the one it is meant for, unless that has no free slot: then
 * Spark runs the task elsewhere after {@code spark.locality.wait}, and the answer says where.
 */
final class AttachJob {
  private static final String GROUP = "sparkray-attach";
  private static final String DESCRIPTION = "sparkray: a RayManager on each executor";

  private AttachJob() {}

  /**
   * Runs the job in this thread.
   *
   * @param invitation for the executors; may hold a token, so it is in the partitions, which Spark
   *     sends with the tasks, and not in the closure, which Spark broadcasts and may spill
   * @param executors their hosts, by their ids
   * @return the executors on which the tasks ran, each with why its manager cannot start, or
   *     nothing when it can
   */
  static Map<String, String> run(
      JavaSparkContext context, byte[] invitation, Map<String, String> executors) {
    context.setJobGroup(GROUP, DESCRIPTION, false);
    // This thread inherited the pool of the one that called init().
    context.setLocalProperty("spark.scheduler.pool", null);
    Map<String, String> answers = new HashMap<>();
    for (byte[] answer :
        partitions(context.sc(), invitation, executors).mapPartitions(new Task()).collect()) {
      String[] parts = new String(answer, StandardCharsets.UTF_8).split("\n", 2);
      answers.put(parts[0], parts[1]);
    }
    return answers;
  }

  /** A partition for each executor, which prefers it. */
  private static JavaRDD<byte[]> partitions(
      SparkContext context, byte[] invitation, Map<String, String> executors) {
    scala.collection.immutable.List<Object> all = List$.MODULE$.empty();
    for (Map.Entry<String, String> executor : executors.entrySet()) {
      // Spark's notation for an executor, which it has for blocks that are cached there.
      String location = "executor_" + executor.getValue() + "_" + executor.getKey();
      scala.collection.immutable.List<Object> locations =
          new $colon$colon<Object>(location, List$.MODULE$.empty());
      all = new $colon$colon<Object>(new Tuple2<Object, Object>(invitation, locations), all);
    }
    // Its signature has Scala's Seq, which is another type in each of Scala's versions.
    for (Method method : SparkContext.class.getMethods()) {
      if (method.getName().equals("makeRDD") && method.getParameterCount() == 2) {
        ClassTag<byte[]> bytes = ClassTag$.MODULE$.apply(byte[].class);
        try {
          @SuppressWarnings("unchecked")
          RDD<byte[]> rdd = (RDD<byte[]>) method.invoke(context, all, bytes);
          return rdd.toJavaRDD();
        } catch (InvocationTargetException e) {
          throw new IllegalStateException(e.getCause().getMessage(), e.getCause());
        } catch (IllegalAccessException e) {
          throw new IllegalStateException(e);
        }
      }
    }
    throw new IllegalStateException(
        "SparkContext has no makeRDD with preferred locations: this Spark is not supported");
  }

  /**
   * Answers with bytes, so that no serializer matters: the executor's id, a line's end, and why.
   */
  private static final class Task implements FlatMapFunction<Iterator<byte[]>, byte[]> {
    private static final long serialVersionUID = 1L;

    @Override
    public Iterator<byte[]> call(Iterator<byte[]> invitations) {
      String failure = "";
      try {
        AttachedExecutor.start(invitations.next());
      } catch (Exception | LinkageError e) {
        failure = e.getMessage() == null ? e.toString() : e.getMessage();
      }
      String answer = SparkEnv.get().executorId() + "\n" + failure;
      List<byte[]> answers = Collections.singletonList(answer.getBytes(StandardCharsets.UTF_8));
      return answers.iterator();
    }
  }
}
