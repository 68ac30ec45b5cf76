package org.sparkray.wire;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.junit.jupiter.api.Test;

class MessageWriterTest {
  private static void assertBytes(MessageWriter writer, int... expected) {
    byte[] bytes = new byte[expected.length];
    for (int index = 0; index < expected.length; index++) {
      bytes[index] = (byte) expected[index];
    }
    assertArrayEquals(bytes, writer.toBytes());
  }

  @Test
  void integersAreVarints() {
    // 150 as the documentation of protobuf has it.
    assertBytes(new MessageWriter().integer(1, 150), 0x08, 0x96, 0x01);
    assertBytes(new MessageWriter().integer(16, 0), 0x80, 0x01, 0x00);
    assertBytes(new MessageWriter().truth(2, true).truth(3, false), 0x10, 0x01, 0x18, 0x00);
    assertBytes(
        new MessageWriter().integer(1, -1),
        0x08,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0x01);
  }

  @Test
  void textIsUtf8BehindItsLength() {
    assertBytes(
        new MessageWriter().text(2, "testing"),
        0x12,
        0x07,
        0x74,
        0x65,
        0x73,
        0x74,
        0x69,
        0x6e,
        0x67);
    assertBytes(new MessageWriter().text(1, "é"), 0x0a, 0x02, 0xc3, 0xa9);
    assertBytes(new MessageWriter().text(1, ""), 0x0a, 0x00);
  }

  @Test
  void numbersAreEightBytesFromTheLowest() {
    assertBytes(new MessageWriter().number(3, 60), 0x19, 0, 0, 0, 0, 0, 0, 0x4e, 0x40);
  }

  @Test
  void fieldsOfAnEncodingStandBetweenOthers() {
    byte[] encoding = new MessageWriter().integer(2, 7).toBytes();
    assertBytes(
        new MessageWriter().integer(1, 1).fields(encoding).integer(3, 3),
        0x08,
        0x01,
        0x10,
        0x07,
        0x18,
        0x03);
  }

  @Test
  void aMessageInsideIsItsBytes() {
    byte[] inner = new MessageWriter().integer(1, 150).toBytes();
    assertBytes(new MessageWriter().bytes(3, inner), 0x1a, 0x03, 0x08, 0x96, 0x01);
  }

  @Test
  void whatIsWrittenIsReadBack() {
    long large = 1L << 62;
    MessageReader reader =
        new MessageReader("Test", new MessageWriter().integer(9, large).text(20, "x").toBytes());
    assertTrue(reader.next());
    assertEquals(9, reader.field());
    assertEquals(large, reader.integer());
    assertTrue(reader.next());
    assertEquals("x", reader.text());
  }
}
