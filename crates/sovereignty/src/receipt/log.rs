//! The log's one writer: drains the outbox into the folder, and signs what it has grown to.
//!
//! A batch is first announced (`batch`: how many entries there were before it), then appended and synced, then signed
//! for, then trimmed from the outbox. After a crash the same batch comes again; of its entries, those are known that
//! stand behind the announced number.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use terroir_store::Store;
use terroir_store::ship::Shipper;
use terroir_tlog::{
    AddCheckpoint, Checkpoint, Cosignature, Hash, Note, Signature, SigningKey, TILE_WIDTH, TileHashes, TileSource,
    VerifierKey, entry_bundle, entry_path, hash_path, leaf_hash, root,
};
use terroir_types::Error;

use super::MAX_ENTRY_BYTES;
use super::reader::{CHECKPOINT, COSIGNED, PENDING, Pending, ReceiptReader, fold, invalid, read_if_there};

/// The outbox stream.
pub const STREAM: &str = "receipts";

const BATCH: &str = "batch";
/// Rows of the outbox that are appended and signed for together.
const BATCH_ROWS: usize = 500;

/// Name of an operator's log of a region.
pub fn origin(operator: &str, region: &str) -> String {
    format!("{operator}/{region}/receipts")
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the log cannot be signed: {0}")]
    Sign(String),
    #[error(transparent)]
    Store(#[from] Error),
}

/// Writes a file whole or not at all.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::other("a file without a folder"))?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(folder)?.sync_all()
}

/// The folder that receipts end in, owned by one process.
pub struct ReceiptLog {
    folder: PathBuf,
    key: SigningKey,
    reader: ReceiptReader,
    pending: Pending,
    /// Hashes of each level that no whole tile has yet.
    rows: Vec<Vec<Hash>>,
    /// Leaves of the batch that may come again.
    known: HashSet<Hash>,
}

impl TileSource for &ReceiptLog {
    type Error = io::Error;

    fn tile(&self, level: u8, index: u64, width: u64) -> io::Result<Vec<Hash>> {
        let bundles = self.pending.bundle;
        let here = bundles.checked_shr(8 * u32::from(level)).unwrap_or(0);
        match self.rows.get(usize::from(level)) {
            Some(row) if index == here => Ok(row.clone()),
            _ => (&self.reader).tile(level, index, width),
        }
    }
}

