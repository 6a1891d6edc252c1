//! Checksums that S3 knows, of whole objects and of objects made from parts.
//!
//! Source: "Checking object integrity" of the S3 user guide. A *composite* checksum is the hash of the parts' hashes and
//! is written `BASE64-PARTS`; a *full object* checksum is that of the bytes, and exists for CRCs only where parts are
//! involved, because CRCs of parts can be combined.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest as Crc};
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

use crate::md5_lanes::Md5;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    #[serde(rename = "CRC32")]
    Crc32,
    #[serde(rename = "CRC32C")]
    Crc32c,
    #[serde(rename = "CRC64NVME")]
    Crc64Nvme,
    #[serde(rename = "SHA1")]
    Sha1,
    #[serde(rename = "SHA256")]
    Sha256,
}

impl Algorithm {
    pub const ALL: [Self; 5] = [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    /// As `x-amz-checksum-algorithm` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// The header, or trailer, with a value of it.
    pub const fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    /// Length of a value in bytes.
    pub const fn length(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    const fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Self::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Self::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Self::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            Self::Sha1 | Self::Sha256 => None,
        }
    }

    /// What a multipart upload gets that does not say.
    pub const fn default_coverage(self) -> Coverage {
        match self {
            Self::Crc64Nvme => Coverage::FullObject,
            _ => Coverage::Composite,
        }
    }

    /// Whether a multipart upload may have this combination.
    pub const fn allows(self, coverage: Coverage) -> bool {
        match coverage {
            Coverage::FullObject => self.crc().is_some(),
            Coverage::Composite => !matches!(self, Self::Crc64Nvme),
        }
    }

    /// Whether the text is a base64 value of the right length.
    pub fn is_value(self, text: &str) -> bool {
        STANDARD.decode(text).is_ok_and(|bytes| bytes.len() == self.length())
    }
}

/// What a checksum of an object with parts is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Coverage {
    #[serde(rename = "f")]
    FullObject,
    #[serde(rename = "c")]
    Composite,
}

impl Coverage {
    pub const fn name(self) -> &'static str {
        match self {
            Self::FullObject => "FULL_OBJECT",
            Self::Composite => "COMPOSITE",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        [Self::FullObject, Self::Composite].into_iter().find(|coverage| coverage.name() == name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    #[serde(rename = "a")]
    pub algorithm: Algorithm,
    #[serde(rename = "k")]
    pub coverage: Coverage,
    /// As headers have it: base64, `-N` after it if composite.
    #[serde(rename = "v")]
    pub text: String,
}

impl Checksum {
    fn full(algorithm: Algorithm, value: &[u8]) -> Self {
        Self { algorithm, coverage: Coverage::FullObject, text: STANDARD.encode(value) }
    }

    /// The value's bytes.
    fn bytes(&self) -> Option<Vec<u8>> {
        STANDARD.decode(self.text.split('-').next().unwrap_or_default()).ok()
    }
}

enum State {
    Crc(Crc),
    Sha1(Sha1),
    Sha256(Sha256),
}

/// MD5 and any of the others in one pass.
pub struct Hasher {
    md5: Md5,
    states: Vec<(Algorithm, State)>,
    length: u64,
}

impl Hasher {
    pub fn new(algorithms: &[Algorithm]) -> Self {
        let state = |algorithm: &Algorithm| {
            let state = match (algorithm.crc(), algorithm) {
                (Some(crc), _) => State::Crc(Crc::new(crc)),
                (None, Algorithm::Sha1) => State::Sha1(Sha1::new()),
                (None, _) => State::Sha256(Sha256::new()),
            };
            (*algorithm, state)
        };
        Self { md5: Md5::new(), states: algorithms.iter().map(state).collect(), length: 0 }
    }

    pub fn update(&mut self, data: &[u8]) {
        self.md5.update(data);
        self.update_others(data);
    }

    /// As [`Hasher::update`], for a long body: MD5, which takes longest, beside the others and beside other bodies.
    pub(crate) fn update_all(&mut self, pieces: &Arc<[Bytes]>) {
        let md5 = self.md5.clone().update_beside_others(Arc::clone(pieces));
        pieces.iter().for_each(|piece| self.update_others(piece));
        match md5.recv() {
            Ok(md5) => self.md5 = md5,
            // Its thread is gone; what it was asked for can still be done here.
            Err(_) => pieces.iter().for_each(|piece| self.md5.update(piece)),
        }
    }

    fn update_others(&mut self, data: &[u8]) {
        for (_, state) in &mut self.states {
            match state {
                State::Crc(crc) => crc.update(data),
                State::Sha1(sha) => sha.update(data),
                State::Sha256(sha) => sha.update(data),
            }
        }
        self.length += data.len() as u64;
    }

    pub fn finish(self) -> Digests {
        let value = |(algorithm, state): (Algorithm, State)| {
            let value = match state {
                State::Crc(crc) => crc_bytes(algorithm, crc.finalize()),
                State::Sha1(sha) => sha.finalize().to_vec(),
                State::Sha256(sha) => sha.finalize().to_vec(),
            };
            (algorithm, value)
        };
        Digests { md5: self.md5.finish(), length: self.length, values: self.states.into_iter().map(value).collect() }
    }
}

fn crc_bytes(algorithm: Algorithm, value: u64) -> Vec<u8> {
    value.to_be_bytes()[8 - algorithm.length()..].to_vec()
}

/// What all the bytes of a body hash to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests {
    pub md5: [u8; 16],
    pub length: u64,
    values: Vec<(Algorithm, Vec<u8>)>,
}

impl Digests {
    /// Adds one that is known from elsewhere.
    pub(crate) fn with_crc64_nvme(mut self, value: u64) -> Self {
        self.values.push((Algorithm::Crc64Nvme, value.to_be_bytes().to_vec()));
        self
    }

