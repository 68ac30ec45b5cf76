//! What both ends of a connection have agreed on when its handshake is over.

use sha2::{Digest, Sha256};

use crate::RpcError;

/// How the bytes after the handshake are protected. The callee decides, because its door does; its proof covers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Bytes as they are: a Unix socket.
    Plain,
    /// Records with checksums: TCP in a closed network.
    Checked,
    /// Records that are encrypted and authenticated: TCP.
    Sealed,
}

impl Protection {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Plain => 0,
            Self::Checked => 1,
            Self::Sealed => 2,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [Self::Plain, Self::Checked, Self::Sealed]
            .into_iter()
            .find(|protection| protection.number() == number)
    }
}

/// The protection, and what binds keys to the handshake. It is no secret; it goes along with a socket that is handed on
/// to the process that was asked for, which is to do the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreement {
    protection: Protection,
    binding: [u8; 32],
}

impl Agreement {
    pub(crate) fn new(protection: Protection, transcript: &[u8]) -> Self {
        Self {
            protection,
            binding: Sha256::digest(transcript).into(),
        }
    }

    /// Of a connection inside a node.
    pub fn plain() -> Self {
        Self {
            protection: Protection::Plain,
            binding: [0; 32],
        }
    }

    /// How bytes are protected.
    pub fn protection(&self) -> Protection {
        self.protection
    }

    pub(crate) fn binding(&self) -> &[u8] {
        &self.binding
    }

    /// For the message that hands the socket on.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.protection.number()];
        bytes.extend_from_slice(&self.binding);
        bytes
    }

    /// Reads [`Agreement::encode`]. Nothing at all is not read as plain: a door that forgot it must not open the socket.
    pub fn decode(bytes: &[u8]) -> Result<Self, RpcError> {
        let broken = || RpcError::NotSecure("a socket was handed on without its agreement".to_owned());
        let (number, binding) = bytes.split_first().ok_or_else(broken)?;
        Ok(Self {
            protection: Protection::from_number(*number).ok_or_else(broken)?,
            binding: binding.try_into().map_err(|_| broken())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agreement_is_read_back_and_nothing_is_not_one() {
        for protection in [Protection::Plain, Protection::Checked, Protection::Sealed] {
            let agreement = Agreement::new(protection, b"transcript");
            assert_eq!(Agreement::decode(&agreement.encode()).unwrap(), agreement);
        }
        for bytes in [&[][..], &[0], &[9; 33], &[1; 34]] {
            assert!(Agreement::decode(bytes).is_err());
        }
    }
}
