package org.sparkray;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.node.ObjectNode;
import org.junit.jupiter.api.Test;

class ManagerTokenTest {
  private static final String INVITATION = "{\"address\":\"10.0.0.1:7000\",\"token\":\"deadbeef\"}";

  @Test
  void noncesAreOf32BytesAndDiffer() {
    String nonce = ManagerToken.nonce();
    assertTrue(nonce.matches("[0-9a-f]{64}"), nonce);
    assertNotEquals(nonce, ManagerToken.nonce());
  }

  @Test
  void aHiddenInvitationHasTheNonceInPlaceOfTheToken() throws Exception {
    String hidden = ManagerToken.hide(INVITATION, "0a0b");
    assertFalse(hidden.contains("deadbeef"), hidden);
    assertEquals("{\"address\":\"10.0.0.1:7000\",\"nonce\":\"0a0b\"}", hidden);
  }

  @Test
  void anInvitationThatWasNotHiddenIsTakenAsItIs() throws Exception {
    ObjectNode revealed = ManagerToken.reveal(INVITATION);
    assertEquals(INVITATION, revealed.toString());
  }

  @Test
  void anExecutorWithoutSparksSecretCannotRevealTheToken() throws Exception {
    String hidden = ManagerToken.hide(INVITATION, "0a0b");
    SparkRayException refusal =
        assertThrows(SparkRayException.class, () -> ManagerToken.reveal(hidden));
    assertEquals(ErrorCode.UNAUTHENTICATED, refusal.getCode());
  }
}
