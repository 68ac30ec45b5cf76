//! Records: how bytes travel over TCP after the handshake, encrypted or with a checksum.
//!
//! ```text
//! 0..2 length of the body   2..4 its complement   then the body: Noise message, or bytes and XXH3 of them
//! ```
//!
//! Invariants:
//! 1. Both ends count the records of each direction; the count is in the nonce, or in the checksum's seed. A record that
//!    is changed, lost, repeated or moved ends the connection before a byte of it is seen.
//! 2. A length is believed only with its complement: a flipped bit does not make the reader wait for what never comes.
//! 3. What was opened is a prefix of what was sealed.

use std::sync::Arc;

use snow::StatelessTransportState;
use twox_hash::XxHash3_64;

use crate::RpcError;

const HEADER_LEN: usize = 4;
/// Noise has no longer messages; twice the kernel's page more than pays for the header and the tag.
const MAX_BODY: usize = u16::MAX as usize;
const TAG_LEN: usize = 16;
const CHECKSUM_LEN: usize = 8;
/// Bytes of one record.
const MAX_PLAIN: usize = MAX_BODY - TAG_LEN;
/// Room for reads: for one record, and for several where reads fill that.
const READ_SIZE: usize = HEADER_LEN + MAX_BODY;
const LARGE_READ_SIZE: usize = 256 * 1024;

/// What makes a body of bytes.
#[derive(Clone)]
enum Cipher {
    Sealed(Arc<StatelessTransportState>),
    Checked,
}

/// Both directions of a connection.
#[derive(Debug)]
pub struct Records {
    /// What this end sends.
    pub sealer: Sealer,
    /// What it receives.
    pub opener: Opener,
}

impl Records {
    pub(crate) fn sealed(keys: Arc<StatelessTransportState>) -> Self {
        Self::new(Cipher::Sealed(keys))
    }

    /// With checksums only.
    pub fn checked() -> Self {
        Self::new(Cipher::Checked)
    }

    fn new(cipher: Cipher) -> Self {
        Self {
            sealer: Sealer {
                cipher: cipher.clone(),
                count: 0,
            },
            opener: Opener {
                cipher,
                count: 0,
                buffer: Vec::new(),
                begin: 0,
                end: 0,
                filled: false,
            },
        }
    }
}

/// Makes records.
pub struct Sealer {
    cipher: Cipher,
    count: u64,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Sealer").finish_non_exhaustive()
    }
}

impl Sealer {
    /// Appends `bytes` to `out`, as records.
    pub fn seal(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for part in bytes.chunks(MAX_PLAIN) {
            let begin = out.len();
            out.resize(begin + HEADER_LEN + part.len() + TAG_LEN, 0);
            let body = &mut out[begin + HEADER_LEN..];
            let len = match &self.cipher {
                Cipher::Sealed(keys) => keys
                    .write_message(self.count, part, body)
                    .expect("the body has room, and the count never ends"),
                Cipher::Checked => {
                    let len = part.len();
                    body[..len].copy_from_slice(part);
                    let sum = XxHash3_64::oneshot_with_seed(self.count, &body[..len]);
                    body[len..len + CHECKSUM_LEN].copy_from_slice(&sum.to_le_bytes());
                    len + CHECKSUM_LEN
                }
            };
            out.truncate(begin + HEADER_LEN + len);
            let len = len as u16;
            out[begin..begin + 2].copy_from_slice(&len.to_le_bytes());
            out[begin + 2..begin + 4].copy_from_slice(&(!len).to_le_bytes());
            self.count += 1;
        }
    }
}

/// Reads records.
pub struct Opener {
    cipher: Cipher,
    count: u64,
    buffer: Vec<u8>,
    /// What was read and not opened yet.
    begin: usize,
    end: usize,
    /// The last read took all room.
    filled: bool,
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Opener").finish_non_exhaustive()
    }
}

