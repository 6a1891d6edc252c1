//! Taking in a body: hashed as it comes, kept in memory while it is small, else written to a file.

use bytes::Bytes;
use futures::StreamExt;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use super::LocalBackend;
use super::files::{ContentId, Files, Unfinished};
use super::remote::{RemoteData, RemoteStore, RemoteWriter};
use super::sums::{SumWriter, Sums};
use crate::backend::{BackendError, ByteStream};
use crate::checksum::{Algorithm, Digests, Hasher};
use crate::encryption::Sealer;

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
    /// There as a whole.
    Remote(ContentId, RemoteData, Unfinished),
}

/// All that is computed of a body as it comes.
struct Hashes {
    hasher: Hasher,
    /// None: what is stored is not what came. Else the CRC64NVME of the whole follows from those of the blocks.
    sums: Option<SumWriter>,
    wants_crc64_nvme: bool,
}

impl Hashes {
    fn new(algorithms: &[Algorithm], sealed: bool) -> Self {
        if sealed {
            return Self { hasher: Hasher::new(algorithms), sums: None, wants_crc64_nvme: false };
        }
        let is_of_blocks = |algorithm: &Algorithm| *algorithm == Algorithm::Crc64Nvme;
        let others: Vec<_> = algorithms.iter().copied().filter(|algorithm| !is_of_blocks(algorithm)).collect();
        let wants_crc64_nvme = algorithms.iter().any(is_of_blocks);
        Self { hasher: Hasher::new(&others), sums: Some(SumWriter::new()), wants_crc64_nvme }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        if let Some(sums) = &mut self.sums {
            sums.update(bytes);
        }
    }

    fn update_all(&mut self, pieces: &Arc<[Bytes]>) {
        self.hasher.update_all(pieces);
        if let Some(sums) = &mut self.sums {
            pieces.iter().for_each(|piece| sums.update(piece));
        }
    }

    /// `sealed`: the sums of what is stored, where that is not what came.
    fn finish(self, sealed: Option<Sums>) -> (Digests, Sums) {
        let mut digests = self.hasher.finish();
        let sums = self.sums.map(SumWriter::finish).or(sealed).unwrap_or_else(|| SumWriter::new().finish());
        if self.wants_crc64_nvme {
            let whole = sums.whole(digests.length);
            digests = digests.with_crc64_nvme(whole);
        }
        (digests, sums)
    }
}

/// Seals what is to be stored, and sums it up.
struct Seal {
    sealer: Sealer,
    sums: SumWriter,
    /// What is sealed and not yet written.
    bytes: Vec<u8>,
}

impl Seal {
    fn new(sealer: Sealer) -> Self {
        Self { sealer, sums: SumWriter::new(), bytes: Vec::new() }
    }

    fn take(&mut self, piece: &[u8]) -> Result<(), BackendError> {
        self.bytes.clear();
        self.sealer.update(piece, &mut self.bytes)?;
        self.sums.update(&self.bytes);
        Ok(())
    }

    /// What is still to be written, and the sums of all.
    fn finish(mut self) -> Result<(Vec<u8>, Sums), BackendError> {
        self.bytes.clear();
        self.sealer.finish(&mut self.bytes)?;
        self.sums.update(&self.bytes);
        Ok((self.bytes, self.sums.finish()))
    }
}

/// Where a body goes.
enum Drain {
    Here(File),
    Elsewhere(Box<RemoteWriter>),
}

/// A content that grows, and the digests of what came.
struct Sink {
    drain: Drain,
    seal: Option<Seal>,
    hashes: Hashes,
}

impl Sink {
    /// Hashes and writes `pieces`, each on a thread of its own: MD5 takes longer than everything else together.
    async fn take(self, pieces: Vec<Bytes>) -> Result<Self, BackendError> {
        let Self { drain, seal, mut hashes } = self;
        let pieces: Arc<[Bytes]> = pieces.into();
        let hashed = tokio::task::spawn_blocking({
            let pieces = Arc::clone(&pieces);
            move || {
                hashes.update_all(&pieces);
                hashes
            }
        });
        let written = match drain {
            Drain::Here(file) => write_here(file, seal, pieces).await,
            Drain::Elsewhere(writer) => write_elsewhere(writer, seal, &pieces).await,
        };
        let hashes = hashed.await.map_err(|error| BackendError::Io(std::io::Error::other(error)))?;
        let (drain, seal) = written?;
        Ok(Self { drain, seal, hashes })
    }

