//! The keys of a connection: Noise `NNpsk0`, after the handshake and bound to it (ADR 0010).
//!
//! ```text
//! caller -> 48 bytes: an ephemeral X25519 key, and a tag that only the token makes
//! callee -> 48 bytes: the same
//! ```
//!
//! Invariants:
//! 1. Both ends prove that they know the token: it is the pre-shared key of both messages.
//! 2. What the handshake said (both nonces, the target, the protection) is in every key: whoever carries bytes between
//!    two handshakes gets neither through.
//! 3. Keys come from ephemeral keys: who learns the token later reads nothing that was recorded before.

use std::sync::{Arc, LazyLock};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use snow::params::NoiseParams;
use snow::{Builder, HandshakeState};
use sparkray_common::ClusterToken;

use crate::RpcError;
use crate::agreement::Agreement;
use crate::records::Records;

/// Length of each side's message.
pub const NOISE_MESSAGE_LEN: usize = 48;

static SUITE: LazyLock<NoiseParams> = LazyLock::new(|| {
    "Noise_NNpsk0_25519_AESGCM_SHA256"
        .parse()
        .expect("the suite is one that snow knows")
});

/// The caller's side, between its message and the answer.
pub struct Negotiation(Box<HandshakeState>);

impl std::fmt::Debug for Negotiation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Negotiation(hidden)")
    }
}

impl Negotiation {
    /// Begins, with the message to send.
    pub fn begin(
        token: &ClusterToken,
        agreement: &Agreement,
    ) -> Result<(Self, [u8; NOISE_MESSAGE_LEN]), RpcError> {
        let psk = psk(token);
        let mut state = builder(&psk, agreement)
            .and_then(Builder::build_initiator)
            .map_err(failed)?;
        let mut message = [0; NOISE_MESSAGE_LEN];
        state.write_message(&[], &mut message).map_err(failed)?;
        Ok((Self(Box::new(state)), message))
    }

    /// Reads the callee's answer.
    pub fn finish(mut self, answer: &[u8; NOISE_MESSAGE_LEN]) -> Result<Records, RpcError> {
        self.0.read_message(answer, &mut []).map_err(failed)?;
        sealed(*self.0)
    }
}

/// The callee's side: reads the caller's message, and gives the answer to send.
pub fn answer_negotiation(
    token: &ClusterToken,
    agreement: &Agreement,
    message: &[u8; NOISE_MESSAGE_LEN],
) -> Result<(Records, [u8; NOISE_MESSAGE_LEN]), RpcError> {
    let psk = psk(token);
    let mut state = builder(&psk, agreement)
        .and_then(Builder::build_responder)
        .map_err(failed)?;
    state.read_message(message, &mut []).map_err(failed)?;
    let mut answer = [0; NOISE_MESSAGE_LEN];
    state.write_message(&[], &mut answer).map_err(failed)?;
    Ok((sealed(state)?, answer))
}

fn builder<'a>(psk: &'a [u8; 32], agreement: &'a Agreement) -> Result<Builder<'a>, snow::Error> {
    Builder::new(SUITE.clone())
        .prologue(agreement.binding())?
        .psk(0, psk)
}

/// The token itself is the key of the handshake's proofs: another key for another use.
fn psk(token: &ClusterToken) -> [u8; 32] {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(token.expose_bytes()).expect("HMAC takes a key of any length");
    mac.update(b"noise psk");
    mac.finalize().into_bytes().into()
}

fn sealed(state: HandshakeState) -> Result<Records, RpcError> {
    let keys = state.into_stateless_transport_mode().map_err(failed)?;
    Ok(Records::sealed(Arc::new(keys)))
}

fn failed(error: snow::Error) -> RpcError {
    RpcError::NotSecure(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agreement::Protection;

    fn run(
        caller: (&ClusterToken, &Agreement),
        callee: (&ClusterToken, &Agreement),
    ) -> Result<(Records, Records), RpcError> {
        let (negotiation, message) = Negotiation::begin(caller.0, caller.1)?;
        let (far, answer) = answer_negotiation(callee.0, callee.1, &message)?;
        Ok((negotiation.finish(&answer)?, far))
    }

    fn pass(from: &mut Records, to: &mut Records, text: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        from.sealer.seal(text, &mut wire);
        assert!(
            !wire.windows(text.len()).any(|window| window == text),
            "it is readable"
        );
        to.opener.push(&wire);
        to.opener.take_all().unwrap()
    }

    #[test]
    fn both_ends_of_one_handshake_understand_each_other() {
        let token = ClusterToken::random();
        let agreement = Agreement::new(Protection::Sealed, b"transcript");
        let (mut near, mut far) = run((&token, &agreement), (&token, &agreement)).unwrap();
        assert_eq!(pass(&mut near, &mut far, b"there"), b"there");
        assert_eq!(pass(&mut far, &mut near, b"and back"), b"and back");
        assert_eq!(pass(&mut near, &mut far, b"again"), b"again");
    }

    #[test]
    fn another_token_or_another_handshake_is_noticed() {
        let (token, other) = (ClusterToken::random(), ClusterToken::random());
        let agreement = Agreement::new(Protection::Sealed, b"transcript");
        let elsewhere = Agreement::new(Protection::Sealed, b"another");
        for outcome in [
            run((&token, &agreement), (&other, &agreement)),
            run((&token, &agreement), (&token, &elsewhere)),
        ] {
            assert!(matches!(outcome, Err(RpcError::NotSecure(_))));
        }
    }

    #[test]
    fn no_two_connections_have_the_same_keys() {
        let token = ClusterToken::random();
        let agreement = Agreement::new(Protection::Sealed, b"transcript");
        let (mut near, _) = run((&token, &agreement), (&token, &agreement)).unwrap();
        let (_, mut far) = run((&token, &agreement), (&token, &agreement)).unwrap();
        let mut wire = Vec::new();
        near.sealer.seal(b"recorded", &mut wire);
        far.opener.push(&wire);
        assert!(far.opener.take_all().is_err());
    }
}
