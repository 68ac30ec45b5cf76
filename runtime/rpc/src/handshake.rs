//! The handshake: who is called, and proof from both sides that they know the cluster's token.
//!
//! ```text
//! caller -> hello   104 bytes: magic, version, target kind, cluster id, head epoch, node id, worker id, nonce
//! callee -> proof    65 bytes: nonce, protection, HMAC(token, "callee" hello nonce protection)
//! caller -> proof    32 bytes: HMAC(token, "caller" hello nonce protection)
//! callee -> verdict   1 byte:  0, or the number of a refusal
//! ```
//!
//! It carries no secret, and tells who is called to whoever passes the socket on. What follows it is protected as the
//! callee's proof says (see [`Agreement`]).
//!
//! Invariants:
//! 1. All parts have a fixed length; nothing is decoded from a caller that has not proved itself beyond the hello.
//! 2. Each side's nonce is in both proofs, so that no proof can be replayed.
//! 3. Proofs are compared in constant time.
//! 4. A caller learns why it was refused only after it proved itself.
//! 5. Nobody between the two changes the protection: it is in both proofs, and in the keys.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use sparkray_common::{ClusterId, ClusterToken, NodeId, WorkerId};
use subtle::ConstantTimeEq;

use crate::agreement::{Agreement, Protection};
use crate::refusal::Refusal;

/// Length of the caller's first message.
pub const HELLO_LEN: usize = 104;
/// Length of the callee's answer.
pub const SERVER_PROOF_LEN: usize = 65;
/// Length of the caller's proof.
pub const CLIENT_PROOF_LEN: usize = 32;
const MAGIC: &[u8; 8] = b"SPARKRAY";
const VERSION: u16 = 2;
/// What the callee says before its proof: nonce and protection.
const OFFER_LEN: usize = 33;

/// What a process needs to take part in a cluster's connections.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Its secret.
    pub token: ClusterToken,
    /// The head that this process follows.
    pub head_epoch: u64,
}

/// The process that a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// The head's tonic services.
    Head,
    /// The head's door for sockets that the raylet of its node accepted.
    HeadGateway,
    /// The driver's RayManager.
    Manager,
    /// One start of a raylet.
    Raylet(NodeId),
    /// A worker or driver of that node.
    Worker(NodeId, WorkerId),
}

fn nonce() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes once it has booted");
    bytes
}

fn proof(token: &ClusterToken, role: &[u8], hello: &[u8; HELLO_LEN], offer: &[u8]) -> [u8; 32] {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(token.expose_bytes()).expect("HMAC takes a key of any length");
    mac.update(role);
    mac.update(hello);
    mac.update(offer);
    mac.finalize().into_bytes().into()
}

fn agreement(hello: &[u8; HELLO_LEN], offer: &[u8], protection: Protection) -> Agreement {
    Agreement::new(protection, &[hello, offer].concat())
}

/// The caller's side.
#[derive(Debug)]
pub struct ClientHandshake {
    token: ClusterToken,
    hello: [u8; HELLO_LEN],
}

impl ClientHandshake {
    /// Begins a call of `target`.
    pub fn new(identity: &Identity, target: Target) -> Self {
        let (kind, node, worker) = match target {
            Target::Head => (0, NodeId::NIL, WorkerId::NIL),
            Target::HeadGateway => (1, NodeId::NIL, WorkerId::NIL),
            Target::Manager => (2, NodeId::NIL, WorkerId::NIL),
            Target::Raylet(node) => (3, node, WorkerId::NIL),
            Target::Worker(node, worker) => (4, node, worker),
        };
        let mut hello = [0; HELLO_LEN];
        hello[..8].copy_from_slice(MAGIC);
        hello[8..10].copy_from_slice(&VERSION.to_le_bytes());
        hello[10] = kind;
        hello[16..32].copy_from_slice(identity.cluster_id.as_bytes());
        hello[32..40].copy_from_slice(&identity.head_epoch.to_le_bytes());
        hello[40..56].copy_from_slice(node.as_bytes());
        hello[56..72].copy_from_slice(worker.as_bytes());
        hello[72..].copy_from_slice(&nonce());
        Self {
            token: identity.token.clone(),
            hello,
        }
    }

