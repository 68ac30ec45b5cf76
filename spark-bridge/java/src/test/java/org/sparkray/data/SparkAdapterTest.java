package org.sparkray.data;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.apache.spark.sql.types.StructType;
import org.junit.jupiter.api.Test;

/** Methods that are called by their names: what comes back, and what is thrown. */
public class SparkAdapterTest {
  /** Has what a Dataset has. */
  public static final class Dataset {
    private final Throwable failure;

    Dataset(Throwable failure) {
      this.failure = failure;
    }

    /** Answers or fails. */
    public StructType schema() throws Throwable {
      if (failure != null) {
        throw failure;
      }
      return new StructType();
    }
  }

  @Test
  void theResultIsThatOfTheMethod() {
    assertEquals(new StructType(), SparkAdapter.schema(new Dataset(null)));
  }

  @Test
  void whatTheMethodThrowsIsThrownAsItIs() {
    for (Throwable failure :
        new Throwable[] {new IllegalArgumentException("no"), new NoClassDefFoundError("x")}) {
      Dataset dataset = new Dataset(failure);
      assertSame(failure, assertThrows(failure.getClass(), () -> SparkAdapter.schema(dataset)));
    }
  }

  @Test
  void aCheckedExceptionKeepsItsMessage() {
    Exception failure = new Exception("no such table");
    IllegalStateException thrown =
        assertThrows(IllegalStateException.class, () -> SparkAdapter.schema(new Dataset(failure)));
    assertEquals("no such table", thrown.getMessage());
    assertSame(failure, thrown.getCause());
  }

  @Test
  void aSparkWithoutTheMethodIsNotSupported() {
    IllegalStateException thrown =
        assertThrows(IllegalStateException.class, () -> SparkAdapter.schema("a dataset"));
    assertTrue(thrown.getMessage().contains("java.lang.String has no method schema"));
  }
}