    /// What was computed, once everything is there. `unfinished`: the file, if it is one.
    async fn finish(self, files: Files, id: ContentId, mut unfinished: Unfinished) -> Result<Received, BackendError> {
        let Self { drain, seal, hashes } = self;
        let (rest, sealed) = seal.map(Seal::finish).transpose()?.unzip();
        let rest = rest.unwrap_or_default();
        match drain {
            Drain::Here(mut file) => {
                let (digests, sums) = blocking(move || {
                    file.write_all(&rest)?;
                    file.sync_data()?;
                    files.sync_entry(id)?;
                    Ok(hashes.finish(sealed))
                })
                .await?;
                Ok(Received { digests, sums, bytes: ReceivedBytes::File(id, unfinished) })
            }
            Drain::Elsewhere(mut writer) => {
                writer.write(&rest).await?;
                let (data, sent) = writer.finish().await?;
                unfinished.add_remote(sent);
                let (digests, sums) = hashes.finish(sealed);
                Ok(Received { digests, sums, bytes: ReceivedBytes::Remote(id, data, unfinished) })
            }
        }
    }
}

async fn write_here(
    mut file: File,
    mut seal: Option<Seal>,
    pieces: Arc<[Bytes]>,
) -> Result<(Drain, Option<Seal>), BackendError> {
    blocking(move || {
        for piece in pieces.iter() {
            match &mut seal {
                Some(seal) => {
                    seal.take(piece)?;
                    file.write_all(&seal.bytes)?;
                }
                None => file.write_all(piece)?,
            }
        }
        Ok((Drain::Here(file), seal))
    })
    .await
}

async fn write_elsewhere(
    mut writer: Box<RemoteWriter>,
    mut seal: Option<Seal>,
    pieces: &[Bytes],
) -> Result<(Drain, Option<Seal>), BackendError> {
    for piece in pieces {
        match &mut seal {
            Some(seal) => {
                seal.take(piece)?;
                writer.write(&seal.bytes).await?;
            }
            None => writer.write(piece).await?,
        }
    }
    Ok((Drain::Elsewhere(writer), seal))
}

impl LocalBackend {
    /// Reads `body` to its end. `inline`: whether a small one may stay in memory.
    pub(super) async fn receive(
        &self,
        mut body: ByteStream,
        algorithms: &[Algorithm],
        max: u64,
        inline: bool,
        sealer: Option<Sealer>,
        remote: Option<RemoteStore>,
    ) -> Result<Received, BackendError> {
        let mut batch = Batch::default();
        let limit = if inline { INLINE_MAX } else { 0 };
        let mut ended = !batch.fill(&mut body, limit).await?;
        if ended && inline && batch.bytes <= INLINE_MAX {
            let mut hashes = Hashes::new(algorithms, sealer.is_some());
            let mut bytes = batch.pieces.concat();
            hashes.update(&bytes);
            let mut sealed = None;
            if let Some(mut sealer) = sealer {
                let mut stored = Vec::new();
                sealer.update(&bytes, &mut stored)?;
                sealer.finish(&mut stored)?;
                let mut sums = SumWriter::new();
                sums.update(&stored);
                (bytes, sealed) = (stored, Some(sums.finish()));
            }
            let (digests, sums) = hashes.finish(sealed);
            return Ok(Received { digests, sums, bytes: ReceivedBytes::Inline(bytes) });
        }
        let id = self.0.next_content();
        let files = self.0.files.clone();
        let is_here = remote.is_none();
        let (drain, unfinished) = match remote {
            Some(store) => (Drain::Elsewhere(Box::new(store.write(id))), Unfinished::none(&files)),
            None => {
                let (file, unfinished) = blocking(move || Ok(files.create(id)?)).await?;
                (Drain::Here(file), unfinished)
            }
        };
        let hashes = Hashes::new(algorithms, sealer.is_some());
        let mut sink = Sink { drain, seal: sealer.map(Seal::new), hashes };
        let mut total = 0;
        let mut budgeted = 0;
        loop {
            total += batch.bytes as u64;
            if total > max {
                return Err(BackendError::TooLarge);
            }
            if is_here && total >= budgeted {
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
        sink.finish(self.0.files.clone(), id, unfinished).await
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
