//! Reading contents whole, to see whether they are what was written: for the scrubber and the verification.

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use rusqlite::{Connection, OptionalExtension, params};

use super::files::ContentId;
use super::garbage::Pin;
use super::reader::CheckedFile;
use super::remote::RemoteData;
use super::scrub::Pace;
use super::sums::{BLOCK, SumWriter, Sums};
use super::{Inner, rows};
use crate::backend::BackendError;
use crate::checksum::{Algorithm, Checksum, Digests, Hasher};

/// What is read of a file at once; whole blocks.
const CHUNK: u64 = 4 * BLOCK as u64;

/// A content that has bytes itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored {
    pub id: ContentId,
    /// Here or elsewhere.
    pub in_file: bool,
}

/// What a look at a content said.
#[derive(Debug)]
pub(super) enum Look {
    /// So many bytes, as they were written.
    Good(u64),
    /// So many bytes, and no sums to compare them with.
    Unsummed(u64),
    Damaged(String),
    /// It is where it should be, and was not read.
    Present,
    /// The store that has it does not answer.
    Away,
    /// It was deleted meanwhile.
    Gone,
}

impl Look {
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Good(bytes) | Self::Unsummed(bytes) => *bytes,
            Self::Damaged(_) | Self::Present | Self::Away | Self::Gone => 0,
        }
    }
}

/// What became of a content that had no sums.
pub(super) enum Adopted {
    Sums(Sums),
    Damaged(String),
    Gone,
}

/// What is known of bytes that were written before there were sums.
pub(super) enum Known {
    /// In hexadecimal.
    Md5(String),
    Checksum(Checksum),
}

