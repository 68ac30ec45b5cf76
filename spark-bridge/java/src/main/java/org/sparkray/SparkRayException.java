package org.sparkray;

/** A failure of sparkray's native part: one sentence that says what happened and what to do. */
public final class SparkRayException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  private final int code;

  /**
   * Made by the native library.
   *
   * @param code the number of the kind of failure, the same in all languages
   * @param message one sentence
   */
  public SparkRayException(int code, String message) {
    super(message);
    this.code = code;
  }

  SparkRayException(int code, String message, Throwable cause) {
    super(message, cause);
    this.code = code;
  }

  /** The number of the kind of failure: {@code sparkray_common::ErrorCode}. */
  public int getCode() {
    return code;
  }
}
