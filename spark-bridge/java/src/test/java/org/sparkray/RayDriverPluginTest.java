package org.sparkray;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.junit.jupiter.api.Test;

/** What the driver answers while it has no manager. */
class RayDriverPluginTest {
  private final RayDriverPlugin plugin = new RayDriverPlugin();

  @Test
  void anInvitationThatIsNotThereYetIsAnEmptyAnswer() {
    assertEquals("", plugin.receive(RayDriverPlugin.ASK_INVITATION));
  }

  @Test
  void aReportOfFailureNeedsNoManager() {
    assertEquals("", plugin.receive(RayDriverPlugin.FAILED + "7:no memory: none"));
  }

  @Test
  void questionsOfOtherVersionsAreRefused() {
    assertTrue(String.valueOf(plugin.receive("sparkray-other")).startsWith("refused:"));
    assertTrue(String.valueOf(plugin.receive(7)).startsWith("refused:"));
  }

  @Test
  void afterTheEndOfTheSparkContextThereIsNoManager() {
    plugin.shutdown();
    SparkRayException refusal = assertThrows(SparkRayException.class, plugin::manager);
    assertEquals(ErrorCode.NOT_RUNNING, refusal.getCode());
    assertNull(RayDriverPlugin.current());
    assertNull(RayContext.current());
  }
}
