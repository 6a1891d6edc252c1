//! Giving out the bytes of an object that was opened. What differs from its checksum is not given out.

use bytes::Bytes;
use futures::{StreamExt, stream};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::task::JoinHandle;

use super::files::{ContentId, Files};
use super::garbage::Pin;
use super::index::Readers;
use super::remote::{RemoteData, RemoteStore, Remotes};
use super::rows;
use super::sums::{BLOCK, Sums};
use crate::backend::{BackendError, BoxError, ByteStream, Content, PartOfObject};

/// What is read in one go; whole blocks.
const CHUNK: u64 = 2 * BLOCK as u64;
/// The same where each read is a request.
const REMOTE_CHUNK: u64 = 16 * BLOCK as u64;

/// Checked when the object was found.
pub(super) struct InlineContent(pub(super) Bytes);

impl Content for InlineContent {
    fn stream(&self, range: Range<u64>) -> ByteStream {
        let bound = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(self.0.len());
        let bytes = self.0.slice(bound(range.start)..bound(range.end));
        Box::pin(stream::iter((!bytes.is_empty()).then_some(Ok(bytes))))
    }

    fn parts(&self) -> &[PartOfObject] {
        &[]
    }
}

/// One file after the other; they stay while the pin is held.
pub(super) struct FileContent {
    pub files: Files,
    pub readers: Arc<Readers>,
    pub remotes: Remotes,
    pub pieces: Arc<[Piece]>,
    pub parts: Vec<PartOfObject>,
    pub pin: Arc<Pin>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub id: ContentId,
    pub size: u64,
}

impl Content for FileContent {
    fn stream(&self, range: Range<u64>) -> ByteStream {
        let cursor = Cursor {
            files: self.files.clone(),
            readers: Arc::clone(&self.readers),
            remotes: self.remotes.clone(),
            pieces: Arc::clone(&self.pieces),
            next: 0,
            open: None,
            skip: range.start,
            left: range.end.saturating_sub(range.start),
            _pin: Arc::clone(&self.pin),
        };
        // One chunk is read ahead while the one before is being sent.
        let read = |cursor: Cursor| tokio::task::spawn_blocking(move || cursor.read());
        let first: Option<JoinHandle<_>> = (cursor.left > 0).then(|| read(cursor));
        Box::pin(
            stream::unfold(first, move |reading| async move {
                let (cursor, chunk) = match reading?.await {
                    Ok(Ok(read)) => read,
                    Ok(Err(error)) => {
                        tracing::error!(%error, "an object could not be read");
                        return Some((Err(BoxError::from(error)), None));
                    }
                    Err(error) => return Some((Err(BoxError::from(error)), None)),
                };
                let next = (cursor.left > 0).then(|| read(cursor));
                Some((Ok(chunk), next))
            })
            .fuse(),
        )
    }

    fn parts(&self) -> &[PartOfObject] {
        &self.parts
    }
}

/// A file with the sums of its bytes, if they are known.
pub(super) struct CheckedFile {
    id: ContentId,
    size: u64,
    bytes: Place,
    sums: Option<Sums>,
}

/// Where a file's bytes are.
enum Place {
    Here(File),
    Elsewhere(RemoteStore, RemoteData),
}

impl CheckedFile {
    pub(super) fn open(files: &Files, id: ContentId, size: u64, sums: Option<Sums>) -> Result<Self, BackendError> {
        Ok(Self { id, size, bytes: Place::Here(open(files, id)?), sums })
    }

    pub(super) fn elsewhere(store: RemoteStore, data: RemoteData, id: ContentId, sums: Option<Sums>) -> Self {
        Self { id, size: data.size, bytes: Place::Elsewhere(store, data), sums }
    }

    /// The file as long as it is; damaged if that is not how long it was.
    pub(super) fn open_whole(files: &Files, id: ContentId, sums: Option<Sums>) -> Result<Self, BackendError> {
        let file = open(files, id)?;
        let size = file.metadata()?.len();
        if let Some(sums) = &sums {
            sums.check_whole(id, size)?;
        }
        Ok(Self { id, size, bytes: Place::Here(file), sums })
    }