/// Contents behind `after` and below `end`, in the order of their numbers.
pub(super) fn contents_between(c: &Connection, after: i64, end: i64, limit: i64) -> Result<Vec<Stored>, BackendError> {
    let mut query = c.prepare_cached(
        "SELECT id, kind FROM content WHERE id > ?1 AND id < ?2 AND kind IN (0, 1, 3) ORDER BY id LIMIT ?3",
    )?;
    let found = query.query_map(params![after, end, limit], |row| {
        Ok(Stored { id: row.get::<_, i64>(0)?.cast_unsigned(), in_file: row.get::<_, i64>(1)? != rows::INLINE })
    })?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// A content's bytes, unchecked, or the open file; none if it is gone.
enum Opened {
    Inline(Vec<u8>, Option<Sums>),
    File(CheckedFile, bool, Pin),
    Elsewhere(RemoteData, Option<Sums>, Pin),
    Gone,
}

impl Inner {
    /// Reads a content whole. Blocks.
    ///
    /// # Errors
    /// What kept it from being read; that it is damaged is no error.
    pub(super) fn look_at(&self, stored: Stored, pace: &Pace) -> Result<Look, BackendError> {
        let look = self.open_content(stored).and_then(|opened| match opened {
            Opened::Gone => Ok(Look::Gone),
            Opened::Inline(bytes, None) => self.look_at_unsummed(stored.id, bytes.len() as u64),
            Opened::Inline(bytes, Some(sums)) => {
                sums.check_whole(stored.id, bytes.len() as u64)?;
                sums.check(stored.id, 0, &bytes)?;
                pace.after(bytes.len() as u64)?;
                Ok(Look::Good(bytes.len() as u64))
            }
            Opened::File(file, summed, _pin) => {
                let bytes = each_chunk(&file, pace, |_| {})?;
                if summed { Ok(Look::Good(bytes)) } else { self.look_at_unsummed(stored.id, bytes) }
            }
            Opened::Elsewhere(data, sums, _pin) => self.look_elsewhere(stored.id, data, sums, pace),
        });
        match look {
            Err(BackendError::Damaged(detail)) => Ok(Look::Damaged(detail)),
            look => look,
        }
    }

    fn look_elsewhere(
        &self,
        id: ContentId,
        data: RemoteData,
        sums: Option<Sums>,
        pace: &Pace,
    ) -> Result<Look, BackendError> {
        let target = data.target.clone();
        if pace.is_away(&target) {
            return Ok(Look::Away);
        }
        let looked = self.remotes.get(&target).and_then(|store| {
            if pace.only_asks() {
                store.check(id, &data)?;
                pace.after(0)?;
                return Ok(Look::Present);
            }
            each_chunk(&CheckedFile::elsewhere(store, data, id, sums), pace, |_| {}).map(Look::Good)
        });
        match looked {
            Err(error @ (BackendError::Away { .. } | BackendError::Foreign(_))) => {
                tracing::warn!(%error, "contents there are not looked at");
                pace.note_away(target);
                Ok(Look::Away)
            }
            looked => looked,
        }
    }

    /// Bytes that can be compared with nothing: there may have been a time when they could.
    fn look_at_unsummed(&self, id: ContentId, bytes: u64) -> Result<Look, BackendError> {
        self.index.readers.read(|c| rows::check_unsummed(c, id))?;
        Ok(Look::Unsummed(bytes))
    }

    /// Sums for a content that has none, if its bytes are still those that `known` speaks of. Blocks.
    ///
    /// # Errors
    /// As [`Inner::look_at`].
    pub(super) fn sum_up(&self, stored: Stored, known: &Known, pace: &Pace) -> Result<Adopted, BackendError> {
        let algorithms: &[Algorithm] = match known {
            Known::Md5(_) => &[],
            Known::Checksum(checksum) => std::slice::from_ref(&checksum.algorithm),
        };
        let (mut hasher, mut sums) = (Hasher::new(algorithms), SumWriter::new());
        let mut take = |bytes: &[u8]| {
            hasher.update(bytes);
            sums.update(bytes);
        };
        let read = self.open_content(stored).and_then(|opened| match opened {
            // What lies elsewhere has had sums from the start.
            Opened::Gone | Opened::Elsewhere(..) => Ok(false),
            Opened::Inline(bytes, _) => {
                take(&bytes);
                pace.after(bytes.len() as u64)?;
                Ok(true)
            }
            Opened::File(file, _, _pin) => each_chunk(&file, pace, &mut take).map(|_| true),
        });
        match read {
            Ok(false) => Ok(Adopted::Gone),
            Ok(true) if known.is_of(&hasher.finish()) => Ok(Adopted::Sums(sums.finish())),
            Ok(true) => Ok(Adopted::Damaged(format!(
                "content {:016x} is not what was written: its bytes differ from the checksum of the whole",
                stored.id
            ))),
            Err(BackendError::Damaged(detail)) => Ok(Adopted::Damaged(detail)),
            Err(error) => Err(error),
        }
    }

    fn open_content(&self, stored: Stored) -> Result<Opened, BackendError> {
        let id = stored.id;
        let found = self.index.readers.read(|c| {
            self.pins.while_gate_is_open(|| {
                let mut query = c.prepare_cached(
                    "SELECT data, sums, kind FROM content WHERE id = ?1
                     AND NOT EXISTS (SELECT 1 FROM garbage WHERE garbage.id = content.id)",
                )?;
                let read = |row: &rusqlite::Row<'_>| {
                    let kind = row.get::<_, i64>(2)?;
                    Ok((row.get::<_, Option<Vec<u8>>>(0)?, row.get::<_, Option<Vec<u8>>>(1)?, kind))
                };
                let found = query.query_row([id.cast_signed()], read).optional()?;
                Ok(found.map(|found| (found, self.pins.pin(vec![id]))))
            })
        })?;
        let Some(((data, sums, kind), pin)) = found else { return Ok(Opened::Gone) };
        let sums = Sums::parse(id, sums)?;
        if kind == rows::REMOTE {
            return Ok(Opened::Elsewhere(rows::unpack(&data.unwrap_or_default())?, sums, pin));
        }
        if !stored.in_file {
            return Ok(Opened::Inline(data.unwrap_or_default(), sums));
        }
        let file = CheckedFile::open_whole(&self.files, id, sums)?;
        // What the disk has is to be seen, and what is read here is not to displace what is read often.
        drop_cache(&file);
        let summed = file.is_summed();
        Ok(Opened::File(file, summed, pin))
    }
}

impl Known {
    fn is_of(&self, digests: &Digests) -> bool {
        match self {
            Self::Md5(md5) => digests.etag() == *md5,
            Self::Checksum(known) => digests.checksum(known.algorithm).is_some_and(|found| found.text == known.text),
        }
    }
}

fn each_chunk(file: &CheckedFile, pace: &Pace, mut take: impl FnMut(&[u8])) -> Result<u64, BackendError> {
    let mut at = 0;
    while at < file.size() {
        let chunk = file.read(at, CHUNK)?;
        take(&chunk);
        at += CHUNK;
        pace.after(chunk.len() as u64)?;
    }
    drop_cache(file);
    Ok(file.size())
}

fn drop_cache(file: &CheckedFile) {
    let Some(file) = file.file() else { return };
    if let Err(error) = posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED) {
        tracing::debug!(%error, "the cache of a file was not dropped");
    }
}
