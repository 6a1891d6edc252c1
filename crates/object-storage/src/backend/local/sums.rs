//! Checksums of stored bytes, so that what the disk gives back wrong is noticed before it is given out.
//!
//! A content has one CRC64NVME for each block of 256 KiB; the last block is as long as it is. A read of a range checks
//! the blocks that it touches.

use crc_fast::{CrcAlgorithm, Digest, checksum, checksum_combine};
use std::sync::LazyLock;

use super::files::ContentId;
use crate::backend::BackendError;

const BLOCK_BITS: u8 = 18;
pub(super) const BLOCK: usize = 1 << BLOCK_BITS;
const ALGORITHM: CrcAlgorithm = CrcAlgorithm::Crc64Nvme;
const SUM: usize = size_of::<u64>();

/// What zero bytes behind it make of a checksum, which is linear: for each power of two of them, what becomes of each
/// of its bits.
static ZEROS: LazyLock<[[u64; 64]; BLOCK_BITS as usize + 1]> = LazyLock::new(|| {
    let mut next: [u64; 64] = std::array::from_fn(|bit| checksum_combine(ALGORITHM, 1 << bit, 0, 1));
    std::array::from_fn(|_| {
        let this = next;
        next = this.map(|column| apply(&this, column));
        this
    })
});

fn apply(operator: &[u64; 64], checksum: u64) -> u64 {
    let is_set = |bit: &usize| checksum >> bit & 1 == 1;
    (0..64).filter(is_set).fold(0, |sum, bit| sum ^ operator[bit])
}

/// As stored: the binary logarithm of the block's size, then the sums, the most significant byte first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sums(Vec<u8>);

impl Sums {
    /// None: the content was written before there were sums.
    pub(super) fn parse(id: ContentId, stored: Option<Vec<u8>>) -> Result<Option<Self>, BackendError> {
        let Some(stored) = stored else { return Ok(None) };
        if stored.first() != Some(&BLOCK_BITS) || stored.len() % SUM != 1 {
            return Err(BackendError::Damaged(format!("the checksums of content {id:016x} cannot be read")));
        }
        Ok(Some(Self(stored)))
    }

    pub(super) fn stored(&self) -> &[u8] {
        &self.0
    }

    /// Checks whole blocks, the first of which is block number `first`.
    ///
    /// # Errors
    /// `Damaged` names the content and the first block that differs.
    pub(super) fn check(&self, id: ContentId, first: usize, bytes: &[u8]) -> Result<(), BackendError> {
        for (number, block) in (first..).zip(bytes.chunks(BLOCK)) {
            let at = 1 + number * SUM;
            let wanted = self.0.get(at..at + SUM);
            if wanted != Some(&checksum(ALGORITHM, block).to_be_bytes()[..]) {
                let offset = number * BLOCK;
                return Err(BackendError::Damaged(format!(
                    "content {id:016x} is not what was written: bytes {offset} to {} differ from their checksum",
                    offset + block.len()
                )));
            }
        }
        Ok(())
    }
}

impl Sums {
    /// The checksum of all bytes, of which there are `size`: what hashing them once more would say.
    pub(super) fn whole(&self, size: u64) -> u64 {
        let mut whole = 0;
        let mut left = size;
        for block in self.0[1..].chunks_exact(SUM) {
            let length = left.min(BLOCK as u64);
            left -= length;
            if whole != 0 {
                let powers = ZEROS.iter().enumerate().filter(|(power, _)| length >> power & 1 == 1);
                whole = powers.fold(whole, |whole, (_, operator)| apply(operator, whole));
            }
            whole ^= block.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        }
        whole
    }

    /// Whether there are as many as a content of this size has.
    ///
    /// # Errors
    /// `Damaged`.
    pub(super) fn check_whole(&self, id: ContentId, size: u64) -> Result<(), BackendError> {
        let blocks = (self.0.len() - 1) / SUM;
        if size.div_ceil(BLOCK as u64) == blocks as u64 {
            return Ok(());
        }
        Err(BackendError::Damaged(format!(
            "content {id:016x} has {size} bytes, which are not the {blocks} blocks that were written"
        )))
    }
}

/// Makes the sums of bytes that come in pieces.
pub(super) struct SumWriter {
    block: Digest,
    filled: usize,
    sums: Vec<u8>,
}

impl SumWriter {
    pub(super) fn new() -> Self {
        Self { block: Digest::new(ALGORITHM), filled: 0, sums: vec![BLOCK_BITS] }
    }

    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.filled));
            self.block.update(now);
            self.filled += now.len();
            if self.filled == BLOCK {
                self.end_block();
            }
            bytes = later;
        }
    }

    fn end_block(&mut self) {
        self.sums.extend_from_slice(&self.block.finalize().to_be_bytes());
        self.block.reset();
        self.filled = 0;
    }

    pub(super) fn finish(mut self) -> Sums {
        if self.filled > 0 {
            self.end_block();
        }
        Sums(self.sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Sums {
        let mut writer = SumWriter::new();
        writer.update(bytes);
        writer.finish()
    }

    #[test]
    fn any_pieces_give_the_same_sums_and_any_flip_is_seen() {
        for size in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7] {
            let mut bytes: Vec<u8> = (0..size).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect();
            let sums = of(&bytes);
            assert_eq!(sums.stored().len(), 1 + 8 * size.div_ceil(BLOCK), "{size}");
            let mut writer = SumWriter::new();
            bytes.chunks(100_003).for_each(|piece| writer.update(piece));
            assert_eq!(writer.finish(), sums, "{size}");
            assert_eq!(sums.whole(size as u64), checksum(ALGORITHM, &bytes), "{size}");
            sums.check(1, 0, &bytes).unwrap();
            for at in [0, size / 2, size.saturating_sub(1)].into_iter().filter(|at| *at < size) {
                bytes[at] ^= 4;
                let block = at / BLOCK;
                let damage = sums.check(1, block, &bytes[block * BLOCK..size.min((block + 1) * BLOCK)]).unwrap_err();
                assert!(damage.to_string().contains(&format!("bytes {} to", block * BLOCK)), "{damage}");
                bytes[at] ^= 4;
            }
            // More than there are sums for is damage, too.
            bytes.resize(size.next_multiple_of(BLOCK) + 1, 0);
            assert!(sums.check(1, 0, &bytes).is_err(), "{size}");
        }
        assert_eq!(Sums::parse(1, None).unwrap(), None);
        assert!(Sums::parse(1, Some(vec![9])).is_err() && Sums::parse(1, Some(vec![18, 0])).is_err());
    }
}
