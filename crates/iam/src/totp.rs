//! Time-based one-time passwords: RFC 6238 with SHA-1, steps of 30 seconds and six digits, which every authenticator
//! application knows.

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use subtle::ConstantTimeEq;
use terroir_types::{IdSource, Timestamp};

const STEP_SECS: i64 = 30;
/// As AWS's seeds; RFC 4226 recommends 20 and wants 16 bytes at least.
const SEED_BYTES: usize = 40;
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// A new seed.
pub(crate) fn seed(ids: &dyn IdSource) -> Vec<u8> {
    (0..SEED_BYTES.div_ceil(8)).flat_map(|_| ids.next_u64().to_le_bytes()).take(SEED_BYTES).collect()
}

/// The number of the step that a moment is in.
pub(crate) fn step(now: Timestamp) -> i64 {
    now.secs().div_euclid(STEP_SECS)
}

pub(crate) fn code(seed: &[u8], step: i64) -> String {
    // HMAC takes keys of every length.
    let mut mac = Hmac::<Sha1>::new_from_slice(seed).expect("a key of any length");
    mac.update(&step.to_be_bytes());
    let digest = mac.finalize().into_bytes();
    let offset = usize::from(digest[19] & 0x0f);
    let word = u32::from_be_bytes([digest[offset], digest[offset + 1], digest[offset + 2], digest[offset + 3]]);
    format!("{:06}", (word & 0x7fff_ffff) % 1_000_000)
}

/// Whether a text is the code of a step. Takes the same time for every wrong code of six characters.
pub(crate) fn matches(seed: &[u8], step: i64, text: &str) -> bool {
    code(seed, step).as_bytes().ct_eq(text.as_bytes()).into()
}

/// RFC 4648, without padding.
pub(crate) fn base32(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(5) * 8);
    for chunk in bytes.chunks(5) {
        let mut block = [0; 8];
        block[3..3 + chunk.len()].copy_from_slice(chunk);
        let bits = u64::from_be_bytes(block);
        for index in 0..(chunk.len() * 8).div_ceil(5) {
            let five = (bits >> (35 - 5 * index)) & 31;
            // Five bits are always below 32.
            out.push(char::from(BASE32[usize::try_from(five).unwrap_or_default()]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238, appendix B, cut to six digits; RFC 4648, section 10.
    #[test]
    fn published_values() {
        let seed = b"12345678901234567890";
        let rows = [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ];
        for (secs, expected) in rows {
            let step = step(Timestamp::from_secs(secs));
            assert_eq!(code(seed, step), expected);
            assert!(matches(seed, step, expected) && !matches(seed, step + 1, expected));
        }
        assert!(!matches(seed, 1, "28708"));
        for (plain, expected) in
            [("", ""), ("f", "MY"), ("fo", "MZXQ"), ("foo", "MZXW6"), ("foob", "MZXW6YQ"), ("foobar", "MZXW6YTBOI")]
        {
            assert_eq!(base32(plain.as_bytes()), expected);
        }
    }
}