    /// None if the algorithm was not asked for.
    pub fn checksum(&self, algorithm: Algorithm) -> Option<Checksum> {
        let (_, value) = self.values.iter().find(|(a, _)| *a == algorithm)?;
        Some(Checksum::full(algorithm, value))
    }

    /// The ETag of an object written in one piece.
    pub fn etag(&self) -> String {
        hex::encode(self.md5)
    }
}

/// The checksum of an object made of parts with these checksums and sizes. None if a part's is missing or of another
/// algorithm.
pub fn of_parts<'a>(
    algorithm: Algorithm,
    coverage: Coverage,
    parts: impl Iterator<Item = (Option<&'a Checksum>, u64)>,
) -> Option<Checksum> {
    let mut values = Vec::new();
    for (checksum, size) in parts {
        let checksum = checksum.filter(|checksum| checksum.algorithm == algorithm)?;
        values.push((checksum.bytes().filter(|bytes| bytes.len() == algorithm.length())?, size));
    }
    if coverage == Coverage::Composite {
        let mut hasher = Hasher::new(&[algorithm]);
        values.iter().for_each(|(value, _)| hasher.update(value));
        let whole = hasher.finish().checksum(algorithm)?;
        let text = format!("{}-{}", whole.text, values.len());
        return Some(Checksum { algorithm, coverage, text });
    }
    let crc = algorithm.crc()?;
    let number = |value: &[u8]| value.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let whole = values
        .iter()
        .map(|(value, size)| (number(value), *size))
        .reduce(|(left, length), (right, size)| (crc_fast::checksum_combine(crc, left, right, size), length + size))?;
    Some(Checksum::full(algorithm, &crc_bytes(algorithm, whole.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of "123456789" from the catalogue of CRC algorithms and from NIST.
    const KNOWN: [(Algorithm, &str); 5] = [
        (Algorithm::Crc32, "cbf43926"),
        (Algorithm::Crc32c, "e3069283"),
        (Algorithm::Crc64Nvme, "ae8b14860a799888"),
        (Algorithm::Sha1, "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
        (Algorithm::Sha256, "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
    ];

    #[test]
    fn known_values_in_any_pieces() {
        for cut in 0..=9 {
            let mut hasher = Hasher::new(&Algorithm::ALL);
            let (head, tail) = b"123456789".split_at(cut);
            hasher.update(head);
            hasher.update(tail);
            let digests = hasher.finish();
            assert_eq!(digests.etag(), "25f9e794323b453885f5181f1b624d0b");
            for (algorithm, value) in KNOWN {
                let text = STANDARD.encode(hex::decode(value).unwrap());
                assert!(algorithm.is_value(&text));
                assert_eq!(digests.checksum(algorithm).unwrap().text, text, "{algorithm:?}");
            }
        }
    }

    #[test]
    fn full_object_checksums_of_parts_are_those_of_the_bytes() {
        let data: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
        let of = |data: &[u8]| {
            let mut hasher = Hasher::new(&Algorithm::ALL);
            hasher.update(data);
            hasher.finish()
        };
        for algorithm in Algorithm::ALL {
            let parts: Vec<_> =
                data.chunks(33_333).map(|part| (of(part).checksum(algorithm), part.len() as u64)).collect();
            let whole =
                of_parts(algorithm, Coverage::FullObject, parts.iter().map(|(sum, size)| (sum.as_ref(), *size)));
            let expected = algorithm.allows(Coverage::FullObject).then(|| of(&data).checksum(algorithm).unwrap());
            assert_eq!(whole, expected, "{algorithm:?}");
            let composite =
                of_parts(algorithm, Coverage::Composite, parts.iter().map(|(sum, size)| (sum.as_ref(), *size)));
            assert!(composite.unwrap().text.ends_with("-4"));
        }
    }
}
