package org.sparkray.wire;

/**
 * The numbers of the fields of {@code bridge.proto} that Java reads or writes, by message. {@code
 * tests/process/test_numbers.py} compares them.
 */
public final class Fields {
  private Fields() {}

  public static final class FeedReport {
    public static final int PARTITIONS = 1;

    private FeedReport() {}
  }

  public static final class FedPartition {
    public static final int BLOCKS = 3;

    private FedPartition() {}
  }

  public static final class FedBlock {
    public static final int ROWS = 3;
    public static final int SIZE = 4;

    private FedBlock() {}
  }

  public static final class FeedPartitions {
    public static final int PARTITIONS = 1;

    private FeedPartitions() {}
  }

  public static final class DriverConfig {
    public static final int HOST = 1;
    public static final int BIND_ADDRESS = 2;
    public static final int PORT = 3;
    public static final int BINARY = 4;
    public static final int WORK_DIR = 5;
    public static final int TOKEN = 6;

    private DriverConfig() {}
  }

  public static final class Invitation {
    public static final int NONCE = 4;

    private Invitation() {}
  }

  public static final class ExecutorConfig {
    public static final int INVITATION = 1;
    public static final int TOKEN = 2;
    public static final int EXECUTOR_ID = 3;
    public static final int HOST = 4;
    public static final int CORES = 5;
    public static final int MEMORY_BUDGET_BYTES = 6;
    public static final int IN_CONTAINER = 7;
    public static final int JAVA_VERSION = 8;
    public static final int PYTHON = 9;
    public static final int BINARY = 10;
    public static final int WORK_DIR = 11;

    private ExecutorConfig() {}
  }

  public static final class InitRequest {
    public static final int DEADLINE_SECONDS = 3;
    public static final int LOCAL = 8;
    public static final int ENCRYPTION = 10;
    public static final int PRESTART_WORKERS = 11;
    public static final int DRIVER_MEMORY_BUDGET_BYTES = 16;

    private InitRequest() {}
  }

  public static final class Table {
    public static final int BLOCKS = 1;

    private Table() {}
  }

  public static final class TableBlock {
    public static final int SIZE = 5;
    public static final int PREFERRED = 7;

    private TableBlock() {}
  }
}
