package org.sparkray;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.nio.file.attribute.PosixFilePermission;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.Set;

/**
 * The driver's API: what {@code sparkray.spark.RayContext} calls. Requests and answers are JSON.
 */
public final class RayContext {
  private static final Set<PosixFilePermission> OWNER_ONLY =
      PosixFilePermissions.fromString("rw-------");

  private final RayDriverPlugin plugin;

  private RayContext(RayDriverPlugin plugin) {
    this.plugin = plugin;
  }

  /** The context of the running SparkContext; null when that was started without the plugin. */
  public static RayContext current() {
    RayDriverPlugin plugin = RayDriverPlugin.current();
    return plugin == null ? null : new RayContext(plugin);
  }

  /** A directory that only this user can read and that is deleted with this JVM. */
  public String workDirectory() {
    plugin.manager();
    return NativeLibrary.workDirectory().toString();
  }

  /**
   * Starts a cluster on all executors and blocks until it is complete. Request and result are in
   * files, because a gateway between languages may log what it carries.
   *
   * @param request the file of the request, which is deleted: see {@link #init(String)}
   * @param result the file for the result, which does not exist yet
   * @throws SparkRayException when it cannot be; nothing is left running then
   */
  public void initWithFiles(String request, String result) {
    Path file = Paths.get(request);
    try {
      String text = new String(Files.readAllBytes(file), StandardCharsets.UTF_8);
      Files.delete(file);
      String cluster = init(text);
      try {
        Files.createFile(Paths.get(result), PosixFilePermissions.asFileAttribute(OWNER_ONLY));
        Files.write(Paths.get(result), cluster.getBytes(StandardCharsets.UTF_8));
      } catch (IOException e) {
        stop(parse(cluster).path("cluster_id").asText());
        throw e;
      }
    } catch (IOException e) {
      throw new SparkRayException(
          ErrorCode.INTERNAL, "cannot exchange files with the driver program: " + e, e);
    }
  }

  /**
   * Starts a cluster on all executors and blocks until it is complete.
   *
   * @param request {@code InitRequest} of runtime/supervisor; what the Spark settings know may be
   *     left out. Beside it {@code allow_unauthenticated_spark}: executors may join although
   *     Spark's RPC is open to everybody
   * @return {@code InitResult}; holds the cluster's token
   * @throws SparkRayException when it cannot be; nothing is left running then
   */
  public String init(String request) {
    ObjectNode whole = parse(request);
    plugin.allowExecutors(whole.path("allow_unauthenticated_spark").asBoolean(false));
    whole.remove("allow_unauthenticated_spark");
    whole.put("local", plugin.isLocal());
    if (!whole.has("encryption")) {
      whole.put("encryption", RayConf.ENCRYPTION.isOn(plugin.conf()));
    }
    if (!whole.has("deadline_seconds")) {
      whole.put("deadline_seconds", RayConf.INIT_TIMEOUT.seconds(plugin.conf()));
    }
    if (!whole.has("prestart_workers")) {
      whole.put("prestart_workers", RayConf.WORKER_PRESTART.number(plugin.conf()));
    }
    return Native.driverInit(plugin.manager(), whole.toString());
  }

  /**
   * Ends a cluster, also one that is starting; does nothing when it is not the current one.
   *
   * @param clusterId its id: the request may have chosen it, the result holds it
   * @return a list, in JSON, of the executors that did not answer in time
   */
  public String stop(String clusterId) {
    return Native.driverStopCluster(plugin.manager(), clusterId);
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
      throw new SparkRayException(
          ErrorCode.INVALID_ARGUMENT, "the request is not JSON: " + e.getOriginalMessage(), e);
    }
    throw new SparkRayException(ErrorCode.INVALID_ARGUMENT, "the request is not a JSON object");
  }
}
