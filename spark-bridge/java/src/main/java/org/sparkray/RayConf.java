package org.sparkray;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Locale;
import org.apache.spark.SparkConf;

/**
 * Every {@code spark.ray.*} key, once: with type, default and what it means. docs/configuration.md
 * is made from it.
 */
public final class RayConf {
  private static final List<Entry> ENTRIES = new ArrayList<>();

  static final Entry MEMORY_BUDGET =
      entry(
          "spark.ray.memory.budget",
          "bytes, for example 3g",
          "on YARN and Kubernetes, what the executor's memory overhead has beyond Spark's own (`max(384m, "
              + "spark.executor.memoryOverheadFactor × heap)`), or half of it where nothing is beyond and Spark was started "
              + "without the plugin; no limit elsewhere",
          "Memory of each executor's container that belongs to Ray: object store and workers must fit. "
              + "`init_spark_on_yarn(extra_executor_memory_for_ray=…)` sets it and adds the same amount to the overhead.");
  static final Entry START_TIMEOUT =
      entry(
          "spark.ray.start.timeout",
          "time, for example 600s",
          "600s",
          "How long `init_spark_on_yarn` lets the application wait in its queue, from its submission to its start, before "
              + "it ends it and says what YARN says; 0 waits without an end.");
  static final Entry ENVIRONMENT_CACHE =
      entry(
          "spark.ray.environment.cache",
          "directory, or false",
          ".sparkray/environments",
          "Where `init_spark_on_yarn` keeps packed Python environments on the cluster, so that a second start uploads nothing: "
              + "below the user's home directory on Hadoop's default file system, or a whole path. The directory and what "
              + "is in it must be the user's, and nobody else's to write. `false` or nothing: each start uploads its own.");
  static final Entry INIT_TIMEOUT =
      entry(
          "spark.ray.init.timeout",
          "time, for example 120s",
          "120s",
          "How long `RayContext.init()` waits for the raylets of all executors before it names the missing ones.");
  static final Entry MANAGER_PORT =
      entry(
          "spark.ray.manager.port",
          "port",
          "0",
          "TCP port on which the driver's RayManager listens for executors; 0 lets the kernel choose. "
              + "Set it where a firewall stands between executors and driver.");
  static final Entry ENCRYPTION =
      entry(
          "spark.ray.encryption",
          "on or off",
          "on",
          "Whether connections between nodes are encrypted and authenticated. `off` is for closed networks: whoever can read "
              + "them reads arguments, results and objects then; checksums stay. The managers' own connections, over which "
              + "secrets travel, are always encrypted. `RayContext(sc, encryption=…)` says it for one cluster.");
  static final Entry ALLOW_UNAUTHENTICATED =
      entry(
          "spark.ray.allowUnauthenticatedSpark",
          "true or false",
          "false",
          "Whether executors may be given the secret of the driver's RayManager where `spark.authenticate` is off: then "
              + "anybody who reaches the driver's port can ask for it, join, and run code. "
              + "`RayContext(sc, allow_unauthenticated_spark=True)` says it in the program.");
  static final Entry WORKER_PRESTART =
      entry(
          "spark.ray.worker.prestart",
          "number",
          "1",
          "Python workers that each raylet forks ahead of demand.");
  static final Entry LOG_FILTER =
      entry(
          "spark.ray.log.filter",
          "tracing filter, for example warn,sparkray_supervisor=info",
          "warn",
          "What the RayManagers inside Spark's JVMs write to standard error.");

  private RayConf() {}

  /** One key. */
  public static final class Entry {
    final String key;
    final String type;
    final String defaultText;
    final String doc;

    Entry(String key, String type, String defaultText, String doc) {
      this.key = key;
      this.type = type;
      this.defaultText = defaultText;
      this.doc = doc;
    }

    String text(SparkConf conf) {
      return conf.get(key, defaultText);
    }

    int number(SparkConf conf) {
      try {
        int value = conf.getInt(key, Integer.parseInt(defaultText));
        if (value >= 0) {
          return value;
        }
      } catch (IllegalArgumentException e) {
        // Refused below, with the key.
      }
      throw refuse(conf);
    }

    /** True, false, on or off. */
    boolean isOn(SparkConf conf) {
      String value = text(conf).trim().toLowerCase(Locale.ROOT);
      if (value.equals("on") || value.equals("true")) {
        return true;
      }
      if (value.equals("off") || value.equals("false")) {
        return false;
      }
      throw refuse(conf);
    }

