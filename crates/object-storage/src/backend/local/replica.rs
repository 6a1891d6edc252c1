//! Copies that keep their version's name (see [`crate::backend::Replicas`]).

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};
use std::sync::Arc;

use super::outbox::{self, Fact};
use super::rows::NewObject;
use super::{LocalBackend, versions};
use crate::backend::{
    BackendError, DeleteMarker, Entry, Lookup, NewReplica, Note, ObjectHead, Place, Replicas, ReplicationStatus, Source,
};

/// What a copy that is there already has to be.
fn check_known(head: &ObjectHead, etag: &str) -> Result<(), BackendError> {
    if head.etag == etag { Ok(()) } else { Err(BackendError::PreconditionFailed("the name of the version")) }
}

/// Another copy of the version that is still waited for.
fn waits(c: &Connection, entry: &Entry) -> Result<bool, BackendError> {
    let mut query = c.prepare_cached(
        "SELECT 1 FROM outbox WHERE bucket = ?1 AND key = ?2 AND version = ?3 AND queue LIKE 'replicate/%' LIMIT 1",
    )?;
    let values = params![entry.place.bucket.row(), entry.place.key.as_bytes(), entry.version.as_str()];
    Ok(query.query_row(values, |_| Ok(())).optional()?.is_some())
}

fn settle(c: &Connection, queue: &str, entry: &Entry, failed: bool) -> Result<(), BackendError> {
    outbox::settle(c, queue, &[entry.number], failed)?;
    let Lookup::Found(row) = versions::find(c, &entry.place, Some(&entry.version))? else { return Ok(()) };
    let status = match row.head.meta.replication {
        Some(status) if failed && status.is_followed() => ReplicationStatus::Failed,
        Some(ReplicationStatus::Pending) if !waits(c, entry)? => ReplicationStatus::Completed,
        _ => return Ok(()),
    };
    let change = |meta: &mut crate::backend::ObjectMeta| meta.replication = Some(status);
    versions::change_meta(c, &entry.place, Some(&entry.version), change).map(drop)
}

#[async_trait]
impl Replicas for LocalBackend {
    async fn replicate(&self, from: &Source, to: &Place, new: NewReplica) -> Result<bool, BackendError> {
        let NewReplica { meta, lock, notes, keep_out } = new;
        let (place, version, etag) = (to.clone(), from.version.clone(), from.etag.clone());
        let known = move |c: &Connection| match versions::find(c, &place, Some(&version))? {
            Lookup::Found(row) => check_known(&row.head, &etag).map(|()| true),
            Lookup::Marker(_) => Err(BackendError::PreconditionFailed("the name of the version")),
            Lookup::Missing => Ok(false),
        };
        if self.0.index.read(known).await? {
            let (place, version) = (to.clone(), from.version.clone());
            let change = move |c: &Connection| versions::renew_replica(c, &place, &version, meta, lock);
            return self.0.index.write(change).await.map(|()| false);
        }
        let found = self.find(&from.place, Some(&from.version)).await?.found();
        let found = found.filter(|found| found.head.etag == from.etag).ok_or(BackendError::SourceChanged)?;
        self.0.admit(found.inline_bytes())?;
        let seq = versions::seq_of(&from.version).ok_or(BackendError::NoSuchVersion)?;
        let head = ObjectHead { meta: Arc::new(meta), lock, ..found.head.clone() };
        let (content, data, unfinished) = self.duplicate(to, found, &keep_out).await?;
        let new = NewObject { content, data, head, seq, upload: None };
        let (place, now) = (to.clone(), self.0.clock.now());
        let write = move |c: &Connection| {
            versions::put_replica(c, &place, &new)?;
            outbox::keep(c, &Fact::written(&place, &new.head, now), &notes)
        };
        let kept = self.0.index.write_guarded(unfinished, write).await?;
        self.0.ring_outbox_if(kept);
        Ok(true)
    }

    async fn replicate_marker(
        &self,
        to: &Place,
        marker: &DeleteMarker,
        notes: Vec<Note>,
    ) -> Result<bool, BackendError> {
        let (place, marker, now) = (to.clone(), marker.clone(), self.0.clock.now());
        let seq = versions::seq_of(&marker.version).ok_or(BackendError::NoSuchVersion)?;
        let write = move |c: &Connection| {
            if !versions::put_marker_replica(c, &place, seq, marker.modified)? {
                return Ok((false, false));
            }
            let fact = Fact::of_marker(&place, &marker.version, now);
            Ok((true, outbox::keep(c, &fact, &notes)?))
        };
        let (new, kept) = self.0.index.write(write).await?;
        self.0.ring_outbox_if(kept);
        Ok(new)
    }

    async fn settle_replication(&self, queue: &str, entry: &Entry, failed: bool) -> Result<(), BackendError> {
        let (queue, entry) = (queue.to_owned(), entry.clone());
        self.0.index.write(move |c| settle(c, &queue, &entry, failed)).await
    }
}
