//! C2SP `tlog-tiles`: 256 hashes in a row of each eighth level make a tile, 256 entries a bundle. A tile that is whole
//! never changes.

use crate::merkle::{Hash, Subtrees, node_hash};

/// Hashes of a whole tile, and entries of a whole bundle.
pub const TILE_WIDTH: u64 = 256;
const TILE_HEIGHT: u8 = 8;

/// `067`, `x001/067`, ...
fn number(mut index: u64) -> String {
    let mut path = format!("{:03}", index % 1000);
    while index >= 1000 {
        index /= 1000;
        path = format!("x{:03}/{path}", index % 1000);
    }
    path
}

/// `width`: of one that is not whole.
fn with_width(path: String, width: Option<u64>) -> String {
    width.map_or(path.clone(), |width| format!("{path}.p/{width}"))
}

/// Path of a tile of hashes below the log's folder.
pub fn hash_path(level: u8, index: u64, width: Option<u64>) -> String {
    with_width(format!("tile/{level}/{}", number(index)), width)
}

/// Path of a bundle of entries below the log's folder.
pub fn entry_path(index: u64, width: Option<u64>) -> String {
    with_width(format!("tile/entries/{}", number(index)), width)
}

/// Entries as a bundle: each with its length, two octets, before it. `None` if one is longer than that can say.
pub fn entry_bundle<'a>(entries: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut bundle = Vec::new();
    for entry in entries {
        bundle.extend_from_slice(&u16::try_from(entry.len()).ok()?.to_be_bytes());
        bundle.extend_from_slice(entry);
    }
    Some(bundle)
}

/// The entries of a bundle; `None` if it is cut off.
pub fn split_bundle(mut bundle: &[u8]) -> Option<Vec<&[u8]>> {
    let mut entries = Vec::new();
    while !bundle.is_empty() {
        let (length, rest) = bundle.split_first_chunk::<2>()?;
        let (entry, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        entries.push(entry);
        bundle = rest;
    }
    Some(entries)
}

/// Where tiles come from.
pub trait TileSource {
    type Error;

    /// The first `width` hashes, or more, of the tile. All of them are there.
    fn tile(&self, level: u8, index: u64, width: u64) -> Result<Vec<Hash>, Self::Error>;
}

/// A tree that is kept in tiles.
pub struct TileHashes<T>(pub T);

impl<T: TileSource> Subtrees for TileHashes<T> {
    type Error = T::Error;

    fn subtree(&self, level: u8, index: u64) -> Result<Hash, T::Error> {
        let height = level % TILE_HEIGHT;
        let first = index << height;
        let (tile, offset, count) = (first / TILE_WIDTH, first % TILE_WIDTH, 1_u64 << height);
        let hashes = self.0.tile(level / TILE_HEIGHT, tile, offset + count)?;
        let range =
            usize::try_from(offset).unwrap_or(usize::MAX)..usize::try_from(offset + count).unwrap_or(usize::MAX);
        let mut row = hashes[range].to_vec();
        while row.len() > 1 {
            row = row.chunks_exact(2).map(|pair| node_hash(&pair[0], &pair[1])).collect();
        }
        Ok(row[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        for (path, expected) in [
            (hash_path(0, 0, None), "tile/0/000"),
            (hash_path(2, 1_234_067, None), "tile/2/x001/x234/067"),
            (hash_path(1, 999, Some(8)), "tile/1/999.p/8"),
            (entry_path(1000, Some(255)), "tile/entries/x001/000.p/255"),
        ] {
            assert_eq!(path, expected);
        }
    }

    #[test]
    fn bundles_are_read_again() {
        let entries: [&[u8]; 3] = [b"a", b"", b"longer"];
        let bundle = entry_bundle(entries).unwrap();
        assert_eq!(split_bundle(&bundle).unwrap(), entries);
        assert_eq!(split_bundle(&bundle[..bundle.len() - 1]), None);
        assert_eq!(entry_bundle([&[0_u8; 65_536][..]]), None);
    }
}