    /// The first bytes to send.
    pub fn hello(&self) -> &[u8; HELLO_LEN] {
        &self.hello
    }

    /// Checks the callee's proof; gives the bytes to send next and what is agreed, or `None` when the callee does not
    /// know the token.
    pub fn answer(&self, callee: &[u8; SERVER_PROOF_LEN]) -> Option<([u8; CLIENT_PROOF_LEN], Agreement)> {
        let (offer, callee_proof) = callee.split_at(OFFER_LEN);
        let expected = proof(&self.token, b"callee", &self.hello, offer);
        if !bool::from(expected.ct_eq(callee_proof)) {
            return None;
        }
        let protection = Protection::from_number(offer[OFFER_LEN - 1])?;
        Some((
            proof(&self.token, b"caller", &self.hello, offer),
            agreement(&self.hello, offer, protection),
        ))
    }

    /// The secret, for the keys of the connection.
    pub fn token(&self) -> &ClusterToken {
        &self.token
    }

    /// Reads the callee's verdict.
    pub fn verdict(byte: u8) -> Result<(), Refusal> {
        Refusal::from_number(byte).map_or(Ok(()), Err)
    }
}

/// The callee's side, once the hello has been read.
#[derive(Debug)]
pub struct ServerHandshake {
    token: ClusterToken,
    hello: [u8; HELLO_LEN],
    offer: [u8; OFFER_LEN],
    protection: Protection,
    request: Result<Target, Refusal>,
}

impl ServerHandshake {
    /// Reads the hello. `None`: not our protocol at all; close without a word.
    pub fn new(identity: &Identity, hello: [u8; HELLO_LEN], protection: Protection) -> Option<Self> {
        if hello[..8] != *MAGIC {
            return None;
        }
        let request = Self::read_request(identity, &hello);
        let mut offer = [0; OFFER_LEN];
        offer[..32].copy_from_slice(&nonce());
        offer[32] = protection.number();
        Some(Self {
            token: identity.token.clone(),
            hello,
            offer,
            protection,
            request,
        })
    }

    fn read_request(identity: &Identity, hello: &[u8; HELLO_LEN]) -> Result<Target, Refusal> {
        if hello[8..10] != VERSION.to_le_bytes() {
            return Err(Refusal::OtherVersion);
        }
        if hello[16..32] != *identity.cluster_id.as_bytes() {
            return Err(Refusal::OtherCluster);
        }
        if hello[32..40] != identity.head_epoch.to_le_bytes() {
            return Err(Refusal::OtherHead);
        }
        let node = NodeId::from_slice(&hello[40..56]).map_err(|_| Refusal::NoSuchTarget)?;
        let worker = WorkerId::from_slice(&hello[56..72]).map_err(|_| Refusal::NoSuchTarget)?;
        match hello[10] {
            0 => Ok(Target::Head),
            1 => Ok(Target::HeadGateway),
            2 => Ok(Target::Manager),
            3 => Ok(Target::Raylet(node)),
            4 => Ok(Target::Worker(node, worker)),
            _ => Err(Refusal::NoSuchTarget),
        }
    }

    /// The bytes to send.
    pub fn proof(&self) -> [u8; SERVER_PROOF_LEN] {
        let mut message = [0; SERVER_PROOF_LEN];
        message[..OFFER_LEN].copy_from_slice(&self.offer);
        message[OFFER_LEN..].copy_from_slice(&proof(&self.token, b"callee", &self.hello, &self.offer));
        message
    }

    /// What is agreed once the caller has proved itself.
    pub fn agreement(&self) -> Agreement {
        agreement(&self.hello, &self.offer, self.protection)
    }

    /// Checks the caller's proof and gives the target, or why it is refused.
    pub fn finish(&self, caller: &[u8; CLIENT_PROOF_LEN]) -> Result<Target, Refusal> {
        let expected = proof(&self.token, b"caller", &self.hello, &self.offer);
        if !bool::from(expected.ct_eq(caller)) {
            return Err(Refusal::WrongToken);
        }
        self.request
    }

