package org.sparkray;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.nio.file.attribute.PosixFilePermission;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.Set;
import org.apache.spark.SparkConf;
import org.apache.spark.api.java.JavaSparkContext;
import org.sparkray.wire.Fields;
import org.sparkray.wire.MessageWriter;

/**
 * The driver's API: what {@code sparkray.spark.RayContext} calls. Requests and answers are messages
 * of {@code bridge.proto}.
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

  /**
   * Starts a manager for a SparkContext that runs without the plugin. Executors are reached when a
   * cluster is started. Does nothing when it was done for this SparkContext before.
   */
  public static RayContext attach(JavaSparkContext context) {
    Attachment.begin(context);
    return current();
  }

  /** Whether nobody has set memory aside for Ray in the executors' containers, if they are such. */
  public boolean takesSparksMemory() {
    return Attachment.current() != null && RayConf.memoryBudget(plugin.conf(), true) == 0;
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
   * @param request the file of the request, which is deleted: see {@link #init}
   * @param result the file for the result, which does not exist yet
   * @param clusterId that the request gives the cluster
   * @param allowUnauthenticated see {@link #init}
   * @throws SparkRayException when it cannot be; nothing is left running then
   */
  public void initWithFiles(
      String request, String result, String clusterId, boolean allowUnauthenticated) {
    Path file = Paths.get(request);
    try {
      byte[] message = Files.readAllBytes(file);
      Files.delete(file);
      byte[] cluster = init(message, allowUnauthenticated);
      try {
        Files.createFile(Paths.get(result), PosixFilePermissions.asFileAttribute(OWNER_ONLY));
        Files.write(Paths.get(result), cluster);
      } catch (IOException e) {
        stop(clusterId);
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
   * @param request {@code InitRequest}; what the Spark settings know may be left out
   * @param allowUnauthenticated executors may join although Spark's RPC is open to everybody
   * @return {@code InitResult}; holds the cluster's token
   * @throws SparkRayException when it cannot be; nothing is left running then
   */
  public byte[] init(byte[] request, boolean allowUnauthenticated) {
    plugin.allowExecutors(allowUnauthenticated);
    Attachment attachment = Attachment.current();
    if (attachment != null) {
      attachment.reach();
    }
    byte[] whole =
        new MessageWriter()
            .truth(Fields.InitRequest.ENCRYPTION, RayConf.ENCRYPTION.isOn(plugin.conf()))
            .number(
                Fields.InitRequest.DEADLINE_SECONDS, RayConf.INIT_TIMEOUT.seconds(plugin.conf()))
            .integer(
                Fields.InitRequest.PRESTART_WORKERS, RayConf.WORKER_PRESTART.number(plugin.conf()))
            // What the program says counts more than the settings, and what is a fact even more.
            .fields(request)
            .truth(Fields.InitRequest.LOCAL, plugin.isLocal())
            .integer(Fields.InitRequest.DRIVER_MEMORY_BUDGET_BYTES, driverMemoryBudget())
            .toBytes();
    try {
      return Native.driverInit(plugin.manager(), whole);
    } catch (SparkRayException e) {
      String unreached = attachment == null ? "" : attachment.unreached();
      if (e.getCode() != ErrorCode.DEADLINE_EXCEEDED || unreached.isEmpty()) {
        throw e;
      }
      throw new SparkRayException(
          e.getCode(),
          e.getMessage()
              + "; this SparkContext runs without sparkray's plugin: an executor joins by a short Spark task, which needs "
              + "a free slot and has not run yet on "
              + unreached,
          e);
    }
  }

  private long driverMemoryBudget() {
    SparkConf conf = plugin.conf();
    return RayConf.driverMemoryBudget(conf, ExecutorManager.inContainer(conf));
  }

  /**
   * Ends a cluster, also one that is starting; does nothing when it is not the current one.
   *
   * @param clusterId its id: the request may have chosen it, the result holds it
   * @return {@code StopResult}: the executors that did not answer in time
   */
  public byte[] stop(String clusterId) {
    return Native.driverStopCluster(plugin.manager(), clusterId);
  }

  /** {@code Status}: nodes, and why the cluster is lost if it is. */
  public byte[] status() {
    return Native.driverStatus(plugin.manager());
  }

  /** Version of jar and native library. */
  public String version() {
    return Native.version();
  }
}