    double seconds(SparkConf conf) {
      try {
        return conf.getTimeAsMs(key, defaultText) / 1000.0;
      } catch (IllegalArgumentException e) {
        throw refuse(conf);
      }
    }

    long bytes(SparkConf conf) {
      try {
        return conf.getSizeAsBytes(key);
      } catch (IllegalArgumentException e) {
        throw refuse(conf);
      }
    }

    private SparkRayException refuse(SparkConf conf) {
      return new SparkRayException(
          ErrorCode.INVALID_ARGUMENT,
          key + " cannot be " + conf.get(key, defaultText) + ": it is a " + type);
    }
  }

  private static Entry entry(String key, String type, String defaultText, String doc) {
    Entry entry = new Entry(key, type, defaultText, doc);
    ENTRIES.add(entry);
    return entry;
  }

  /** All keys. */
  public static List<Entry> entries() {
    return Collections.unmodifiableList(ENTRIES);
  }

  /** Refuses {@code spark.ray.*} keys that do not exist: a misspelt one would do nothing. */
  static void checkKeys(SparkConf conf) {
    for (scala.Tuple2<String, String> pair : conf.getAll()) {
      String key = pair._1();
      if (key.startsWith("spark.ray.")
          && ENTRIES.stream().noneMatch(entry -> entry.key.equals(key))) {
        throw new SparkRayException(
            ErrorCode.INVALID_ARGUMENT,
            "there is no setting " + key + ": see docs/configuration.md for those that exist");
      }
    }
  }

  /**
   * Bytes that Spark has set aside for Ray in each executor's container; 0 when there are none, and
   * where no container limits it.
   *
   * @param inContainer whether executors run in containers of limited memory
   */
  static long memoryBudget(SparkConf conf, boolean inContainer) {
    if (conf.contains(MEMORY_BUDGET.key)) {
      return MEMORY_BUDGET.bytes(conf);
    }
    if (!inContainer) {
      return 0;
    }
    return beyondSparks(conf, "executor") << 20;
  }

  /**
   * As {@link #memoryBudget}, for an executor that was attached. Nobody has set memory aside for
   * Ray there, most likely: then half of Spark's own overhead is taken.
   */
  static long attachedMemoryBudget(SparkConf conf, boolean inContainer) {
    long budget = memoryBudget(conf, inContainer);
    return budget > 0 || !inContainer ? budget : (overhead(conf, "executor") << 20) / 2;
  }

  /**
   * Bytes for the driver's own node in the container that it has in cluster mode: what nobody has
   * set aside is taken from Spark's own, too. 0 where no container limits it.
   */
  static long driverMemoryBudget(SparkConf conf, boolean inContainer) {
    if (!inContainer || !conf.get("spark.submit.deployMode", "client").equals("cluster")) {
      return 0;
    }
    long beyond = beyondSparks(conf, "driver");
    return beyond > 0 ? beyond << 20 : (overhead(conf, "driver") << 20) / 2;
  }

  /** Mebibytes of a container that somebody has set aside beside what Spark itself needs. */
  private static long beyondSparks(SparkConf conf, String role) {
    return Math.max(0, overhead(conf, role) - sparksOverhead(conf, role));
  }

  /** Mebibytes of a container beside the heap of its driver or executor. */
  private static long overhead(SparkConf conf, String role) {
    String key = "spark." + role + ".memoryOverhead";
    return conf.getSizeAsMb(key, sparksOverhead(conf, role) + "m");
  }

  /** Mebibytes for metaspace, direct buffers and code of the JVM. */
  private static long sparksOverhead(SparkConf conf, String role) {
    double factor = conf.getDouble("spark." + role + ".memoryOverheadFactor", 0.1);
    long heap = conf.getSizeAsMb("spark." + role + ".memory", "1g");
    return Math.max(384, (long) (heap * factor));
  }

  /** Prints docs/configuration.md. */
  public static void main(String[] arguments) {
    System.out.println("# Configuration");
    System.out.println();
    System.out.println(
        "Made from `spark-bridge/java/src/main/java/org/sparkray/RayConf.java` by `java "
            + "org.sparkray.RayConf`; set with `conf={…}` or `--conf` before the SparkContext starts.");
    System.out.println();
    System.out.println("| key | type | default | meaning |");
    System.out.println("|---|---|---|---|");
    for (Entry entry : entries()) {
      System.out.println(
          "| `"
              + entry.key
              + "` | "
              + entry.type
              + " | "
              + entry.defaultText
              + " | "
              + entry.doc
              + " |");
    }
  }
}
