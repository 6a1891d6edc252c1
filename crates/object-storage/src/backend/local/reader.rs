//! Giving out the bytes of an object that was opened.

use bytes::Bytes;
use futures::{StreamExt, stream};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::task::JoinHandle;

use super::files::{ContentId, Files};
use super::garbage::Pin;
use crate::backend::{BoxError, ByteStream, Content, PartOfObject};

/// What is read in one go.
const CHUNK: u64 = 512 << 10;

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
                    Ok(Err(error)) => return Some((Err(BoxError::from(error)), None)),
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

struct Cursor {
    files: Files,
    pieces: Arc<[Piece]>,
    /// The piece to open next.
    next: usize,
    /// An open file, where to go on in it, and what of it is left.
    open: Option<(File, u64, u64)>,
    skip: u64,
    left: u64,
    _pin: Arc<Pin>,
}

impl Cursor {
    fn read(mut self) -> std::io::Result<(Self, Bytes)> {
        let (file, at, rest) = match self.open.take() {
            Some(open) => open,
            None => self.open_next()?,
        };
        let take = CHUNK.min(rest).min(self.left);
        let mut chunk = vec![0; usize::try_from(take).unwrap_or_default()];
        file.read_exact_at(&mut chunk, at)?;
        self.left -= take;
        if rest > take {
            self.open = Some((file, at + take, rest - take));
        }
        Ok((self, chunk.into()))
    }

    fn open_next(&mut self) -> std::io::Result<(File, u64, u64)> {
        while let Some(piece) = self.pieces.get(self.next) {
            self.next += 1;
            if self.skip < piece.size {
                let at = std::mem::take(&mut self.skip);
                return Ok((self.files.read(piece.id)?, at, piece.size - at));
            }
            self.skip -= piece.size;
        }
        Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the object's files are shorter than its size"))
    }
}