impl Opener {
    /// Room to read into; [`Opener::advance`] says how much was read.
    pub fn read_slot(&mut self) -> &mut [u8] {
        if self.begin == self.end {
            (self.begin, self.end) = (0, 0);
        } else if self.begin > 0 {
            // Less than a record is left.
            self.buffer.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
        if self.buffer.is_empty() {
            self.buffer.resize(READ_SIZE, 0);
        } else if self.filled && self.buffer.len() < LARGE_READ_SIZE {
            self.buffer.resize(LARGE_READ_SIZE, 0);
        }
        &mut self.buffer[self.end..]
    }

    /// `read` bytes are in the slot.
    pub fn advance(&mut self, read: usize) {
        self.end += read;
        self.filled = self.end == self.buffer.len();
    }

    /// Bytes that were read elsewhere.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let slot = self.read_slot();
            if slot.is_empty() {
                let longer = self.buffer.len() + bytes.len();
                self.buffer.resize(longer, 0);
                continue;
            }
            let taken = slot.len().min(bytes.len());
            slot[..taken].copy_from_slice(&bytes[..taken]);
            self.advance(taken);
            bytes = &bytes[taken..];
        }
    }

    /// The length of the room that the next record needs to be opened; `None` until it is there as a whole.
    pub fn ready(&self) -> Result<Option<usize>, RpcError> {
        let waiting = &self.buffer[self.begin..self.end];
        let Some((header, rest)) = waiting.split_at_checked(HEADER_LEN) else {
            return Ok(None);
        };
        let len = u16::from_le_bytes([header[0], header[1]]);
        if len != !u16::from_le_bytes([header[2], header[3]]) {
            return Err(changed());
        }
        Ok((rest.len() >= usize::from(len)).then_some(usize::from(len)))
    }

    /// Opens the record that is ready into `out`, which is as long as [`Opener::ready`] said. Returns the bytes in it.
    pub fn open(&mut self, out: &mut [u8]) -> Result<usize, RpcError> {
        let begin = self.begin + HEADER_LEN;
        let body = &self.buffer[begin..begin + out.len()];
        let len = match &self.cipher {
            Cipher::Sealed(keys) => keys.read_message(self.count, body, out).map_err(|_| changed())?,
            Cipher::Checked => {
                let len = body.len().checked_sub(CHECKSUM_LEN).ok_or_else(changed)?;
                out[..len].copy_from_slice(&body[..len]);
                // Of the copy: that is what will be used.
                let sum = XxHash3_64::oneshot_with_seed(self.count, &out[..len]);
                if sum.to_le_bytes() != body[len..] {
                    return Err(changed());
                }
                len
            }
        };
        self.begin = begin + body.len();
        self.count += 1;
        Ok(len)
    }

    /// Opens all records that are there.
    #[cfg(test)]
    pub(crate) fn take_all(&mut self) -> Result<Vec<u8>, RpcError> {
        let mut plain = Vec::new();
        self.take_all_into(&mut plain)?;
        Ok(plain)
    }

    /// Appends all records that are there.
    pub(crate) fn take_all_into(&mut self, plain: &mut Vec<u8>) -> Result<(), RpcError> {
        while let Some(room) = self.ready()? {
            let begin = plain.len();
            plain.resize(begin + room, 0);
            let len = self.open(&mut plain[begin..])?;
            plain.truncate(begin + len);
        }
        Ok(())
    }
}

