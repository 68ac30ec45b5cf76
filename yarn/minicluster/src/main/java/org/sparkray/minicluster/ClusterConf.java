package org.sparkray.minicluster;

import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.hdfs.DFSConfigKeys;
import org.apache.hadoop.yarn.conf.YarnConfiguration;
import org.apache.hadoop.yarn.server.resourcemanager.scheduler.capacity.CapacitySchedulerConfiguration;
import org.apache.hadoop.yarn.util.resource.DominantResourceCalculator;

/**
 * The cluster's own configuration: small, quick to answer, and on ports that the kernel chooses.
 */
final class ClusterConf {
  private static final int MINIMUM_ALLOCATION_MB = 256;
  private static final int HEARTBEAT_MILLIS = 200;
  private static final int MEMORY_CHECK_MILLIS = 500;
  private static final int KILL_WAIT_MILLIS = 250;
  private static final int LOCALIZER_CACHE_MB = 4096;
  private static final int CACHE_CLEANUP_MILLIS = 60_000;

  private ClusterConf() {}

  static Configuration create(Options options) {
    Configuration conf = new YarnConfiguration();
    hdfs(conf);
    scheduler(conf);
    nodes(conf, options);
    memoryChecks(conf, options.memoryChecks());
    return conf;
  }

  private static void hdfs(Configuration conf) {
    conf.setInt(DFSConfigKeys.DFS_REPLICATION_KEY, 1);
    conf.setBoolean(
        "dfs.namenode.edits.noeditlogchannelflush",
        true); // No fsync: nothing here outlives the JVM.
    conf.setInt("dfs.namenode.decommission.interval", 3600);
  }

  private static void scheduler(Configuration conf) {
    conf.set(CapacitySchedulerConfiguration.PREFIX + "root.queues", "default");
    conf.set(CapacitySchedulerConfiguration.PREFIX + "root.default.capacity", "100");
    conf.set(CapacitySchedulerConfiguration.MAXIMUM_APPLICATION_MASTERS_RESOURCE_PERCENT, "0.5");
    conf.setClass(
        CapacitySchedulerConfiguration.RESOURCE_CALCULATOR_CLASS,
        DominantResourceCalculator.class,
        org.apache.hadoop.yarn.util.resource.ResourceCalculator.class);
    conf.setInt(YarnConfiguration.RM_SCHEDULER_MINIMUM_ALLOCATION_MB, MINIMUM_ALLOCATION_MB);
    conf.setInt(YarnConfiguration.RM_NM_HEARTBEAT_INTERVAL_MS, HEARTBEAT_MILLIS);
  }

  private static void nodes(Configuration conf, Options options) {
    conf.setBoolean(YarnConfiguration.YARN_MINICLUSTER_FIXED_PORTS, false);
    conf.setInt(YarnConfiguration.YARN_MINICLUSTER_NM_PMEM_MB, options.memoryMb());
    conf.setInt(YarnConfiguration.NM_PMEM_MB, options.memoryMb());
    conf.setInt(YarnConfiguration.NM_VCORES, options.vcores());
    conf.setInt(YarnConfiguration.RM_SCHEDULER_MAXIMUM_ALLOCATION_MB, options.memoryMb());
    conf.setInt(YarnConfiguration.RM_SCHEDULER_MAXIMUM_ALLOCATION_VCORES, options.vcores());
    conf.setInt(YarnConfiguration.NM_SLEEP_DELAY_BEFORE_SIGKILL_MS, KILL_WAIT_MILLIS);
    conf.setInt(YarnConfiguration.NM_PROCESS_KILL_WAIT_MS, KILL_WAIT_MILLIS);
    conf.setFloat(YarnConfiguration.NM_MAX_PER_DISK_UTILIZATION_PERCENTAGE, 99);
    // Every application brings its own files: YARN would keep 10 GB of ended ones on each node.
    conf.setInt(YarnConfiguration.NM_LOCALIZER_CACHE_TARGET_SIZE_MB, LOCALIZER_CACHE_MB);
    conf.setInt(YarnConfiguration.NM_LOCALIZER_CACHE_CLEANUP_INTERVAL_MS, CACHE_CLEANUP_MILLIS);
  }

  /**
   * A mini cluster does not watch its containers unless it is told to, in two ways; and by default
   * the monitor only reports and leaves the kill to a cgroup that is not there. The virtual memory
   * check stays off: it would kill plain Spark's ApplicationMaster on JDK 17.
   */
  private static void memoryChecks(Configuration conf, boolean enabled) {
    conf.setBoolean(YarnConfiguration.NM_VMEM_CHECK_ENABLED, false);
    conf.setBoolean(YarnConfiguration.NM_PMEM_CHECK_ENABLED, enabled);
    conf.setBoolean(YarnConfiguration.YARN_MINICLUSTER_CONTROL_RESOURCE_MONITORING, enabled);
    conf.setBoolean(YarnConfiguration.NM_CONTAINER_MONITOR_ENABLED, enabled);
    conf.setInt(YarnConfiguration.NM_CONTAINER_MON_INTERVAL_MS, MEMORY_CHECK_MILLIS);
    conf.setBoolean(YarnConfiguration.NM_MEMORY_RESOURCE_ENFORCED, false);
  }
}
