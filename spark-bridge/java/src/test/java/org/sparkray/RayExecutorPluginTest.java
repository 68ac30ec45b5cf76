package org.sparkray;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.lang.reflect.Proxy;
import java.util.Collections;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;
import org.apache.spark.SparkConf;
import org.apache.spark.api.plugin.PluginContext;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/** What an executor asks the driver, and when it stops asking. */
class RayExecutorPluginTest {
  private static final long SECONDS = 30;

  private final RayExecutorPlugin plugin = new RayExecutorPlugin();
  private final BlockingQueue<String> questions = new LinkedBlockingQueue<>();

  @AfterEach
  void end() {
    plugin.shutdown();
  }

  /** Starts the plugin beside a driver that gives these answers. */
  private void start(Function<String, Object> driver) {
    PluginContext context =
        (PluginContext)
            Proxy.newProxyInstance(
                getClass().getClassLoader(),
                new Class<?>[] {PluginContext.class},
                (proxy, method, arguments) -> {
                  switch (method.getName()) {
                    case "ask":
                      questions.add((String) arguments[0]);
                      return driver.apply((String) arguments[0]);
                    case "conf":
                      return new SparkConf(false);
                    case "executorID":
                      return "7";
                    default:
                      return "host";
                  }
                });
    plugin.init(context, Collections.emptyMap());
  }

  private String nextQuestion() throws InterruptedException {
    return questions.poll(SECONDS, TimeUnit.SECONDS);
  }

  /** Waits until the thread that asks has ended. */
  private static void awaitEndOfAsking() throws InterruptedException {
    for (Thread thread : Thread.getAllStackTraces().keySet()) {
      if (thread.getName().equals("sparkray-start-executor")) {
        thread.join(TimeUnit.SECONDS.toMillis(SECONDS));
        assertTrue(!thread.isAlive(), "it asks still");
      }
    }
  }

  @Test
  void whileTheDriversManagerStartsTheQuestionIsRepeated() throws InterruptedException {
    Object[] answers = {"", "", "refused: no manager"};
    int[] asked = {0};
    start(question -> answers[asked[0]++]);
    for (int count = 0; count < answers.length; count++) {
      assertEquals(RayDriverPlugin.ASK_INVITATION, nextQuestion());
    }
    awaitEndOfAsking();
    assertNull(questions.poll());
  }

  @Test
  void anExecutorThatEndsAsksNoMore() throws InterruptedException {
    start(question -> "");
    nextQuestion();
    plugin.shutdown();
    awaitEndOfAsking();
  }

  @Test
  void anExecutorThatEndsDoesNotWaitForAPermission() throws InterruptedException {
    start(question -> RayDriverPlugin.WITHHELD);
    nextQuestion();
    plugin.shutdown();
    awaitEndOfAsking();
  }

  @Test
  void aQuestionThatSparkCannotCarryIsAskedAgain() throws InterruptedException {
    int[] asked = {0};
    start(
        question -> {
          if (asked[0]++ == 0) {
            throw new IllegalStateException("the driver pauses");
          }
          return "refused: no manager";
        });
    assertEquals(RayDriverPlugin.ASK_INVITATION, nextQuestion());
    assertEquals(RayDriverPlugin.ASK_INVITATION, nextQuestion());
    awaitEndOfAsking();
  }

  @Test
  void aManagerThatCannotStartIsReportedWithItsReason() throws InterruptedException {
    // The classes that are tested have no native library beside them.
    start(question -> question.equals(RayDriverPlugin.ASK_INVITATION) ? new byte[0] : "");
    assertEquals(RayDriverPlugin.ASK_INVITATION, nextQuestion());
    String report = nextQuestion();
    assertTrue(report.startsWith(RayDriverPlugin.FAILED + "7:"), report);
    assertTrue(report.contains("libsparkray_jni.so"), report);
  }
}
