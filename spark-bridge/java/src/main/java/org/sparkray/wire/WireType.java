package org.sparkray.wire;

/**
 * How a field's value is written: the lowest bits of its tag, which has the field's number above.
 */
final class WireType {
  static final int VARINT = 0;
  static final int FIXED64 = 1;
  static final int LENGTH_DELIMITED = 2;
  static final int FIXED32 = 5;

  static final int BITS = 3;
  static final int MASK = (1 << BITS) - 1;

  private WireType() {}
}
