//! Taking in a body: hashed as it comes, kept in memory while it is small, else written to a file.

use bytes::Bytes;
use futures::StreamExt;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use super::LocalBackend;
use super::files::{ContentId, Unfinished};
use super::sums::{SumWriter, Sums};
use crate::backend::{BackendError, ByteStream};
use crate::checksum::{Algorithm, Digests, Hasher};

/// Objects up to this size live in the index itself: one sync makes them durable.
pub(super) const INLINE_MAX: usize = 32 << 10;
/// What is hashed and written in one go.
const BATCH: usize = 1 << 20;
/// How often the disk budget is asked while a file grows.
const BUDGET_STEP: u64 = 16 << 20;

/// A body that was taken in. Nothing names it yet.
pub(super) struct Received {
    pub digests: Digests,
    pub sums: Sums,
    pub bytes: ReceivedBytes,
}

pub(super) enum ReceivedBytes {
    Inline(Vec<u8>),
    /// Synced, with its directory entry.
    File(ContentId, Unfinished),
}

/// All that is computed of a body as it comes. The CRC64NVME of the whole follows from those of the blocks.
struct Hashes {
    hasher: Hasher,
    sums: SumWriter,
    wants_crc64_nvme: bool,
}

impl Hashes {
    fn new(algorithms: &[Algorithm]) -> Self {
        let is_of_blocks = |algorithm: &Algorithm| *algorithm == Algorithm::Crc64Nvme;
        let others: Vec<_> = algorithms.iter().copied().filter(|algorithm| !is_of_blocks(algorithm)).collect();
        let wants_crc64_nvme = algorithms.iter().any(is_of_blocks);
        Self { hasher: Hasher::new(&others), sums: SumWriter::new(), wants_crc64_nvme }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.sums.update(bytes);
    }

    fn update_all(&mut self, pieces: &Arc<[Bytes]>) {
        self.hasher.update_all(pieces);
        pieces.iter().for_each(|piece| self.sums.update(piece));
    }

    fn finish(self) -> (Digests, Sums) {
        let (mut digests, sums) = (self.hasher.finish(), self.sums.finish());
        if self.wants_crc64_nvme {
            let whole = sums.whole(digests.length);
            digests = digests.with_crc64_nvme(whole);
        }
        (digests, sums)
    }
}

/// A file that grows, and the digests of what is in it.
struct Sink {
    file: File,
    hashes: Hashes,
}

impl Sink {
    /// Hashes and writes `pieces`, each on a thread of its own: MD5 takes longer than everything else together.
    async fn take(self, pieces: Vec<Bytes>) -> Result<Self, BackendError> {
        let Self { mut file, mut hashes } = self;
        let pieces: Arc<[Bytes]> = pieces.into();
        let hashed = tokio::task::spawn_blocking({
            let pieces = Arc::clone(&pieces);
            move || {
                hashes.update_all(&pieces);
                hashes
            }
        });
        let written = blocking(move || {
            pieces.iter().try_for_each(|piece| file.write_all(piece))?;
            Ok(file)
        });
        let file = written.await;
        let hashes = hashed.await.map_err(|error| BackendError::Io(std::io::Error::other(error)))?;
        Ok(Self { file: file?, hashes })
    }
}

impl LocalBackend {
    /// Reads `body` to its end. `inline`: whether a small one may stay in memory.
    pub(super) async fn receive(
        &self,
        mut body: ByteStream,
        algorithms: &[Algorithm],
        max: u64,
        inline: bool,
    ) -> Result<Received, BackendError> {
        let mut batch = Batch::default();
        let limit = if inline { INLINE_MAX } else { 0 };
        let mut ended = !batch.fill(&mut body, limit).await?;
        if ended && inline && batch.bytes <= INLINE_MAX {
            let mut hashes = Hashes::new(algorithms);
            let bytes = batch.pieces.concat();
            hashes.update(&bytes);
            let (digests, sums) = hashes.finish();
            return Ok(Received { digests, sums, bytes: ReceivedBytes::Inline(bytes) });
        }
        let id = self.0.next_content();
        let files = self.0.files.clone();
        let (file, unfinished) = blocking(move || Ok(files.create(id)?)).await?;
        let mut sink = Sink { file, hashes: Hashes::new(algorithms) };
        let mut total = 0;
        let mut budgeted = 0;
        loop {
            total += batch.bytes as u64;
            if total > max {
                return Err(BackendError::TooLarge);
            }
            if total >= budgeted {
                self.0.admit(BUDGET_STEP)?;
                budgeted = total + BUDGET_STEP;
            }
            let pieces = std::mem::take(&mut batch.pieces);
            batch.bytes = 0;
            // While this batch is hashed and written, the next one is read.
            let read = async { if ended { Ok(false) } else { batch.fill(&mut body, BATCH).await } };
            let (taken, filled) = tokio::join!(sink.take(pieces), read);
            sink = taken?;
            let was_last = ended;
            ended = !filled?;
            if was_last {
                break;
            }
        }
        let files = self.0.files.clone();
        let (digests, sums) = blocking(move || {
            sink.file.sync_data()?;
            files.sync_entry(id)?;
            Ok(sink.hashes.finish())
        })
        .await?;
        Ok(Received { digests, sums, bytes: ReceivedBytes::File(id, unfinished) })
    }
}

#[derive(Default)]
struct Batch {
    pieces: Vec<Bytes>,
    bytes: usize,
}

impl Batch {
    /// Reads until more than `limit` bytes are there. False: the body has ended.
    async fn fill(&mut self, body: &mut ByteStream, limit: usize) -> Result<bool, BackendError> {
        while self.bytes <= limit {
            match body.next().await {
                Some(Ok(piece)) if piece.is_empty() => {}
                Some(Ok(piece)) => {
                    self.bytes += piece.len();
                    self.pieces.push(piece);
                }
                Some(Err(error)) => return Err(BackendError::Body(error)),
                None => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// Runs file operations outside the async threads.
pub(super) async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, BackendError> + Send + 'static,
) -> Result<R, BackendError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| BackendError::Io(std::io::Error::other(error)))?
}
