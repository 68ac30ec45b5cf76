package org.sparkray;

import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.SecureRandom;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;
import org.apache.spark.SecurityManager;
import org.apache.spark.SparkEnv;
import org.sparkray.wire.Fields;
import org.sparkray.wire.MessageReader;
import org.sparkray.wire.MessageWriter;

/**
 * The secret with which executors join the driver's manager. Where Spark authenticates its
 * processes, they share a secret already: both sides derive the token from it, and it never
 * travels, however Spark's RPC is protected.
 */
final class ManagerToken {
  private static final int TOKEN_BYTES = 32;

  private ManagerToken() {}

  /** Random text, for one manager. */
  static String nonce() {
    byte[] bytes = new byte[TOKEN_BYTES];
    new SecureRandom().nextBytes(bytes);
    return hex(bytes);
  }

  /** The token of the manager with this nonce, in hexadecimal; null where Spark has no secret. */
  static String derive(String nonce) throws GeneralSecurityException {
    SparkEnv env = SparkEnv.get();
    SecurityManager security = env == null ? null : env.securityManager();
    if (security == null || !security.isAuthenticationEnabled()) {
      return null;
    }
    Mac mac = Mac.getInstance("HmacSHA256");
    mac.init(
        new SecretKeySpec(security.getSecretKey().getBytes(StandardCharsets.UTF_8), "HmacSHA256"));
    return hex(mac.doFinal(("sparkray manager " + nonce).getBytes(StandardCharsets.UTF_8)));
  }

  /** An {@code Invitation} for executors that derive the token. */
  static byte[] withNonce(byte[] invitation, String nonce) {
    return new MessageWriter().fields(invitation).text(Fields.Invitation.NONCE, nonce).toBytes();
  }

  /** The token for an {@code Invitation}, in hexadecimal; null where that has one in it. */
  static String derived(byte[] invitation) throws GeneralSecurityException {
    MessageReader reader = new MessageReader("Invitation", invitation);
    String nonce = null;
    while (reader.next()) {
      if (reader.field() == Fields.Invitation.NONCE) {
        nonce = reader.text();
      }
    }
    if (nonce == null) {
      return null;
    }
    String token = derive(nonce);
    if (token == null) {
      throw new SparkRayException(
          ErrorCode.UNAUTHENTICATED,
          "Spark authenticates its processes in the driver, but not in this executor");
    }
    return token;
  }

  private static String hex(byte[] bytes) {
    StringBuilder text = new StringBuilder();
    for (byte one : bytes) {
      text.append(String.format("%02x", one));
    }
    return text.toString();
  }
}
