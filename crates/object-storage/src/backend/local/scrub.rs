//! The scrubber reads all that is stored, slowly and again and again, so that what the disk has spoilt is known before
//! somebody needs it.
//!
//! It goes through the contents in the order of their numbers and writes down how far it is. What it finds stands in
//! `damage` until it reads well again or is gone. Contents from before there were sums get theirs here, once their
//! bytes were compared with what is known of the whole.

use rusqlite::{Connection, params};
use std::collections::HashSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::check::{Adopted, Known, Look, Stored, contents_between};
use super::files::ContentId;
use super::writer::blocking;
use super::{Inner, LocalBackend, adopt, rows};
use crate::backend::BackendError;

/// Contents that are read of the index at once.
const BATCH: i64 = 1024;
/// Bytes after which the progress is written down within a batch, too.
const NOTE_BYTES: u64 = 64 << 20;
/// Between two passes, and after a failure.
const PAUSE: Duration = Duration::from_secs(600);
/// How long a reader sleeps without looking whether it is still wanted.
const NAP: Duration = Duration::from_millis(100);

/// What one pass has found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scrubbed {
    pub contents: u64,
    pub bytes: u64,
    pub damaged: u64,
}

/// Keeps a reader within a rate, and ends it when nobody waits for it any more. Clones are the same pace.
#[derive(Clone)]
pub(super) struct Pace {
    bytes_per_sec: u64,
    stopped: Arc<AtomicBool>,
    /// What lies elsewhere is asked for and not read: whoever keeps it may want money for each byte.
    only_asks: bool,
    /// Targets that did not answer.
    away: Arc<Mutex<HashSet<String>>>,
}

/// Ends the readers of a pace when it is dropped.
pub(super) struct Leash(Arc<AtomicBool>);

impl Drop for Leash {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Pace {
    /// Zero: as fast as it goes.
    pub(super) fn new(bytes_per_sec: u64) -> (Self, Leash) {
        let stopped = Arc::<AtomicBool>::default();
        let pace = Self { bytes_per_sec, stopped: Arc::clone(&stopped), only_asks: false, away: Arc::default() };
        (pace, Leash(stopped))
    }

    fn asking(self) -> Self {
        Self { only_asks: true, ..self }
    }

    pub(super) fn only_asks(&self) -> bool {
        self.only_asks
    }

    pub(super) fn is_away(&self, target: &str) -> bool {
        self.away.lock().unwrap_or_else(PoisonError::into_inner).contains(target)
    }

    pub(super) fn note_away(&self, target: String) {
        self.away.lock().unwrap_or_else(PoisonError::into_inner).insert(target);
    }

    /// Called after so many bytes were read, outside the async threads.
    ///
    /// # Errors
    /// `Closed`: nobody waits any more.
    pub(super) fn after(&self, bytes: u64) -> Result<(), BackendError> {
        let micros = bytes.saturating_mul(1_000_000).checked_div(self.bytes_per_sec).unwrap_or(0);
        let mut left = Duration::from_micros(micros);
        loop {
            if self.stopped.load(Ordering::Relaxed) {
                return Err(BackendError::Closed);
            }
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(NAP));
            left = left.saturating_sub(NAP);
        }
    }
}

impl LocalBackend {
    /// Scrubs until `stop` is ready, reading at most so many bytes a second on average; zero: as fast as it goes.
    pub async fn scrub(&self, bytes_per_sec: u64, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return,
                pass = self.scrub_once(bytes_per_sec) => match pass {
                    Ok(pass) => tracing::info!(?pass, "read all objects once"),
                    Err(error) => tracing::warn!(%error, "the scrubber stopped; it goes on later"),
                },
            }
            tokio::select! {
                () = &mut stop => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    /// One pass, from where the last one was cut off.
    ///
    /// # Errors
    /// What kept it from reading on; damage is none.
    pub async fn scrub_once(&self, bytes_per_sec: u64) -> Result<Scrubbed, BackendError> {
        let inner = &self.0;
        let (pace, _leash) = Pace::new(bytes_per_sec);
        let pace = pace.asking();
        adopt::adopt(inner, &pace).await?;
        let mut pass = Scrubbed::default();
        let mut after = inner.index.read(|c| Ok(rows::meta(c, rows::SCRUB_AT)?.unwrap_or(-1))).await?;
        if after < 0 {
            inner.note(rows::SCRUB_BEGUN, inner.clock.now().millis()).await?;
        }
        // What is written from now on is for the next pass: else writers could keep this one from ending.
        let end = inner.first_content_to_come();
        let mut noted = 0;
        loop {
            let batch = inner.index.read(move |c| contents_between(c, after, end, BATCH)).await?;
            if batch.is_empty() {
                break;
            }
            for group in groups(&batch) {
                let looks = inner.look_at_all(group.to_vec(), &pace).await?;
                for (stored, look) in &looks {
                    after = stored.id.cast_signed();
                    pass.contents += 1;
                    pass.bytes += look.bytes();
                    pass.damaged += u64::from(matches!(look, Look::Damaged(_)));
                }
                inner.record(looks).await?;
                if pass.bytes >= noted + NOTE_BYTES {
                    noted = pass.bytes;
                    inner.note(rows::SCRUB_AT, after).await?;
                }
            }
            inner.note(rows::SCRUB_AT, after).await?;
        }
        let now = inner.clock.now().millis();
        let end = move |c: &Connection| {
            rows::set_meta(c, rows::SCRUB_AT, -1)?;
            rows::set_meta(c, rows::SCRUB_DONE, now)
        };
        inner.index.write(end).await?;
        Ok(pass)
    }
}

/// Contents of the index together, files one by one.
pub(super) fn groups(batch: &[Stored]) -> impl Iterator<Item = &[Stored]> {
    batch.chunk_by(|a, b| !a.in_file && !b.in_file)
}

impl Inner {
    async fn note(&self, name: &'static str, value: i64) -> Result<(), BackendError> {
        self.index.write(move |c| rows::set_meta(c, name, value)).await
    }

