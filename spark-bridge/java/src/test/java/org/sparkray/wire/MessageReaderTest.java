package org.sparkray.wire;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.junit.jupiter.api.Test;

class MessageReaderTest {
  private static MessageReader reader(int... bytes) {
    byte[] encoding = new byte[bytes.length];
    for (int index = 0; index < bytes.length; index++) {
      encoding[index] = (byte) bytes[index];
    }
    return new MessageReader("Test", encoding);
  }

  private static void assertUnreadable(MessageReader reader) {
    IllegalArgumentException refusal =
        assertThrows(
            IllegalArgumentException.class,
            () -> {
              while (reader.next()) {
                reader.integer();
              }
            });
    assertTrue(refusal.getMessage().startsWith("cannot read Test: "), refusal.getMessage());
  }

  @Test
  void fieldsComeInTheOrderOfTheirBytes() {
    // 1: 150, 2: "testing", as the documentation of protobuf has them.
    MessageReader reader =
        reader(0x08, 0x96, 0x01, 0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67);
    assertTrue(reader.next());
    assertEquals(1, reader.field());
    assertEquals(150, reader.integer());
    assertTrue(reader.next());
    assertEquals(2, reader.field());
    assertEquals("testing", reader.text());
    assertFalse(reader.next());
  }

  @Test
  void integersMayBeNegativeOrPacked() {
    MessageReader negative =
        reader(0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01);
    assertTrue(negative.next());
    assertEquals(-1, negative.integer());
    // 6: [3, 270, 86942], from there too.
    MessageReader packed = reader(0x32, 0x06, 0x03, 0x8e, 0x02, 0x9e, 0xa7, 0x05);
    assertTrue(packed.next());
    assertArrayEquals(new int[] {3, 270, 86942}, packed.integers());
  }

  @Test
  void fieldsOfAllWidthsArePassedOver() {
    MessageReader reader =
        reader(0x09, 0, 0, 0, 0, 0, 0, 0, 0, 0x15, 0, 0, 0, 0, 0x1a, 1, 0, 0xa0, 0x06, 7);
    for (int field : new int[] {1, 2, 3, 100}) {
      assertTrue(reader.next());
      assertEquals(field, reader.field());
    }
    assertEquals(7, reader.integer());
    assertFalse(reader.next());
  }

  @Test
  void nothingIsAMessageWithoutFields() {
    assertFalse(reader().next());
  }

  @Test
  void whatIsNoMessageIsRefusedWithItsName() {
    assertUnreadable(reader(0x08));
    assertUnreadable(reader(0x08, 0x80));
    assertUnreadable(reader(0x12, 0x02, 0x41));
    assertUnreadable(reader(0x0b));
    assertUnreadable(reader(0x12, 0x01, 0x41));
    assertUnreadable(
        reader(0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01));
    assertUnreadable(
        reader(0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x41));
  }
}
