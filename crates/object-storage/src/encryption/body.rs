//! Sealed bytes.
//!
//! ```text
//! salt 32 bytes | chunk | chunk | ...
//! ```
//! A chunk is 64 KiB of the plain bytes, the last one as many as are left, sealed with AES-256-GCM, and the tag of 16
//! bytes. There is always a last chunk, if need be an empty one. The key is HKDF-SHA256 of the data key with the salt, so
//! that each content has one of its own; the nonce is seven zero bytes, the chunk's number (32 bits, the most significant
//! byte first), and 1 for the last chunk or 0. So no chunk can stand at another place or in another content, none can be
//! the last one that was not, and any range can be opened by itself.
//!
//! Source of the construction: STREAM, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance" (Hoang,
//! Reyhanitabar, Rogaway, Vizár, 2015).

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::hmac::HMAC_SHA256;
use std::ops::Range;
use std::sync::Arc;
use terroir_types::IdSource;
use zeroize::Zeroizing;

use crate::backend::{BackendError, BoxError, ByteStream, Content};

const CHUNK: usize = 64 << 10;
const TAG: usize = 16;
const SALT: usize = 32;
const INFO: &[u8] = b"terroir sealed content v1";
const ETAG_INFO: &[u8] = b"terroir etag v1";

/// The key of one object or one upload.
#[derive(Clone)]
pub struct DataKey(Zeroizing<[u8; 32]>);

impl DataKey {
    pub fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    pub fn random(ids: &dyn IdSource) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        ids.fill(&mut *bytes);
        Self(bytes)
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// An ETag that says nothing of the bytes to who has no key: the same for the same bytes under the same key, as for
    /// a part that is sent twice.
    pub fn etag_of(&self, md5: &[u8; 16]) -> String {
        let prk = Salt::new(HKDF_SHA256, &[]).extract(&*self.0);
        let okm = prk.expand(&[ETAG_INFO], HMAC_SHA256).expect("32 bytes are within HKDF's limit");
        let tag = ring::hmac::sign(&ring::hmac::Key::from(okm), md5);
        hex::encode(&tag.as_ref()[..16])
    }

    fn of_content(&self, salt: &[u8]) -> LessSafeKey {
        let prk = Salt::new(HKDF_SHA256, salt).extract(&*self.0);
        // HKDF-SHA256 gives up to 8,160 bytes.
        let okm = prk.expand(&[INFO], &AES_256_GCM).expect("32 bytes are within HKDF's limit");
        LessSafeKey::new(UnboundKey::from(okm))
    }
}

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("redacted")
    }
}

/// Bytes that so many plain ones take when sealed.
pub fn sealed_size(plain: u64) -> u64 {
    SALT as u64 + plain + TAG as u64 * chunks(plain)
}

fn chunks(plain: u64) -> u64 {
    plain.div_ceil(CHUNK as u64).max(1)
}

fn nonce(number: u32, last: bool) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[7..11].copy_from_slice(&number.to_be_bytes());
    bytes[11] = u8::from(last);
    Nonce::assume_unique_for_key(bytes)
}

/// Seals one content, piece by piece.
pub struct Sealer {
    key: LessSafeKey,
    /// Until it is written.
    salt: Option<[u8; SALT]>,
    number: u32,
    /// At most one chunk: whether it is the last one is not known before more comes.
    pending: Vec<u8>,
}

impl Sealer {
    pub fn new(key: &DataKey, ids: &dyn IdSource) -> Self {
        let mut salt = [0; SALT];
        ids.fill(&mut salt);
        Self { key: key.of_content(&salt), salt: Some(salt), number: 0, pending: Vec::new() }
    }

    /// Takes plain bytes in; `out` gets what is sealed by now.
    ///
    /// # Errors
    /// `TooLarge` beyond 2^32 chunks.
    pub fn update(&mut self, mut plain: &[u8], out: &mut Vec<u8>) -> Result<(), BackendError> {
        while !plain.is_empty() {
            if self.pending.len() == CHUNK {
                self.seal(false, out)?;
            }
            let take = plain.len().min(CHUNK - self.pending.len());
            self.pending.extend_from_slice(&plain[..take]);
            plain = &plain[take..];
        }
        Ok(())
    }

