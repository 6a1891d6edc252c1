//! The log's folder, read while its owner may be writing it.
//!
//! ```text
//! checkpoint            the newest signed checkpoint
//! cosigned              the newest one that witnesses have cosigned, with their cosignatures
//! tile/entries/000      whole bundles of 256 entries, as C2SP tlog-tiles has them; they never change
//! tile/0/000, tile/1/…  whole tiles of hashes
//! pending               the entries after the last whole bundle: its number, then each with its length and leaf hash
//! ```

use std::io;
use std::path::{Path, PathBuf};
use terroir_tlog::{
    Checkpoint, Hash, Note, TILE_WIDTH, TileHashes, TileSource, VerifierKey, consistency_proof, entry_path, hash_path,
    inclusion_proof, leaf_hash, node_hash, root, split_bundle,
};

use super::file::{Consistency, FORMAT, ProvenEntry, Receipt, encode};

pub(super) const CHECKPOINT: &str = "checkpoint";
pub(super) const COSIGNED: &str = "cosigned";
pub(super) const PENDING: &str = "pending";

pub(super) fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

/// None if there is no such file.
pub(super) fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Entries that no whole bundle has yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Number of the bundle that they will be in.
    pub bundle: u64,
    pub entries: Vec<Vec<u8>>,
    /// Bytes of the file up to the last whole entry.
    pub bytes: u64,
}

impl Pending {
    pub(super) fn header(bundle: u64) -> Vec<u8> {
        bundle.to_be_bytes().to_vec()
    }

    pub(super) fn frame(entry: &[u8]) -> Vec<u8> {
        // Entries are bounded far below what two octets can say.
        let length = u16::try_from(entry.len()).unwrap_or(u16::MAX);
        [&length.to_be_bytes()[..], entry, &leaf_hash(entry)].concat()
    }

    /// What a crash cut off at the end is left out.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (bundle, mut rest) = bytes.split_first_chunk::<8>()?;
        let mut pending = Self { bundle: u64::from_be_bytes(*bundle), entries: Vec::new(), bytes: 8 };
        while let Some((entry, behind)) = Self::next(rest) {
            pending.bytes += (rest.len() - behind.len()) as u64;
            pending.entries.push(entry.to_vec());
            rest = behind;
        }
        Some(pending)
    }

    fn next(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (entry, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        let (hash, rest) = rest.split_first_chunk::<32>()?;
        (leaf_hash(entry) == *hash).then_some((entry, rest))
    }

    pub(super) fn read(folder: &Path) -> io::Result<Self> {
        let Some(bytes) = read_if_there(&folder.join(PENDING))? else { return Ok(Self::default()) };
        Self::parse(&bytes).ok_or_else(|| invalid("the receipts' log has a file of pending entries without a head"))
    }
}

/// Hash over a whole row.
pub(super) fn fold(mut row: Vec<Hash>) -> Hash {
    while row.len() > 1 {
        row = row.chunks(2).map(|pair| if let [a, b] = pair { node_hash(a, b) } else { pair[0] }).collect();
    }
    row[0]
}

/// Reads the log in its folder.
#[derive(Debug, Clone)]
pub struct ReceiptReader {
    folder: PathBuf,
}

impl TileSource for &ReceiptReader {
    type Error = io::Error;

    fn tile(&self, level: u8, index: u64, width: u64) -> io::Result<Vec<Hash>> {
        if let Some(bytes) = read_if_there(&self.folder.join(hash_path(level, index, None)))? {
            let (hashes, rest) = bytes.as_chunks::<32>();
            if hashes.len() as u64 == TILE_WIDTH && rest.is_empty() {
                return Ok(hashes.to_vec());
            }
            return Err(invalid(format!(
                "the tile {} of the receipts' log has a wrong length",
                hash_path(level, index, None)
            )));
        }
        let first = index * TILE_WIDTH;
        match level.checked_sub(1) {
            Some(below) => (first..first + width).map(|tile| Ok(fold(self.tile(below, tile, TILE_WIDTH)?))).collect(),
            None => {
                let hashes: Vec<Hash> = self.bundle(index)?.iter().map(|entry| leaf_hash(entry)).collect();
                if (hashes.len() as u64) < width {
                    Err(invalid("entries of the receipts' log are missing"))
                } else {
                    Ok(hashes)
                }
            }
        }
    }
}

