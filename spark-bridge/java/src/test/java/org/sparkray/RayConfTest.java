package org.sparkray;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.apache.spark.SparkConf;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class RayConfTest {
  private static final long GIB = 1L << 30;

  private static SparkConf conf(String... pairs) {
    SparkConf conf = new SparkConf(false);
    for (int index = 0; index < pairs.length; index += 2) {
      conf.set(pairs[index], pairs[index + 1]);
    }
    return conf;
  }

  @Test
  void whatIsNotSetHasItsDefault() {
    assertEquals(0, RayConf.MANAGER_PORT.number(conf()));
    assertEquals(120, RayConf.INIT_TIMEOUT.seconds(conf()));
    assertTrue(RayConf.ENCRYPTION.isOn(conf()));
    assertFalse(RayConf.ALLOW_UNAUTHENTICATED.isOn(conf()));
    assertEquals("warn", RayConf.LOG_FILTER.text(conf()));
  }

  @ParameterizedTest
  @CsvSource({"on, true", "TRUE, true", "' On ', true", "off, false", "False, false"})
  void switchesTakeBothPairsOfWords(String text, boolean expected) {
    assertEquals(expected, RayConf.ENCRYPTION.isOn(conf("spark.ray.encryption", text)));
  }

  @ParameterizedTest
  @CsvSource({"500ms, 0.5", "2min, 120", "0, 0"})
  void timesAreSeconds(String text, double expected) {
    assertEquals(expected, RayConf.INIT_TIMEOUT.seconds(conf("spark.ray.init.timeout", text)));
  }

  @ParameterizedTest
  @ValueSource(strings = {"-1", "many", "1.5", ""})
  void whatIsNoNumberIsRefusedWithItsKey(String text) {
    SparkConf conf = conf("spark.ray.worker.prestart", text);
    SparkRayException refusal =
        assertThrows(SparkRayException.class, () -> RayConf.WORKER_PRESTART.number(conf));
    assertEquals(ErrorCode.INVALID_ARGUMENT, refusal.getCode());
    assertTrue(refusal.getMessage().startsWith("spark.ray.worker.prestart cannot be " + text));
  }

  @Test
  void otherValuesThatCannotBeAreRefusedToo() {
    SparkConf conf =
        conf(
            "spark.ray.encryption", "maybe",
            "spark.ray.init.timeout", "soon",
            "spark.ray.memory.budget", "much");
    assertThrows(SparkRayException.class, () -> RayConf.ENCRYPTION.isOn(conf));
    assertThrows(SparkRayException.class, () -> RayConf.INIT_TIMEOUT.seconds(conf));
    assertThrows(SparkRayException.class, () -> RayConf.memoryBudget(conf, true));
  }

  @Test
  void aMisspeltKeyIsRefusedAndForeignKeysAreNot() {
    RayConf.checkKeys(conf("spark.ray.init.timeout", "1s", "spark.rayon", "1", "spark.other", "1"));
    SparkConf conf = conf("spark.ray.init.timeOut", "1s");
    SparkRayException refusal =
        assertThrows(SparkRayException.class, () -> RayConf.checkKeys(conf));
    assertTrue(refusal.getMessage().contains("spark.ray.init.timeOut"));
  }

  @Test
  void theBudgetIsWhatTheOverheadHasBeyondSparksOwn() {
    String memory = "spark.executor.memory";
    String overhead = "spark.executor.memoryOverhead";
    assertEquals(0, RayConf.memoryBudget(conf(), true));
    // Spark's own is at least 384 MiB, and a tenth of a larger heap.
    assertEquals(2 * GIB, RayConf.memoryBudget(conf(overhead, (384 + 2048) + "m"), true));
    assertEquals(
        GIB, RayConf.memoryBudget(conf(memory, "10g", overhead, (1024 + 1024) + "m"), true));
    assertEquals(0, RayConf.memoryBudget(conf(memory, "10g", overhead, "1g"), true));
    assertEquals(0, RayConf.memoryBudget(conf(memory, "10g", overhead, "512m"), true));
    String factor = "spark.executor.memoryOverheadFactor";
    assertEquals(
        GIB, RayConf.memoryBudget(conf(memory, "10g", factor, "0.2", overhead, "3g"), true));
  }

  @Test
  void outsideOfContainersOnlyANamedBudgetCounts() {
    assertEquals(0, RayConf.memoryBudget(conf("spark.executor.memoryOverhead", "3g"), false));
    assertEquals(3 * GIB, RayConf.memoryBudget(conf("spark.ray.memory.budget", "3g"), false));
  }

  @Test
  void anAttachedExecutorTakesHalfOfSparksOwnOverheadWhereThereIsNoMore() {
    String overhead = "spark.executor.memoryOverhead";
    assertEquals(192L << 20, RayConf.attachedMemoryBudget(conf(), true));
    assertEquals(150L << 20, RayConf.attachedMemoryBudget(conf(overhead, "300m"), true));
    assertEquals(2 * GIB, RayConf.attachedMemoryBudget(conf(overhead, "2432m"), true));
    assertEquals(0, RayConf.attachedMemoryBudget(conf(), false));
    assertEquals(
        3 * GIB, RayConf.attachedMemoryBudget(conf("spark.ray.memory.budget", "3g"), true));
  }

  @Test
  void theDriverHasABudgetInClusterModeOnly() {
    String mode = "spark.submit.deployMode";
    String overhead = "spark.driver.memoryOverhead";
    assertEquals(0, RayConf.driverMemoryBudget(conf(overhead, "3g"), true));
    assertEquals(0, RayConf.driverMemoryBudget(conf(mode, "cluster", overhead, "3g"), false));
    assertEquals(192L << 20, RayConf.driverMemoryBudget(conf(mode, "cluster"), true));
    assertEquals(
        2 * GIB, RayConf.driverMemoryBudget(conf(mode, "cluster", overhead, "2432m"), true));
  }
}
