//! The cluster's secret. It never reaches a log: `Debug` hides it, and it is not `Display`.

use std::fmt;

/// 256 random bits that every process of one cluster knows.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterToken([u8; 32]);

impl ClusterToken {
    /// Mints a new token.
    pub fn random() -> Self {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the kernel gives random bytes once it has booted");
        Self(bytes)
    }

    /// Reads the secret bytes from a message of an authenticated connection; refuses any other length.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        <[u8; 32]>::try_from(bytes).ok().map(Self)
    }

    /// Reads the hexadecimal form.
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// The hexadecimal form, for a pipe to a child or Spark's authenticated RPC; for nothing else.
    pub fn expose_hex(&self) -> String {
        use fmt::Write;
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            write!(text, "{byte:02x}").expect("writing to a String does not fail");
        }
        text
    }

    /// The secret bytes, for the HMAC.
    pub fn expose_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ClusterToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ClusterToken(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_read_back_and_hidden_from_debug() {
        let token = ClusterToken::random();
        assert_eq!(ClusterToken::from_hex(&token.expose_hex()), Some(token.clone()));
        assert!(!format!("{token:?}").contains(&token.expose_hex()[..8]));
        assert_eq!(ClusterToken::from_hex("12"), None);
    }
}
