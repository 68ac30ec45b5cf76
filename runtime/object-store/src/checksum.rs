//! A fast 64-bit checksum against damaged spill files. Not against forgery.

const LANES: usize = 4;
const BLOCK: usize = LANES * 8;
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The checksum of `bytes`.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    let mut lanes = [
        0x243f_6a88_85a3_08d3_u64,
        0x1319_8a2e_0370_7344,
        0xa409_3822_299f_31d0,
        0x082e_fa98_ec4e_6c89,
    ];
    let mut blocks = bytes.chunks_exact(BLOCK);
    for block in &mut blocks {
        for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(8)) {
            *lane = mix(*lane, word);
        }
    }
    let mut tail = [0; BLOCK];
    let rest = blocks.remainder();
    tail[..rest.len()].copy_from_slice(rest);
    for (lane, word) in lanes.iter_mut().zip(tail.chunks_exact(8)) {
        *lane = mix(*lane, word);
    }
    let mut sum = bytes.len() as u64;
    for lane in lanes {
        sum = (sum ^ lane).wrapping_mul(MULTIPLIER);
        sum ^= sum >> 32;
    }
    sum
}

fn mix(lane: u64, word: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(word);
    (lane ^ u64::from_le_bytes(bytes))
        .wrapping_mul(MULTIPLIER)
        .rotate_left(29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_changes_the_checksum() {
        let bytes: Vec<u8> = (0..200_u8).collect();
        let whole = checksum(&bytes);
        for index in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[index / 8] ^= 1 << (index % 8);
            assert_ne!(checksum(&changed), whole, "bit {index}");
        }
        for len in 0..bytes.len() {
            assert_ne!(checksum(&bytes[..len]), whole, "length {len}");
        }
        assert_ne!(checksum(&[0; 32]), checksum(&[0; 64]));
    }
}
