package org.sparkray;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.SecureRandom;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;
import org.apache.spark.SecurityManager;
import org.apache.spark.SparkEnv;

/**
 * The secret with which executors join the driver's manager. Where Spark authenticates its
 * processes, they share a secret already: both sides derive the token from it, and it never
 * travels, however Spark's RPC is protected.
 */
final class ManagerToken {
  private static final String NONCE = "nonce";
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

  /** What executors are told in place of an invitation whose token they can derive. */
  static String hide(String invitation, String nonce) throws IOException {
    ObjectNode told = (ObjectNode) new ObjectMapper().readTree(invitation);
    told.remove("token");
    told.put(NONCE, nonce);
    return told.toString();
  }

  /** The invitation itself, from what an executor was told. */
  static ObjectNode reveal(String told) throws IOException, GeneralSecurityException {
    ObjectNode invitation = (ObjectNode) new ObjectMapper().readTree(told);
    if (invitation.has(NONCE)) {
      String token = derive(invitation.remove(NONCE).asText());
      if (token == null) {
        throw new SparkRayException(
            ErrorCode.UNAUTHENTICATED,
            "Spark authenticates its processes in the driver, but not in this executor");
      }
      invitation.put("token", token);
    }
    return invitation;
  }

  private static String hex(byte[] bytes) {
    StringBuilder text = new StringBuilder();
    for (byte one : bytes) {
      text.append(String.format("%02x", one));
    }
    return text.toString();
  }
}