impl ReceiptLog {
    /// Opens the folder, or makes it. What a crash cut off is removed: it is in the outbox still.
    ///
    /// `operator`: its key. Errors: those of the file system; `InvalidData` if entries are missing or were changed since
    /// the last checkpoint was signed: nothing is signed that would contradict it.
    pub fn open(folder: &Path, operator: &SigningKey, origin: &str) -> Result<Self, LogError> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let key = operator.named(origin).map_err(|error| LogError::Sign(error.to_string()))?;
        let reader = ReceiptReader::new(folder);
        let mut pending = Pending::read(folder)?;
        let is_whole = |bundle: u64| folder.join(entry_path(bundle, None)).exists();
        if is_whole(pending.bundle) {
            let next = (pending.bundle..).find(|bundle| !is_whole(*bundle)).unwrap_or(pending.bundle);
            pending = Pending { bundle: next, entries: Vec::new(), bytes: 0 };
        }
        let mut log = Self { folder: folder.to_owned(), key, reader, pending, rows: Vec::new(), known: HashSet::new() };
        log.rows = log.rows_now()?;
        let signed = log.reader.check(operator.verifier(), origin)?.map_or(0, |checkpoint| checkpoint.size);
        if log.size() < signed {
            return Err(invalid(format!("entries of the receipts' log are missing: {signed} were signed for")).into());
        }
        let before = read_if_there(&folder.join(BATCH))?.and_then(|bytes| String::from_utf8(bytes).ok()?.parse().ok());
        for index in before.unwrap_or(signed)..log.size() {
            let entry = &log.reader_bundle(index / TILE_WIDTH)?[usize::try_from(index % TILE_WIDTH).unwrap_or(0)];
            log.known.insert(leaf_hash(entry));
        }
        Ok(log)
    }

    fn reader_bundle(&self, bundle: u64) -> io::Result<Vec<Vec<u8>>> {
        if bundle == self.pending.bundle { Ok(self.pending.entries.clone()) } else { self.reader.bundle(bundle) }
    }

    /// The rows that follow from what is on disk.
    fn rows_now(&self) -> io::Result<Vec<Vec<Hash>>> {
        let mut rows = vec![self.pending.entries.iter().map(|entry| leaf_hash(entry)).collect()];
        let (mut tiles, mut level) = (self.pending.bundle, 0_u8);
        while tiles > 0 {
            let first = tiles - tiles % TILE_WIDTH;
            let hash = |tile| Ok(fold((&self.reader).tile(level, tile, TILE_WIDTH)?));
            rows.push((first..tiles).map(hash).collect::<io::Result<_>>()?);
            tiles /= TILE_WIDTH;
            level += 1;
        }
        Ok(rows)
    }

    /// Entries there are.
    pub fn size(&self) -> u64 {
        self.pending.bundle * TILE_WIDTH + self.pending.entries.len() as u64
    }

    pub fn reader(&self) -> ReceiptReader {
        self.reader.clone()
    }

    /// Takes over what is in the outbox; gives how many entries it wrote.
    ///
    /// # Errors
    /// Any of [`LogError`]; then nothing was trimmed that is not durable here and signed for.
    pub async fn take_over(&mut self, store: &Store) -> Result<usize, LogError> {
        let mut shipped = 0;
        loop {
            let rows = store.outbox(STREAM, 0, BATCH_ROWS).await.map_err(Error::from)?;
            let Some(last) = rows.last().map(|row| row.sequence) else { return Ok(shipped) };
            let mut entries: Vec<String> = Vec::new();
            for row in &rows {
                let lines: Vec<String> = serde_json::from_slice(&row.payload).map_err(io::Error::from)?;
                entries.extend(lines);
            }
            shipped += self.append(&entries)?;
            store.outbox_trim(STREAM, last).await.map_err(Error::from)?;
        }
    }

    /// Appends the entries that are not there yet, and signs for all.
    pub(crate) fn append(&mut self, entries: &[String]) -> Result<usize, LogError> {
        let fresh: Vec<&[u8]> =
            entries.iter().map(String::as_bytes).filter(|entry| !self.known.contains(&leaf_hash(entry))).collect();
        if let Some(long) = fresh.iter().find(|entry| entry.len() > MAX_ENTRY_BYTES) {
            return Err(invalid(format!("an entry of {} bytes", long.len())).into());
        }
        if !fresh.is_empty() {
            // Of a batch that is begun again the entries that stand already keep being known.
            if self.known.is_empty() || fresh.len() == entries.len() {
                write_whole(&self.folder.join(BATCH), self.size().to_string().as_bytes())?;
                self.known.clear();
            }
            if let Err(error) = self.write(&fresh) {
                // How much of it stands is not known: what is on disk counts.
                *self = self.again()?;
                return Err(error.into());
            }
        }
        self.sign()?;
        Ok(fresh.len())
    }

    fn again(&self) -> Result<Self, LogError> {
        let origin = self.key.verifier().name().to_owned();
        let operator = origin.split('/').next().unwrap_or_default();
        Self::open(&self.folder, &self.key.named(operator).map_err(|e| LogError::Sign(e.to_string()))?, &origin)
    }

    fn write(&mut self, fresh: &[&[u8]]) -> io::Result<()> {
        let mut tail = Vec::new();
        let mut is_new = self.pending.bytes == 0;
        for entry in fresh {
            self.known.insert(leaf_hash(entry));
            self.pending.entries.push(entry.to_vec());
            tail.extend(Pending::frame(entry));
            self.add(0, leaf_hash(entry))?;
            if self.pending.entries.len() as u64 == TILE_WIDTH {
                let bundle = entry_bundle(self.pending.entries.iter().map(Vec::as_slice));
                let bundle = bundle.ok_or_else(|| invalid("an entry is too long"))?;
                // From here on the bundle counts; its hashes are there already.
                write_whole(&self.folder.join(entry_path(self.pending.bundle, None)), &bundle)?;
                self.pending = Pending { bundle: self.pending.bundle + 1, entries: Vec::new(), bytes: 0 };
                tail.clear();
                is_new = true;
            }
        }
        let path = self.folder.join(PENDING);
        if is_new {
            let whole = [Pending::header(self.pending.bundle), tail].concat();
            write_whole(&path, &whole)?;
            self.pending.bytes = whole.len() as u64;
            return Ok(());
        }
        let mut file = OpenOptions::new().append(true).open(&path)?;
        // A torn end of before.
        file.set_len(self.pending.bytes)?;
        file.write_all(&tail)?;
        file.sync_data()?;
        self.pending.bytes += tail.len() as u64;
        Ok(())
    }

    /// Adds a hash to a row; a row that is whole becomes a tile, and its hash one of the row above.
    fn add(&mut self, level: usize, hash: Hash) -> io::Result<()> {
        if self.rows.len() == level {
            self.rows.push(Vec::new());
        }
        self.rows[level].push(hash);
        if (self.rows[level].len() as u64) < TILE_WIDTH {
            return Ok(());
        }
        let row = std::mem::take(&mut self.rows[level]);
        let number = self.pending.bundle >> (8 * level);
        // Far fewer levels than a byte can count.
        let path = hash_path(u8::try_from(level).unwrap_or(u8::MAX), number, None);
        write_whole(&self.folder.join(path), row.as_flattened())?;
        self.add(level + 1, fold(row))
    }

    fn sign(&self) -> Result<(), LogError> {
        let size = self.size();
        let newest = self.reader.checkpoint()?.and_then(|note| Checkpoint::parse(note.text()).ok());
        if newest.is_some_and(|checkpoint| checkpoint.size == size) {
            return Ok(());
        }
        let root = root(&TileHashes(self), size)?;
        let checkpoint = Checkpoint { origin: self.key.verifier().name().to_owned(), size, root };
        let note = checkpoint.sign(&self.key).map_err(|error| LogError::Sign(error.to_string()))?;
        Ok(write_whole(&self.folder.join(CHECKPOINT), note.to_string().as_bytes())?)
    }
}