    /// # Errors
    /// As [`Self::update`].
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), BackendError> {
        self.seal(true, out)
    }

    fn seal(&mut self, last: bool, out: &mut Vec<u8>) -> Result<(), BackendError> {
        if let Some(salt) = self.salt.take() {
            out.extend_from_slice(&salt);
        }
        let start = out.len();
        out.extend_from_slice(&self.pending);
        self.pending.clear();
        let tag = self.key.seal_in_place_separate_tag(nonce(self.number, last), Aad::empty(), &mut out[start..]);
        out.extend_from_slice(tag.map_err(|_| BackendError::TooLarge)?.as_ref());
        self.number = match (last, self.number.checked_add(1)) {
            (false, None) => return Err(BackendError::TooLarge),
            (_, next) => next.unwrap_or(u32::MAX),
        };
        Ok(())
    }
}

/// Part of one sealed content.
#[derive(Debug, Clone)]
struct Job {
    /// Where the content begins in what is stored.
    base: u64,
    /// All of its plain bytes.
    size: u64,
    /// Those that are wanted.
    range: Range<u64>,
}

/// What of each content a range of the whole touches. `sizes`: plain bytes of each content, in order.
fn jobs(sizes: &[u64], range: &Range<u64>) -> Vec<Job> {
    let (mut jobs, mut base, mut start) = (Vec::new(), 0, 0);
    for size in sizes.iter().copied() {
        let end = start + size;
        let (from, to) = (range.start.max(start), range.end.min(end));
        // What is empty as a whole is looked at, too: that it is, somebody may have made up.
        if from < to || (size == 0 && sizes.len() == 1) {
            jobs.push(Job { base, size, range: from - start..to - start });
        }
        base += sealed_size(size);
        start = end;
    }
    jobs
}

/// The plain bytes in `range` of what is stored as one sealed content after the other.
pub fn open(content: Arc<dyn Content>, key: DataKey, sizes: &[u64], range: &Range<u64>) -> ByteStream {
    let opened = stream::iter(jobs(sizes, range)).then(move |job| {
        let (content, key) = (Arc::clone(&content), key.clone());
        async move { open_one(&*content, &key, job).await }
    });
    Box::pin(opened.try_flatten())
}

async fn open_one(content: &dyn Content, key: &DataKey, job: Job) -> Result<ByteStream, BoxError> {
    let Job { base, size, range } = job;
    let step = CHUNK as u64;
    let (first, last) = (range.start / step, range.end.saturating_sub(1) / step);
    let stored = |chunk: u64| base + SALT as u64 + chunk * (step + TAG as u64);
    let end = stored(last + 1).min(base + sealed_size(size));
    let mut source = Source::new(content.stream(base..if first == 0 { end } else { base + SALT as u64 }));
    let salt = source.take(SALT).await?;
    if first > 0 {
        source = Source::new(content.stream(stored(first)..end));
    }
    let chunks = Chunks { source, key: key.of_content(&salt), next: first, end: last + 1, size, range };
    Ok(Box::pin(stream::try_unfold(chunks, |mut chunks| async {
        let chunk = chunks.next().await?;
        Ok(chunk.map(|chunk| (chunk, chunks)))
    })))
}

struct Chunks {
    source: Source,
    key: LessSafeKey,
    next: u64,
    end: u64,
    size: u64,
    range: Range<u64>,
}

impl Chunks {
    async fn next(&mut self) -> Result<Option<Bytes>, BoxError> {
        if self.next == self.end {
            return Ok(None);
        }
        let start = self.next * CHUNK as u64;
        let last = self.next + 1 == chunks(self.size);
        let plain = self.size.saturating_sub(start).min(CHUNK as u64);
        let mut sealed = self.source.take(usize::try_from(plain)? + TAG).await?;
        let number = u32::try_from(self.next)?;
        let opened = self.key.open_in_place(nonce(number, last), Aad::empty(), &mut sealed);
        if opened.is_err() {
            let detail = format!("chunk {number} of an encrypted content is not what was sealed under its key");
            return Err(BackendError::Damaged(detail).into());
        }
        self.next += 1;
        let bound = |at: u64| usize::try_from(at.saturating_sub(start).min(plain));
        Ok(Some(sealed.freeze().slice(bound(self.range.start)?..bound(self.range.end)?)))
    }
}

/// Exact numbers of bytes from a stream of pieces.
struct Source {
    stream: ByteStream,
    buffer: BytesMut,
}

