package org.sparkray;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.junit.jupiter.api.Test;
import org.sparkray.wire.MessageReader;
import org.sparkray.wire.MessageWriter;

class ManagerTokenTest {
  private static final byte[] INVITATION = new MessageWriter().text(1, "10.0.0.1:7000").toBytes();

  @Test
  void noncesAreOf32BytesAndDiffer() {
    String nonce = ManagerToken.nonce();
    assertTrue(nonce.matches("[0-9a-f]{64}"), nonce);
    assertNotEquals(nonce, ManagerToken.nonce());
  }

  @Test
  void anInvitationIsToldWithTheNonceBehindIt() {
    MessageReader told =
        new MessageReader("Invitation", ManagerToken.withNonce(INVITATION, "0a0b"));
    assertTrue(told.next());
    assertEquals("10.0.0.1:7000", told.text());
    assertTrue(told.next());
    assertEquals("0a0b", told.text());
    assertFalse(told.next());
  }

  @Test
  void anInvitationWithoutANonceNeedsNoOtherToken() throws Exception {
    assertNull(ManagerToken.derived(INVITATION));
  }

  @Test
  void anExecutorWithoutSparksSecretCannotDeriveTheToken() {
    byte[] told = ManagerToken.withNonce(INVITATION, "0a0b");
    SparkRayException refusal =
        assertThrows(SparkRayException.class, () -> ManagerToken.derived(told));
    assertEquals(ErrorCode.UNAUTHENTICATED, refusal.getCode());
  }
}
