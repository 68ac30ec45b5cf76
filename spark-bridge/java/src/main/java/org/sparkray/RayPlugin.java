package org.sparkray;

import org.apache.spark.api.plugin.DriverPlugin;
import org.apache.spark.api.plugin.ExecutorPlugin;
import org.apache.spark.api.plugin.SparkPlugin;

/**
 * Brings a RayManager into every JVM of a Spark application: {@code
 * spark.plugins=org.sparkray.RayPlugin}. It holds no task slot, and nothing that goes wrong in it
 * ends Spark.
 */
public final class RayPlugin implements SparkPlugin {
  @Override
  public DriverPlugin driverPlugin() {
    return new RayDriverPlugin();
  }

  @Override
  public ExecutorPlugin executorPlugin() {
    return new RayExecutorPlugin();
  }
}
