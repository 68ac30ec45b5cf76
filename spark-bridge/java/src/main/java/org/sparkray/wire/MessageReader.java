package org.sparkray.wire;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/**
 * Goes through the fields of a message in the order in which they were written: {@link #next}, then
 * the accessor for the field's type. A field whose accessor is not called is passed over. What is
 * no encoding of a message is an IllegalArgumentException, with the message's name.
 */
public final class MessageReader {
  private final String name;
  private final byte[] bytes;
  private int position;
  private int field;
  private int wireType;
  private long number;
  private byte[] content;

  /**
   * @param name of the message
   * @param bytes its encoding
   */
  public MessageReader(String name, byte[] bytes) {
    this.name = name;
    this.bytes = bytes;
  }

  /** Reads the next field; false at the end. */
  public boolean next() {
    if (position == bytes.length) {
      return false;
    }
    long tag = varint();
    field = (int) (tag >>> WireType.BITS);
    wireType = (int) tag & WireType.MASK;
    switch (wireType) {
      case WireType.VARINT:
        number = varint();
        return true;
      case WireType.FIXED64:
        content = take(Long.BYTES);
        return true;
      case WireType.LENGTH_DELIMITED:
        content = take(varint());
        return true;
      case WireType.FIXED32:
        content = take(Integer.BYTES);
        return true;
      default:
        throw unreadable("wire type " + wireType);
    }
  }

  /** The number of the field in the message. */
  public int field() {
    return field;
  }

  /** The field's value: an integer. */
  public long integer() {
    expect(WireType.VARINT);
    return number;
  }

  /** The field's value: bytes, or the encoding of a message. */
  public byte[] bytes() {
    expect(WireType.LENGTH_DELIMITED);
    return content;
  }

  /** The field's value: text. */
  public String text() {
    return new String(bytes(), StandardCharsets.UTF_8);
  }

  /** The field's value: integers that are repeated. */
  public int[] integers() {
    MessageReader packed = new MessageReader(name, bytes());
    int[] values = new int[packed.bytes.length];
    int count = 0;
    while (packed.position < packed.bytes.length) {
      values[count++] = (int) packed.varint();
    }
    return Arrays.copyOf(values, count);
  }

  private void expect(int expected) {
    if (wireType != expected) {
      throw unreadable("field " + field + " has another type");
    }
  }

  private long varint() {
    long value = 0;
    for (int shift = 0; shift < Long.SIZE; shift += 7) {
      if (position == bytes.length) {
        throw unreadable("it is cut off");
      }
      byte next = bytes[position++];
      value |= (long) (next & 0x7f) << shift;
      if (next >= 0) {
        return value;
      }
    }
    throw unreadable("an integer is too long");
  }

  private byte[] take(long length) {
    if (length < 0 || length > bytes.length - position) {
      throw unreadable("it is cut off");
    }
    position += (int) length;
    return Arrays.copyOfRange(bytes, position - (int) length, position);
  }

  private IllegalArgumentException unreadable(String why) {
    return new IllegalArgumentException("cannot read " + name + ": " + why);
  }
}
