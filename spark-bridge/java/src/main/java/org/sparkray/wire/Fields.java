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

  public static final class InitRequest {
    public static final int DEADLINE_SECONDS = 3;
    public static final int LOCAL = 8;
    public static final int ENCRYPTION = 10;
    public static final int PRESTART_WORKERS = 11;

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