fn changed() -> RpcError {
    RpcError::NotSecure(
        "bytes were changed, lost or repeated on their way; is something between the hosts at fault?"
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealed_pair() -> (Sealer, Opener) {
        let suite: snow::params::NoiseParams = "Noise_NN_25519_AESGCM_SHA256".parse().unwrap();
        let mut caller = snow::Builder::new(suite.clone()).build_initiator().unwrap();
        let mut callee = snow::Builder::new(suite).build_responder().unwrap();
        let mut message = [0; 128];
        let len = caller.write_message(&[], &mut message).unwrap();
        callee.read_message(&message[..len], &mut []).unwrap();
        let len = callee.write_message(&[], &mut message).unwrap();
        caller.read_message(&message[..len], &mut []).unwrap();
        let caller = caller.into_stateless_transport_mode().unwrap();
        let callee = callee.into_stateless_transport_mode().unwrap();
        (
            Records::sealed(Arc::new(caller)).sealer,
            Records::sealed(Arc::new(callee)).opener,
        )
    }

    fn checked_pair() -> (Sealer, Opener) {
        (Records::checked().sealer, Records::checked().opener)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn bytes_survive_any_cut_of_the_stream(
            lens in prop::collection::vec(0_usize..200_000, 1..5),
            cuts in prop::collection::vec(1_usize..70_000, 1..20),
        ) {
            for (mut sealer, mut opener) in [sealed_pair(), checked_pair()] {
                let mut wire = Vec::new();
                let mut sent = Vec::new();
                for len in &lens {
                    let bytes: Vec<u8> = (0..*len).map(|index| (index * 7 % 251) as u8).collect();
                    sealer.seal(&bytes, &mut wire);
                    sent.extend_from_slice(&bytes);
                }
                let mut seen = Vec::new();
                let mut rest = &wire[..];
                let mut cut = cuts.iter().cycle();
                while !rest.is_empty() {
                    let slot = opener.read_slot();
                    let take = (*cut.next().unwrap()).min(rest.len()).min(slot.len());
                    slot[..take].copy_from_slice(&rest[..take]);
                    opener.advance(take);
                    rest = &rest[take..];
                    opener.take_all_into(&mut seen).unwrap();
                }
                prop_assert!(seen == sent);
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed_before_a_byte_is_seen() {
        for (mut sealer, _) in [sealed_pair(), checked_pair()] {
            let mut wire = Vec::new();
            sealer.seal(b"forty-two", &mut wire);
            for bit in 0..wire.len() * 8 {
                // Openers of other keys refuse everything: the sealed half of this test is the next one.
                if matches!(sealer.cipher, Cipher::Checked) {
                    let mut changed = wire.clone();
                    changed[bit / 8] ^= 1 << (bit % 8);
                    let mut opener = Records::checked().opener;
                    opener.push(&changed);
                    assert!(opener.take_all().is_err(), "bit {bit}");
                }
            }
        }
        for bit in 0..(HEADER_LEN + 9 + TAG_LEN) * 8 {
            let (mut sealer, mut opener) = sealed_pair();
            let mut wire = Vec::new();
            sealer.seal(b"forty-two", &mut wire);
            wire[bit / 8] ^= 1 << (bit % 8);
            opener.push(&wire);
            assert!(opener.take_all().is_err(), "bit {bit}");
        }
    }

    #[test]
    fn records_that_are_repeated_lost_or_moved_are_noticed() {
        for make in [sealed_pair, checked_pair] {
            for order in [&[0, 0][..], &[1], &[1, 0], &[0, 2]] {
                let (mut sealer, mut opener) = make();
                let records: Vec<Vec<u8>> = [b"one", b"two", b"six"]
                    .iter()
                    .map(|text| {
                        let mut wire = Vec::new();
                        sealer.seal(*text, &mut wire);
                        wire
                    })
                    .collect();
                for index in order {
                    opener.push(&records[*index]);
                }
                assert!(opener.take_all().is_err(), "{order:?}");
            }
        }
    }

    /// Not a test of speed: it prints what the records cost by themselves. `cargo test --release -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    #[allow(clippy::print_stdout)]
    fn speed() {
        for (name, make) in [
            ("sealed", sealed_pair as fn() -> (Sealer, Opener)),
            ("checked", checked_pair),
        ] {
            let (mut sealer, mut opener) = make();
            let bytes = vec![7; 1 << 20];
            let (mut wire, mut plain) = (Vec::new(), Vec::new());
            let (mut sealing, mut opening) = (std::time::Duration::ZERO, std::time::Duration::ZERO);
            for _ in 0..500 {
                wire.clear();
                let begin = std::time::Instant::now();
                sealer.seal(&bytes, &mut wire);
                sealing += begin.elapsed();
                let begin = std::time::Instant::now();
                let mut rest = &wire[..];
                while !rest.is_empty() {
                    let slot = opener.read_slot();
                    let taken = rest.len().min(slot.len());
                    slot[..taken].copy_from_slice(&rest[..taken]);
                    opener.advance(taken);
                    rest = &rest[taken..];
                    plain.clear();
                    opener.take_all_into(&mut plain).unwrap();
                }
                opening += begin.elapsed();
            }
            let rate = |time: std::time::Duration| 500.0 * 1.048_576e6 / time.as_secs_f64() / 1e9;
            println!(
                "{name}: seal {:.2} GB/s, open {:.2} GB/s",
                rate(sealing),
                rate(opening)
            );
        }
    }
}
