package org.sparkray;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;

/** The driver's API: what {@code sparkray.spark.RayContext} calls. Requests and answers are JSON. */
public final class RayContext {
  private final RayDriverPlugin plugin;

  private RayContext(RayDriverPlugin plugin) {
    this.plugin = plugin;
  }

  /** The context of the running SparkContext; null when that was started without the plugin. */
  public static RayContext current() {
    RayDriverPlugin plugin = RayDriverPlugin.current();
    return plugin == null ? null : new RayContext(plugin);
  }

  /**
   * Starts a cluster on all executors and blocks until it is complete.
   *
   * @param request {@code InitRequest} of runtime/supervisor; what the Spark settings know may be left out
   * @return {@code InitResult}; holds the cluster's token
   * @throws SparkRayException when it cannot be; nothing is left running then
   */
  public String init(String request) {
    ObjectNode whole = parse(request);
    whole.put("local", plugin.isLocal());
    if (!whole.has("deadline_seconds")) {
      whole.put("deadline_seconds", RayConf.INIT_TIMEOUT.seconds(plugin.conf()));
    }
    if (!whole.has("prestart_workers")) {
      whole.put("prestart_workers", RayConf.WORKER_PRESTART.number(plugin.conf()));
    }
    return Native.driverInit(plugin.manager(), whole.toString());
  }

  /** Ends the cluster, also one that is starting; false when an executor did not answer in time. */
  public boolean stop() {
    return Native.driverStopCluster(plugin.manager());
  }

  /** {@code Status} of runtime/supervisor: nodes, and why the cluster is lost if it is. */
  public String status() {
    return Native.driverStatus(plugin.manager());
  }

  /** Version of jar and native library. */
  public String version() {
    return Native.version();
  }

  private static ObjectNode parse(String request) {
    try {
      JsonNode parsed = new ObjectMapper().readTree(request);
      if (parsed instanceof ObjectNode) {
        return (ObjectNode) parsed;
      }
    } catch (JsonProcessingException e) {
      throw new SparkRayException(2, "the request is not JSON: " + e.getOriginalMessage(), e);
    }
    throw new SparkRayException(2, "the request is not a JSON object");
  }
}