    /// The bytes from `at` on, at most `most` of them, after the blocks that they lie in were checked.
    pub(super) fn read(&self, at: u64, most: u64) -> Result<Bytes, BackendError> {
        let block = BLOCK as u64;
        let (start, end) = match &self.sums {
            Some(_) => (at - at % block, (at + most).next_multiple_of(block).min(self.size)),
            None => (at, (at + most).min(self.size)),
        };
        let bytes = match &self.bytes {
            Place::Elsewhere(store, data) => store.read(self.id, data, &(start..end))?,
            Place::Here(file) => {
                let mut bytes = vec![0; usize::try_from(end - start).unwrap_or_default()];
                file.read_exact_at(&mut bytes, start).map_err(|error| match error.kind() {
                    std::io::ErrorKind::UnexpectedEof => BackendError::Damaged(format!(
                        "the file of content {:016x} is shorter than {} bytes",
                        self.id, self.size
                    )),
                    _ => unreadable(self.id, error),
                })?;
                bytes
            }
        };
        if let Some(sums) = &self.sums {
            sums.check(self.id, usize::try_from(start / block).unwrap_or(usize::MAX), &bytes)?;
        }
        let from = usize::try_from(at - start).unwrap_or_default();
        let to = usize::try_from((at + most).min(self.size) - start).unwrap_or_default();
        Ok(Bytes::from(bytes).slice(from..to))
    }

    /// None: it lies elsewhere.
    pub(super) fn file(&self) -> Option<&File> {
        match &self.bytes {
            Place::Here(file) => Some(file),
            Place::Elsewhere(..) => None,
        }
    }

    /// What is read in one go.
    fn chunk(&self) -> u64 {
        if self.file().is_some() { CHUNK } else { REMOTE_CHUNK }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn is_summed(&self) -> bool {
        self.sums.is_some()
    }
}

fn open(files: &Files, id: ContentId) -> Result<File, BackendError> {
    files.read(id).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => BackendError::Damaged(format!("the file of content {id:016x} is gone")),
        _ => unreadable(id, error),
    })
}

/// What a disk or a file system says when bytes are lost is damage of the content; all else concerns the machine.
fn unreadable(id: ContentId, error: std::io::Error) -> BackendError {
    use nix::errno::Errno;
    let lost = [Errno::EIO, Errno::EBADMSG, Errno::EUCLEAN, Errno::ENODATA].map(|errno| errno as i32);
    if error.raw_os_error().is_some_and(|code| lost.contains(&code)) {
        return BackendError::Damaged(format!("the file of content {id:016x} cannot be read: {error}"));
    }
    error.into()
}

struct Cursor {
    files: Files,
    readers: Arc<Readers>,
    remotes: Remotes,
    pieces: Arc<[Piece]>,
    /// The piece to open next.
    next: usize,
    /// An open file, and where to go on in it.
    open: Option<(CheckedFile, u64)>,
    skip: u64,
    left: u64,
    _pin: Arc<Pin>,
}

impl Cursor {
    fn read(mut self) -> Result<(Self, Bytes), BackendError> {
        let (file, at) = match self.open.take() {
            Some(open) => open,
            None => self.open_next()?,
        };
        // After the first one, reads begin with a block.
        let most = (file.chunk() - at % BLOCK as u64).min(file.size - at).min(self.left);
        let chunk = file.read(at, most)?;
        self.left -= most;
        if at + most < file.size {
            self.open = Some((file, at + most));
        }
        Ok((self, chunk))
    }

    fn open_next(&mut self) -> Result<(CheckedFile, u64), BackendError> {
        while let Some(piece) = self.pieces.get(self.next) {
            self.next += 1;
            if self.skip < piece.size {
                let at = std::mem::take(&mut self.skip);
                let read = |c: &rusqlite::Connection| Ok((rows::sums(c, piece.id)?, rows::remote(c, piece.id)?));
                let (sums, remote) = self.readers.read(read)?;
                let Some(data) = remote else {
                    return Ok((CheckedFile::open(&self.files, piece.id, piece.size, sums)?, at));
                };
                if data.size != piece.size {
                    return Err(BackendError::Damaged(format!("content {:016x} is of another size", piece.id)));
                }
                let store = self.remotes.get(&data.target)?;
                return Ok((CheckedFile::elsewhere(store, data, piece.id, sums), at));
            }
            self.skip -= piece.size;
        }
        Err(BackendError::Damaged("the object's files are shorter than its size".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_disk_lost_is_damage_and_what_the_machine_lacks_is_not() {
        use nix::errno::Errno;
        for (errno, is_damage) in
            [(Errno::EIO, true), (Errno::EUCLEAN, true), (Errno::EMFILE, false), (Errno::ENOMEM, false)]
        {
            let error = unreadable(7, std::io::Error::from_raw_os_error(errno as i32));
            assert_eq!(matches!(error, BackendError::Damaged(_)), is_damage, "{errno}: {error}");
        }
    }
}
