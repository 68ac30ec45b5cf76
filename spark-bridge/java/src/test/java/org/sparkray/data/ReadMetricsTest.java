package org.sparkray.data;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.Arrays;
import org.apache.spark.sql.connector.metric.CustomMetric;
import org.apache.spark.sql.connector.metric.CustomTaskMetric;
import org.junit.jupiter.api.Test;

class ReadMetricsTest {
  private static long[] values(ReadMetrics metrics) {
    return Arrays.stream(metrics.values()).mapToLong(CustomTaskMetric::value).toArray();
  }

  @Test
  void blocksAndBytesAreCounted() {
    ReadMetrics metrics = new ReadMetrics();
    metrics.add(100);
    metrics.add(50);
    assertArrayEquals(new long[] {2, 150}, values(metrics));
  }

  @Test
  void theValuesOfTheReaderBeforeAreAddedByName() {
    ReadMetrics before = new ReadMetrics();
    before.add(100);
    CustomTaskMetric[] told = before.values();
    CustomTaskMetric foreign =
        new CustomTaskMetric() {
          @Override
          public String name() {
            return "other";
          }

          @Override
          public long value() {
            return 7;
          }
        };
    ReadMetrics metrics = new ReadMetrics();
    metrics.add(50);
    metrics.add(new CustomTaskMetric[] {told[1], foreign, told[0]});
    assertArrayEquals(new long[] {2, 150}, values(metrics));
  }

  @Test
  void theScanDeclaresWhatItsTasksReport() {
    String[] declared =
        Arrays.stream(ReadMetrics.ofScan()).map(CustomMetric::name).toArray(String[]::new);
    String[] reported =
        Arrays.stream(new ReadMetrics().values())
            .map(CustomTaskMetric::name)
            .toArray(String[]::new);
    assertArrayEquals(declared, reported);
    assertEquals("30", ReadMetrics.ofScan()[1].aggregateTaskMetrics(new long[] {10, 20}));
  }
}