    /// The verdict to send.
    pub fn verdict(outcome: Result<(), Refusal>) -> u8 {
        outcome.err().map_or(0, Refusal::number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster_id: ClusterId::random(),
            token: ClusterToken::random(),
            head_epoch: 3,
        }
    }

    fn run(caller: &Identity, callee: &Identity, target: Target) -> Option<Result<Target, Refusal>> {
        let client = ClientHandshake::new(caller, target);
        let server = ServerHandshake::new(callee, *client.hello(), Protection::Sealed)?;
        let (answer, agreement) = client.answer(&server.proof())?;
        assert_eq!(agreement, server.agreement());
        Some(server.finish(&answer))
    }

    #[test]
    fn both_sides_with_the_token_agree_on_the_target() {
        let identity = identity();
        for target in [
            Target::Head,
            Target::HeadGateway,
            Target::Manager,
            Target::Raylet(NodeId::random()),
            Target::Worker(NodeId::random(), WorkerId::random()),
        ] {
            assert_eq!(run(&identity, &identity, target), Some(Ok(target)));
        }
    }

    #[test]
    fn a_caller_notices_a_callee_with_another_token() {
        let caller = identity();
        let callee = Identity {
            token: ClusterToken::random(),
            ..caller.clone()
        };
        assert_eq!(run(&caller, &callee, Target::Head), None);
    }

    #[test]
    fn a_callee_refuses_a_caller_without_the_token_before_it_says_anything_else() {
        let callee = identity();
        let client = ClientHandshake::new(&callee, Target::Head);
        let server = ServerHandshake::new(&callee, *client.hello(), Protection::Sealed).unwrap();
        assert_eq!(server.finish(&[7; 32]), Err(Refusal::WrongToken));
        let other = Identity {
            cluster_id: ClusterId::random(),
            ..callee.clone()
        };
        let client = ClientHandshake::new(&other, Target::Head);
        let server = ServerHandshake::new(&callee, *client.hello(), Protection::Sealed).unwrap();
        assert_eq!(server.finish(&[7; 32]), Err(Refusal::WrongToken));
    }

    #[test]
    fn a_proof_cannot_be_replayed() {
        let identity = identity();
        let client = ClientHandshake::new(&identity, Target::Head);
        let first = ServerHandshake::new(&identity, *client.hello(), Protection::Sealed).unwrap();
        let (answer, _) = client.answer(&first.proof()).unwrap();
        let second = ServerHandshake::new(&identity, *client.hello(), Protection::Sealed).unwrap();
        assert_eq!(second.finish(&answer), Err(Refusal::WrongToken));
    }

    #[test]
    fn nobody_on_the_way_changes_the_protection() {
        let identity = identity();
        let client = ClientHandshake::new(&identity, Target::Head);
        let server = ServerHandshake::new(&identity, *client.hello(), Protection::Sealed).unwrap();
        let mut proof = server.proof();
        proof[OFFER_LEN - 1] = Protection::Checked.number();
        assert!(client.answer(&proof).is_none());
    }

    #[test]
    fn age_is_checked() {
        let caller = identity();
        let newer = Identity {
            head_epoch: 4,
            ..caller.clone()
        };
        assert_eq!(run(&caller, &newer, Target::Head), Some(Err(Refusal::OtherHead)));
        let other = Identity {
            cluster_id: ClusterId::random(),
            ..caller.clone()
        };
        assert_eq!(
            run(&caller, &other, Target::Head),
            Some(Err(Refusal::OtherCluster))
        );
    }

    #[test]
    fn refusals_survive_their_numbers_and_foreign_bytes_are_no_hello() {
        for refusal in Refusal::ALL {
            assert_eq!(
                ClientHandshake::verdict(ServerHandshake::verdict(Err(refusal))),
                Err(refusal)
            );
        }
        assert_eq!(ClientHandshake::verdict(ServerHandshake::verdict(Ok(()))), Ok(()));
        assert!(ServerHandshake::new(&identity(), [b'G'; HELLO_LEN], Protection::Sealed).is_none());
    }
}
