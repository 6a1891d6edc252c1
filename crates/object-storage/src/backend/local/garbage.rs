//! Removing files that the index no longer names.
//!
//! What replaces or deletes an object moves its files' numbers to the table `garbage` in the same transaction; they are
//! removed afterwards, and the rows after them. A file that is being read is pinned and waits. A reader finds the row
//! and pins under the shared side of a gate; the collector takes the exclusive side before it decides, so that whoever
//! still saw the old row has pinned by then.
//!
//! A crash leaves files that were never named. Numbers begin with the process's start, so only files of earlier starts
//! can be orphans: they are looked for once, in the background.

use futures::StreamExt;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;
use tokio::sync::Notify;

use super::files::{ContentId, Files, epoch_of};
use super::remote::{Name, RemoteData};
use super::writer::blocking;
use super::{Inner, rows};
use crate::backend::BackendError;

const BATCH: i64 = 500;
/// Removals at once in a foreign store.
const REMOTE_AT_ONCE: usize = 8;
/// After a foreign store could not be reached.
pub(super) const RETRY: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Pins {
    gate: RwLock<()>,
    held: Mutex<HashMap<ContentId, usize>>,
    pub(super) bell: Notify,
}

/// Keeps the files of one object while somebody reads them.
pub(super) struct Pin {
    pins: Arc<Pins>,
    ids: Vec<ContentId>,
}

impl Pins {
    /// Runs `find`, which reads a row and pins what it names.
    pub(super) fn while_gate_is_open<R>(&self, find: impl FnOnce() -> R) -> R {
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        find()
    }

    pub(super) fn pin(self: &Arc<Self>, ids: Vec<ContentId>) -> Pin {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for id in &ids {
            *held.entry(*id).or_default() += 1;
        }
        Pin { pins: Arc::clone(self), ids }
    }

    fn unpinned(&self, ids: Vec<ContentId>) -> Vec<ContentId> {
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        ids.into_iter().filter(|id| !held.contains_key(id)).collect()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut held = self.pins.held.lock().unwrap_or_else(PoisonError::into_inner);
        for id in &self.ids {
            if let Some(count) = held.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    held.remove(id);
                }
            }
        }
        drop(held);
        self.pins.bell.notify_one();
    }
}

/// Runs until the backend is dropped.
pub(super) async fn collect(backend: Weak<Inner>, pins: Arc<Pins>) {
    loop {
        let Some(inner) = backend.upgrade() else { return };
        if let Err(error) = collect_once(&inner).await {
            tracing::warn!(%error, "contents of deleted objects were not removed; it is tried again");
            drop(inner);
            // The wait may end early.
            let _ = tokio::time::timeout(RETRY, pins.bell.notified()).await;
            continue;
        }
        drop(inner);
        pins.bell.notified().await;
    }
}

