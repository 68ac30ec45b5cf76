package org.sparkray;

/**
 * The native library's exports for the managers. A manager is named by a key; a stale key is an
 * error, not a crash.
 */
final class Native {
  static {
    NativeLibrary.load();
  }

  private Native() {}

  /** The version of the library. */
  static native String version();

  /** Sends warnings, or what {@code filter} asks for, to standard error. */
  static native void initLogging(String filter);

  /** Starts the driver's manager: {@code DriverConfig}. */
  static native long driverStart(byte[] config);

  /**
   * What executors need to join: {@code Invitation}. It may hold a token: it goes nowhere but into
   * Spark's RPC.
   */
  static native byte[] driverInvitation(long driver);

  /**
   * Starts a cluster and blocks until it is complete: {@code InitRequest} and {@code InitResult}.
   */
  static native byte[] driverInit(long driver, byte[] request);

  /**
   * Stops the cluster of this id; does nothing when another one or none is current. {@code
   * StopResult}.
   */
  static native byte[] driverStopCluster(long driver, String clusterId);

  /** Notes that Spark has a new executor. */
  static native void driverExecutorAdded(long driver, String executorId, String host);

  /** Notes that Spark has lost an executor. */
  static native void driverExecutorRemoved(long driver, String executorId);

  /** Notes that an executor cannot run a manager, and why. */
  static native void driverExecutorFailed(long driver, String executorId, String reason);

  /** {@code Status}. */
  static native byte[] driverStatus(long driver);

  /** Ends the manager and its cluster. */
  static native void driverClose(long driver);

  /** Starts an executor's manager: {@code ExecutorConfig}. */
  static native long executorStart(byte[] config);

  /** Ends the manager and its children. */
  static native void executorClose(long executor);
}