impl Shipper for ReceiptLog {
    const WHAT: &'static str = "receipts";

    async fn ship(&mut self, store: &Store) -> Result<usize, Error> {
        self.take_over(store).await.map_err(|error| match error {
            LogError::Store(error) => error,
            error => Error::unavailable("The log of receipts cannot be written.").with_internal(error.to_string()),
        })
    }
}

impl ReceiptReader {
    /// What to send to a witness that saw `seen` entries last, and what has to come back for: see [`Self::accept`].
    /// None before the first entry.
    pub fn request(&self, seen: u64) -> io::Result<Option<AddCheckpoint>> {
        let Some(checkpoint) = self.checkpoint()? else { return Ok(None) };
        let size = Checkpoint::parse(checkpoint.text()).map_err(|error| invalid(error.to_string()))?.size;
        let proof = self.consistency(seen, size)?;
        Ok(Some(AddCheckpoint { old_size: seen, proof, checkpoint }))
    }

    /// Keeps a witness's cosignature of the checkpoint that was `offered`. What is kept goes into receipts.
    ///
    /// Errors: `InvalidData` for one that is not valid.
    pub fn accept(
        &self,
        folder: &Path,
        offered: &Note,
        cosignature: Signature,
        witness: &VerifierKey,
    ) -> io::Result<()> {
        let mut alone = offered.clone();
        alone.add(cosignature.clone());
        match Cosignature::of(&alone, witness) {
            Ok(Some(_)) => {}
            Ok(None) => return Err(invalid(format!("this is no cosignature of {}", witness.name()))),
            Err(error) => return Err(invalid(error.to_string())),
        }
        let note = match self.note(COSIGNED)? {
            // It may have cosigned the same at another time.
            Some(known) if known.text() == offered.text() => match Cosignature::of(&known, witness) {
                Ok(Some(_)) => return Ok(()),
                _ => {
                    let mut note = known;
                    note.add(cosignature);
                    note
                }
            },
            _ => alone,
        };
        write_whole(&folder.join(COSIGNED), note.to_string().as_bytes())
    }
}