impl Source {
    fn new(stream: ByteStream) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    async fn take(&mut self, length: usize) -> Result<BytesMut, BoxError> {
        while self.buffer.len() < length {
            match self.stream.next().await {
                Some(piece) => self.buffer.extend_from_slice(&piece?),
                None => {
                    let detail = "an encrypted content is shorter than it was".to_owned();
                    return Err(BackendError::Damaged(detail).into());
                }
            }
        }
        Ok(self.buffer.split_to(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::PartOfObject;
    use terroir_types::{OsRandom, SeededRandom};

    struct Stored(Bytes, usize);

    impl Content for Stored {
        fn stream(&self, range: Range<u64>) -> ByteStream {
            let bytes = self.0.slice(range.start as usize..(range.end as usize).min(self.0.len()));
            let pieces: Vec<_> = bytes.chunks(self.1).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            Box::pin(stream::iter(pieces))
        }

        fn parts(&self) -> &[PartOfObject] {
            &[]
        }
    }

    fn plain(size: usize) -> Vec<u8> {
        (0..size).map(|n| (n % 251) as u8).collect()
    }

    fn seal(key: &DataKey, plain: &[u8], step: usize) -> Vec<u8> {
        let mut sealer = Sealer::new(key, &OsRandom);
        let mut out = Vec::new();
        plain.chunks(step).for_each(|piece| sealer.update(piece, &mut out).unwrap());
        sealer.finish(&mut out).unwrap();
        out
    }

    async fn read(stored: Vec<u8>, key: &DataKey, sizes: &[u64], range: Range<u64>) -> Result<Vec<u8>, BoxError> {
        let content = Arc::new(Stored(stored.into(), 10_007));
        Ok(open(content, key.clone(), sizes, &range).try_collect::<Vec<_>>().await?.concat())
    }

    #[tokio::test]
    async fn every_range_of_every_size() {
        let key = DataKey::random(&SeededRandom::new(1));
        for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7] {
            let plain = plain(size);
            for step in [1000, CHUNK, 1 << 20] {
                let sealed = seal(&key, &plain, step);
                assert_eq!(sealed.len() as u64, sealed_size(size as u64));
                assert!(size < 100 || !sealed.windows(16).any(|window| window == &plain[..16]));
                let marks = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, size / 2, size.saturating_sub(1), size];
                for from in marks {
                    for to in marks.into_iter().filter(|to| from <= *to && *to <= size) {
                        let opened = read(sealed.clone(), &key, &[size as u64], from as u64..to as u64).await.unwrap();
                        assert!(opened == plain[from..to], "{from}..{to} of {size}");
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn parts_one_after_the_other() {
        let key = DataKey::random(&OsRandom);
        let sizes = [CHUNK as u64 * 2, 5, 0, CHUNK as u64 + 1];
        let parts: Vec<_> = sizes.iter().map(|size| plain(*size as usize)).collect();
        let (stored, whole) = (parts.iter().flat_map(|part| seal(&key, part, 999)).collect::<Vec<_>>(), parts.concat());
        for (from, to) in [(0, whole.len()), (CHUNK + 3, CHUNK * 2 + 9), (CHUNK * 2 + 5, CHUNK * 2 + 6), (7, 7)] {
            let opened = read(stored.clone(), &key, &sizes, from as u64..to as u64).await.unwrap();
            assert!(opened == whole[from..to], "{from}..{to}");
        }
    }

    #[tokio::test]
    async fn what_was_changed_is_not_opened() {
        let key = DataKey::random(&OsRandom);
        let size = 3 * CHUNK as u64;
        let sealed = seal(&key, &plain(size as usize), CHUNK);
        let chunk = CHUNK + TAG;
        let mut rows = vec![("another key", sealed.clone(), DataKey::random(&OsRandom), size)];
        for (what, at) in [("the salt", 3), ("a byte", SALT + 70_000), ("the last tag", sealed.len() - 1)] {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            rows.push((what, changed, key.clone(), size));
        }
        let mut swapped = sealed.clone();
        swapped[SALT..SALT + 2 * chunk].rotate_left(chunk);
        rows.push(("two chunks in the other order", swapped, key.clone(), size));
        rows.push((
            "cut off between chunks, with its size",
            sealed[..sealed.len() - chunk].to_vec(),
            key.clone(),
            2 * CHUNK as u64,
        ));
        rows.push(("emptied, with its size", sealed.clone(), key.clone(), 0));
        rows.push(("cut off", sealed[..sealed.len() - 1].to_vec(), key.clone(), size));
        rows.push((
            "a chunk of another content",
            [&sealed[..SALT + chunk], &seal(&key, &plain(size as usize), CHUNK)[SALT + chunk..]].concat(),
            key.clone(),
            size,
        ));
        for (what, stored, key, size) in rows {
            assert!(read(stored, &key, &[size], 0..size).await.is_err(), "{what}");
        }
    }
}