async fn collect_once(inner: &Arc<Inner>) -> Result<(), BackendError> {
    let (mut after, mut failure) = (-1_i64, None);
    // One that does not answer is not asked for each content.
    let mut away = HashSet::new();
    loop {
        let ids = inner
            .index
            .read(move |c| {
                let mut query = c.prepare_cached("SELECT id FROM garbage WHERE id > ?1 ORDER BY id LIMIT ?2")?;
                let ids = query.query_map(params![after, BATCH], |row| row.get::<_, i64>(0))?;
                let ids = ids.collect::<Result<Vec<_>, _>>()?;
                ids.into_iter().map(|id| Ok((id, rows::remote(c, id.cast_unsigned())?))).collect()
            })
            .await?;
        let ids: Vec<(i64, Option<RemoteData>)> = ids;
        let Some((last, _)) = ids.last() else { return failure.map_or(Ok(()), Err) };
        after = *last;
        let unpinned = inner.pins.unpinned(ids.iter().map(|(id, _)| id.cast_unsigned()).collect());
        let elsewhere: HashMap<_, _> =
            ids.into_iter().filter_map(|(id, remote)| Some((id.cast_unsigned(), remote?))).collect();
        let is_away = |id: &ContentId| elsewhere.get(id).is_some_and(|data| away.contains(&data.target));
        let unpinned: Vec<_> = unpinned.into_iter().filter(|id| !is_away(id)).collect();
        let (remote, here): (Vec<_>, Vec<_>) = unpinned.into_iter().partition(|id| elsewhere.contains_key(id));
        let files = inner.files.clone();
        let mut removed = blocking(move || {
            here.iter().try_for_each(|id| files.remove(*id))?;
            Ok(here)
        })
        .await?;
        let removing = remote.into_iter().map(|id| {
            let data = &elsewhere[&id];
            let store = inner.remotes.get(&data.target);
            async move {
                let removed = async { store?.remove(Name::new(id, data)).await };
                removed.await.map(|()| id).map_err(|error| (data.target.clone(), error))
            }
        });
        let mut removing = futures::stream::iter(removing).buffer_unordered(REMOTE_AT_ONCE);
        while let Some(result) = removing.next().await {
            match result {
                Ok(id) => removed.push(id),
                Err((target, error)) => {
                    away.insert(target);
                    failure = Some(error);
                }
            }
        }
        drop(removing);
        if !removed.is_empty() {
            inner
                .index
                .write(move |c| {
                    let mut forget = c.prepare_cached("DELETE FROM content WHERE id = ?1")?;
                    let mut delete = c.prepare_cached("DELETE FROM garbage WHERE id = ?1")?;
                    for id in removed {
                        forget.execute([id.cast_signed()])?;
                        delete.execute([id.cast_signed()])?;
                    }
                    Ok(())
                })
                .await?;
        }
    }
}

/// Removes what a crash left behind, unless the last end was a clean one.
pub(super) async fn sweep(inner: Arc<Inner>) -> Result<u64, BackendError> {
    let current = inner.epoch;
    let swept = inner.index.read(|c| Ok(rows::meta(c, rows::SWEPT)?.unwrap_or(0))).await?;
    if swept.cast_unsigned() >= current {
        return Ok(0);
    }
    let mut removed = 0;
    for folder in Files::folder_numbers() {
        let files = inner.files.clone();
        let found = blocking(move || Ok(files.in_folder(folder)?)).await?;
        let suspects: Vec<_> = found.into_iter().filter(|id| epoch_of(*id) < current).collect();
        let orphans = inner.index.read(move |c| unnamed(c, suspects)).await?;
        removed += orphans.len() as u64;
        let files = inner.files.clone();
        blocking(move || {
            for id in orphans {
                files.remove(id)?;
            }
            Ok(())
        })
        .await?;
    }
    inner.index.write(move |c| rows::set_meta(c, rows::SWEPT, current.cast_signed())).await?;
    Ok(removed)
}

/// What is in `garbage` is left to the collector, which knows who still reads it.
pub(super) fn unnamed(c: &Connection, ids: Vec<ContentId>) -> Result<Vec<ContentId>, BackendError> {
    let mut known =
        c.prepare_cached("SELECT 1 FROM content WHERE id = ?1 UNION ALL SELECT 1 FROM garbage WHERE id = ?1")?;
    let mut orphans = Vec::new();
    for id in ids {
        if known.query_row([id.cast_signed()], |_| Ok(())).optional()?.is_none() {
            orphans.push(id);
        }
    }
    Ok(orphans)
}

/// The same in a foreign store.
pub(super) fn unnamed_elsewhere(c: &Connection, names: Vec<Name>) -> Result<Vec<Name>, BackendError> {
    let mut orphans = Vec::new();
    for name in names {
        if rows::remote(c, name.id)?.is_none_or(|data| data.nonce != name.nonce) {
            orphans.push(name);
        }
    }
    Ok(orphans)
}
