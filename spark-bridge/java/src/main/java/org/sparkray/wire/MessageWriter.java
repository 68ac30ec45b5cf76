package org.sparkray.wire;

import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;

/**
 * The encoding of a message, field by field. Fields that are written twice are repeated; of one
 * that is not, the last counts.
 */
public final class MessageWriter {
  private final ByteArrayOutputStream bytes = new ByteArrayOutputStream();

  /** A field of an integer type. */
  public MessageWriter integer(int field, long value) {
    tag(field, WireType.VARINT);
    varint(value);
    return this;
  }

  /** A field of type bool. */
  public MessageWriter truth(int field, boolean value) {
    return integer(field, value ? 1 : 0);
  }

  /** A field of type double. */
  public MessageWriter number(int field, double value) {
    tag(field, WireType.FIXED64);
    long rest = Double.doubleToLongBits(value);
    for (int index = 0; index < Double.BYTES; index++) {
      bytes.write((int) rest);
      rest >>>= Byte.SIZE;
    }
    return this;
  }

  /** The fields of an encoding. */
  public MessageWriter fields(byte[] encoding) {
    bytes.write(encoding, 0, encoding.length);
    return this;
  }

  /** A field of type bytes, or a message, by its encoding. */
  public MessageWriter bytes(int field, byte[] value) {
    tag(field, WireType.LENGTH_DELIMITED);
    varint(value.length);
    bytes.write(value, 0, value.length);
    return this;
  }

  /** A field of type string. */
  public MessageWriter text(int field, String value) {
    return bytes(field, value.getBytes(StandardCharsets.UTF_8));
  }

  /** What was written. */
  public byte[] toBytes() {
    return bytes.toByteArray();
  }

  private void tag(int field, int wireType) {
    varint((long) field << WireType.BITS | wireType);
  }

  private void varint(long value) {
    long rest = value;
    while ((rest & ~0x7fL) != 0) {
      bytes.write((int) (rest & 0x7f | 0x80));
      rest >>>= 7;
    }
    bytes.write((int) rest);
  }
}