    pub(super) async fn look_at_all(
        self: &Arc<Self>,
        contents: Vec<Stored>,
        pace: &Pace,
    ) -> Result<Vec<(Stored, Look)>, BackendError> {
        let (inner, pace) = (Arc::clone(self), pace.clone());
        let look = move |stored| Ok((stored, inner.look_at(stored, &pace)?));
        blocking(move || contents.into_iter().map(look).collect()).await
    }

    /// Writes down what looks have said, as far as it is new.
    pub(super) async fn record(&self, looks: Vec<(Stored, Look)>) -> Result<(), BackendError> {
        let ids: Vec<_> = looks.iter().map(|(stored, _)| stored.id).collect();
        let known = self.index.read(move |c| known_damage(c, &ids)).await?;
        let now = self.clock.now().millis();
        let news: Vec<_> = looks
            .into_iter()
            .filter_map(|(stored, look)| match look {
                Look::Damaged(detail) => Some((stored.id, Some(detail))),
                Look::Good(_) => known.contains(&stored.id).then_some((stored.id, None)),
                // Without sums a look says nothing; what was deleted took its row with it.
                Look::Unsummed(_) | Look::Present | Look::Away | Look::Gone => None,
            })
            .collect();
        if news.is_empty() {
            return Ok(());
        }
        let write = move |c: &Connection| {
            for (id, damage) in news {
                match damage {
                    Some(detail) => {
                        // Unless it was deleted since it was read.
                        let mut insert = c.prepare_cached(
                            "INSERT INTO damage (content, found, detail) SELECT id, ?2, ?3 FROM content WHERE id = ?1
                             AND NOT EXISTS (SELECT 1 FROM garbage WHERE garbage.id = content.id)
                             ON CONFLICT (content) DO UPDATE SET detail = ?3",
                        )?;
                        if insert.execute(params![id.cast_signed(), now, detail])? > 0 {
                            tracing::error!(detail, "an object is damaged");
                        }
                    }
                    None => {
                        let mut forget = c.prepare_cached("DELETE FROM damage WHERE content = ?1")?;
                        forget.execute([id.cast_signed()])?;
                    }
                }
            }
            Ok(())
        };
        self.index.write(write).await
    }

    /// Gives contents their sums, or writes down that they are not what was written.
    pub(super) async fn adopt_contents(
        self: &Arc<Self>,
        contents: Vec<(Stored, Known)>,
        pace: &Pace,
    ) -> Result<(), BackendError> {
        let (inner, pace) = (Arc::clone(self), pace.clone());
        let sum_up = move |(stored, known): (Stored, Known)| Ok((stored, inner.sum_up(stored, &known, &pace)?));
        let summed: Vec<_> = blocking(move || contents.into_iter().map(sum_up).collect()).await?;
        let (mut sums, mut damaged) = (Vec::new(), Vec::new());
        for (stored, adopted) in summed {
            match adopted {
                Adopted::Sums(found) => sums.push((stored.id, found)),
                Adopted::Damaged(detail) => damaged.push((stored, Look::Damaged(detail))),
                Adopted::Gone => {}
            }
        }
        self.record(damaged).await?;
        let write = move |c: &Connection| {
            let mut update = c.prepare_cached("UPDATE content SET sums = ?2 WHERE id = ?1")?;
            let mut forget = c.prepare_cached("DELETE FROM damage WHERE content = ?1")?;
            for (id, sums) in sums {
                update.execute(params![id.cast_signed(), sums.stored()])?;
                forget.execute([id.cast_signed()])?;
            }
            Ok(())
        };
        self.index.write(write).await
    }
}

fn known_damage(c: &Connection, ids: &[ContentId]) -> Result<HashSet<ContentId>, BackendError> {
    let mut query = c.prepare_cached("SELECT 1 FROM damage WHERE content = ?1")?;
    let mut known = HashSet::new();
    for id in ids {
        if query.exists([id.cast_signed()])? {
            known.insert(*id);
        }
    }
    Ok(known)
}