impl ReceiptReader {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Entries of a bundle, those of the last one as far as they go.
    pub(super) fn bundle(&self, index: u64) -> io::Result<Vec<Vec<u8>>> {
        // A bundle may become whole between the two looks; then it is there at the third.
        for _ in 0..2 {
            if let Some(bytes) = read_if_there(&self.folder.join(entry_path(index, None)))? {
                let entries = split_bundle(&bytes).filter(|entries| entries.len() as u64 == TILE_WIDTH);
                let entries =
                    entries.ok_or_else(|| invalid(format!("the bundle {index} of the receipts' log is damaged")))?;
                return Ok(entries.into_iter().map(<[u8]>::to_vec).collect());
            }
            let pending = Pending::read(&self.folder)?;
            if pending.bundle == index {
                return Ok(pending.entries);
            }
        }
        Err(invalid(format!("the bundle {index} of the receipts' log is missing")))
    }

    /// The newest signed checkpoint; none before the first entry.
    pub fn checkpoint(&self) -> io::Result<Option<Note>> {
        self.note(CHECKPOINT)
    }

    pub(super) fn note(&self, name: &str) -> io::Result<Option<Note>> {
        let Some(bytes) = read_if_there(&self.folder.join(name))? else { return Ok(None) };
        let text = String::from_utf8(bytes).map_err(|_| invalid(format!("{name} of the receipts' log is not text")))?;
        Note::parse(&text).map(Some).map_err(|error| invalid(format!("{name} of the receipts' log: {error}")))
    }

    fn folder_path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn root(&self, size: u64) -> io::Result<Hash> {
        root(&TileHashes(self), size)
    }

    pub fn consistency(&self, old: u64, new: u64) -> io::Result<Vec<Hash>> {
        if old == 0 || old >= new { Ok(Vec::new()) } else { consistency_proof(&TileHashes(self), old, new) }
    }

    /// Everything that was logged about a resource of the account, proven. Looks at all entries: their number times
    /// about half a kilobyte are read. `since`: number of entries of an earlier checkpoint, from which to go on.
    ///
    /// None if nothing was logged about it yet.
    pub fn receipt(
        &self,
        resource: &str,
        is_wanted: impl Fn(&super::Entry) -> bool,
        since: Option<u64>,
    ) -> io::Result<Option<(Receipt, Vec<super::Entry>)>> {
        let Some(newest) = self.checkpoint()? else { return Ok(None) };
        let parse = |note: &Note| Checkpoint::parse(note.text()).map_err(|error| invalid(error.to_string()));
        let newest_size = parse(&newest)?.size;
        let mut found = Vec::new();
        // Text that is in every entry about it; those that only mention it are sorted out below.
        let needle = serde_json::to_string(resource)?;
        for bundle in 0..newest_size.div_ceil(TILE_WIDTH) {
            for (index, entry) in (bundle * TILE_WIDTH..newest_size).zip(self.bundle(bundle)?) {
                let text =
                    String::from_utf8(entry).map_err(|_| invalid("an entry of the receipts' log is not text"))?;
                if !text.contains(&needle) {
                    continue;
                }
                let parsed: super::Entry = serde_json::from_str(&text)?;
                if parsed.resource == resource && is_wanted(&parsed) {
                    found.push((index, text, parsed));
                }
            }
        }
        let Some((last, ..)) = found.last() else { return Ok(None) };
        // One that witnesses have seen, if it covers what there is to show.
        let covers = |note: &Note| parse(note).is_ok_and(|checkpoint| checkpoint.size > *last);
        let note = self.note(COSIGNED)?.filter(covers).unwrap_or(newest);
        let size = parse(&note)?.size;
        let tiles = TileHashes(self);
        let mut entries = Vec::with_capacity(found.len());
        for (index, text, _) in &found {
            let proof = encode(&inclusion_proof(&tiles, *index, size)?);
            entries.push(ProvenEntry { index: *index, entry: text.clone(), proof });
        }
        let consistency = match since.filter(|from| (1..=size).contains(from)) {
            Some(from) => Some(Consistency { from, proof: encode(&self.consistency(from, size)?) }),
            None => None,
        };
        let receipt = Receipt {
            format: FORMAT.to_owned(),
            resource: resource.to_owned(),
            checkpoint: note.to_string(),
            entries,
            statements: Vec::new(),
            consistency,
        };
        Ok(Some((receipt, found.into_iter().map(|(_, _, entry)| entry).collect())))
    }

    /// Whether everything up to the newest checkpoint is as it was signed.
    pub(super) fn check(&self, operator: &VerifierKey, origin: &str) -> io::Result<Option<Checkpoint>> {
        let Some(note) = self.checkpoint()? else { return Ok(None) };
        let checkpoint = Checkpoint::verify(&note, operator)
            .map_err(|error| invalid(format!("{}: {error}", self.folder_path(CHECKPOINT).display())))?;
        if checkpoint.origin != origin {
            return Err(invalid(format!("the folder holds the log {}, not {origin}", checkpoint.origin)));
        }
        if self.root(checkpoint.size)? != checkpoint.root {
            return Err(invalid("the receipts' log is not what its checkpoint was signed for: it was changed"));
        }
        Ok(Some(checkpoint))
    }
}
