//! Making copies.
//!
//! What a version is when its entry is worked off is what is copied. What cannot be copied now is tried again for a week;
//! what may not be copied, or cannot be as things are, is `FAILED` at once, and told of as an event.

use async_trait::async_trait;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use terroir_action::{Caller, Target as Permission};
use terroir_iam::{Iam, RequestFacts};
use terroir_store::Txn;
use terroir_types::{Arn, Clock, Error, ErrorClass, IdSource};

use super::{Destination, Kind, Order, QUEUES};
use crate::backend::{
    BackendError, DeleteMarker, Entry, Lookup, NewReplica, Note, ObjectBackend, ObjectHead, ObjectMeta, Place,
    ReplicationStatus, Source, Versioning,
};
use crate::delivery::{self, Carried, Carrier, GIVE_UP_AFTER, Trouble, Troubles};
use crate::encryption::{DefaultEncryption, Encryption, Method, keys};
use crate::lock::LockSetting;
use crate::model::Bucket;
use crate::notification::{Cause, Event, NotificationRules};
use crate::outbound::{Outbound, OutboundError};
use crate::{engine, guard, ops, quota, settings, target, versioning};

/// Who the role is assumed by.
const SERVICE: &str = "s3.amazonaws.com";

/// The worker. A cheap handle.
#[derive(Clone)]
pub struct Replicator(Arc<Inner>);

pub(super) struct Inner {
    pub iam: Iam,
    pub backend: Arc<dyn ObjectBackend>,
    pub outbound: Outbound,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn IdSource>,
    pub region: String,
    pub troubles: Troubles,
}

/// Why there is no copy.
pub(super) enum Obstacle {
    /// It may pass.
    Now(String),
    /// It will not pass by itself.
    Always(String),
}

impl From<Error> for Obstacle {
    fn from(error: Error) -> Self {
        let text = error.internal_detail().unwrap_or_else(|| error.message()).to_owned();
        match error.class() {
            ErrorClass::Unavailable | ErrorClass::Throttled | ErrorClass::Capacity | ErrorClass::Internal => {
                Self::Now(text)
            }
            _ => Self::Always(format!("{}: {text}", error.code())),
        }
    }
}

impl From<BackendError> for Obstacle {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Damaged(_) => Self::Always(error.to_string()),
            error => Error::from(error).into(),
        }
    }
}

impl From<OutboundError> for Obstacle {
    fn from(error: OutboundError) -> Self {
        let passes = match &error {
            OutboundError::Unreachable(_) => true,
            OutboundError::Answered(status) | OutboundError::Refused { status, .. } => {
                status.is_server_error() || matches!(status.as_u16(), 408 | 409 | 429)
            }
            OutboundError::Impossible(_) => false,
        };
        if passes { Self::Now(error.to_string()) } else { Self::Always(error.to_string()) }
    }
}

/// What is to be copied, as it is now.
pub(super) enum Subject {
    Version(ObjectHead),
    Marker(DeleteMarker),
}

#[async_trait]
impl Carrier for Inner {
    const PREFIX: &'static str = QUEUES;

    async fn carry(&self, queue: &str, entry: &Entry) -> Carried {
        let failed = match self.copy(entry).await {
            Ok(()) => false,
            Err(Obstacle::Now(error)) if self.clock.now() <= entry.at.plus(GIVE_UP_AFTER) => {
                return Carried::Later(error);
            }
            Err(Obstacle::Now(error) | Obstacle::Always(error)) => {
                tracing::warn!(queue, version = %entry.version, error, "a version was not replicated");
                self.tell_of_failure(entry).await;
                true
            }
        };
        match self.backend.settle_replication(queue, entry, failed).await {
            Ok(()) => Carried::Settled,
            Err(error) => Carried::Later(error.to_string()),
        }
    }
}

impl Replicator {
    pub fn new(
        iam: Iam,
        backend: Arc<dyn ObjectBackend>,
        outbound: Outbound,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        region: String,
    ) -> Self {
        Self(Arc::new(Inner { iam, backend, outbound, clock, ids, region, troubles: Troubles::default() }))
    }

    /// The queues whose copies cannot be made for now, by name.
    pub fn troubles(&self) -> BTreeMap<String, Trouble> {
        self.0.troubles.all()
    }

    /// Copies what waits, until `stop` is ready.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        let Inner { backend, troubles, clock, .. } = &*self.0;
        delivery::run(&*self.0, &**backend, troubles, &**clock, stop).await;
    }
}

impl Inner {
    async fn copy(&self, entry: &Entry) -> Result<(), Obstacle> {
        let order = match Order::unpack(&entry.body) {
            Ok(order) => order,
            Err(error) => return Err(Obstacle::Always(error.internal_detail().unwrap_or_default().to_owned())),
        };
        let subject = match self.backend.head(&entry.place, Some(&entry.version)).await? {
            Lookup::Found(head) => Subject::Version(head),
            Lookup::Marker(marker) => Subject::Marker(marker),
            // It was removed meanwhile: there is nothing left to copy.
            Lookup::Missing => return Ok(()),
        };
        let txn = self.iam.store().read().await.map_err(Error::from)?;
        let role = self.role(&txn, &order).await?;
        self.check_source(&txn, &role, &order, entry, &subject).await?;
        match &order.destination {
            Destination::Bucket(name) => self.copy_here(&txn, &role, &order, entry, subject, name).await,
            Destination::Target(name) => self.copy_away(&txn, &order, entry, subject, name).await,
        }
    }

    async fn role(&self, txn: &Txn, order: &Order) -> Result<Caller, Obstacle> {
        let arn = Arn::parse(&order.role)?;
        let role = self.iam.assumed_by_service(txn, &arn, SERVICE, "s3-replication").await?;
        role.ok_or_else(|| Obstacle::Always(format!("the role {arn} is gone, or does not trust {SERVICE}")))
    }

    async fn may(&self, txn: &Txn, role: &Caller, permissions: &[Permission]) -> Result<(), Obstacle> {
        let facts = RequestFacts {
            now: self.clock.now(),
            region: self.region.clone(),
            secure: true,
            ..RequestFacts::default()
        };
        Ok(self.iam.authorize_in(txn, role, permissions, &facts).await?)
    }

    async fn check_source(
        &self,
        txn: &Txn,
        role: &Caller,
        order: &Order,
        entry: &Entry,
        subject: &Subject,
    ) -> Result<(), Obstacle> {
        let source = ops::find_bucket(txn, &order.bucket)?.filter(|bucket| bucket.id == entry.place.bucket);
        let source = source.ok_or_else(|| Obstacle::Always("the bucket is gone".to_owned()))?;
        let policy = guard::of(txn, &source)?.policy;
        let on = |permission: &str| {
            let arn = Arn::s3(format_args!("{}/{}", source.name(), entry.place.key));
            Permission::on(permission, arn).owned_by(source.account, policy.clone())
        };
        let mut permissions = vec![on("s3:GetObjectVersionForReplication")];
        if matches!(subject, Subject::Version(head) if !head.meta.tags.is_empty()) {
            permissions.push(on("s3:GetObjectVersionTagging"));
        }
        self.may(txn, role, &permissions).await
    }

    async fn copy_here(
        &self,
        txn: &Txn,
        role: &Caller,
        order: &Order,
        entry: &Entry,
        subject: Subject,
        name: &str,
    ) -> Result<(), Obstacle> {
        let always = |text: String| Obstacle::Always(text);
        let bucket = ops::find_bucket(txn, name)?.ok_or_else(|| always(format!("there is no bucket {name}")))?;
        if versioning::versioning(txn, bucket.id)? != Versioning::Enabled {
            return Err(always(format!("versioning of the bucket {name} is not switched on")));
        }
        let policy = guard::of(txn, &bucket)?.policy;
        let on = |permission: &str| {
            let arn = Arn::s3(format_args!("{name}/{}", entry.place.key));
            Permission::on(permission, arn).owned_by(bucket.account, policy.clone())
        };
        let to = Place::new(bucket.id, entry.place.key.as_str());
        match subject {
            Subject::Marker(marker) => {
                self.may(txn, role, &[on("s3:ReplicateDelete")]).await?;
                let notes = self.notes(txn, &bucket, role, &to, Event::DeleteMarkerCreated)?;
                self.backend.replicate_marker(&to, &marker, notes).await?;
            }
            Subject::Version(head) => {
                let mut permissions = vec![on("s3:ReplicateObject")];
                if !head.meta.tags.is_empty() {
                    permissions.push(on("s3:ReplicateTags"));
                }
                self.may(txn, role, &permissions).await?;
                let is_new = self.backend.head(&to, Some(&entry.version)).await?.found().is_none();
                if is_new && order.kind == Kind::Change {
                    return Ok(());
                }
                if is_new {
                    quota::room(txn, &*self.backend, &bucket, Some(head.size), 1).await?;
                }
                let has_lock = settings::peek::<LockSetting>(txn, bucket.id)?.is_some();
                if !head.lock.is_none() && !has_lock {
                    return Err(always(format!("the bucket {name} has no object lock")));
                }
                let source =
                    Source { place: entry.place.clone(), version: entry.version.clone(), etag: head.etag.clone() };
                let notes = self.notes(txn, &bucket, role, &to, Event::Put)?;
                let encryption = self.encryption_of_copy(txn, &head, &entry.place, &to, &bucket).await?;
                // A copy is the bucket owner's, whoever wrote what it is a copy of.
                let meta = ObjectMeta {
                    acl: None,
                    encryption,
                    replication: Some(ReplicationStatus::Replica),
                    ..(*head.meta).clone()
                };
                let keep_out = engine::forbidden(txn, bucket.account)?;
                let new = NewReplica { meta, lock: head.lock, notes, keep_out };
                match self.backend.replicate(&source, &to, new).await {
                    // It was removed meanwhile.
                    Err(BackendError::SourceChanged) => {}
                    made => drop(made?),
                }
            }
        }
        Ok(())
    }

    /// The bytes stay as they are sealed; their key is sealed again for the place of the copy.
    async fn encryption_of_copy(
        &self,
        txn: &Txn,
        head: &ObjectHead,
        from: &Place,
        to: &Place,
        bucket: &Bucket,
    ) -> Result<Option<Box<Encryption>>, Obstacle> {
        let Some(encryption) = &head.meta.encryption else {
            if settings::peek::<DefaultEncryption>(txn, bucket.id)?.is_none() {
                return Ok(None);
            }
            let text = format!("the version is not encrypted, and the bucket {} encrypts what it gets", bucket.name());
            return Err(Obstacle::Always(text));
        };
        if encryption.method != Method::S3 {
            return Err(Obstacle::Always("the version is not under the store's key".to_owned()));
        }
        let key = keys::unwrap_under_store_key(txn, &encryption.wrapped, from)?;
        let under = keys::for_new_objects(self.iam.store(), &*self.ids, self.clock.now()).await?;
        let wrapped = keys::wrap_under_store_key(&under, &key, to, &*self.ids);
        Ok(Some(Box::new(Encryption { method: Method::S3, wrapped })))
    }

    fn notes(&self, txn: &Txn, bucket: &Bucket, role: &Caller, at: &Place, event: Event) -> Result<Vec<Note>, Error> {
        let Some(rules) = settings::peek_shared::<NotificationRules>(txn, bucket.id)? else { return Ok(Vec::new()) };
        let cause = Cause { principal: &role.user_id, source_ip: None, request_id: "" };
        rules.notes(txn, &at.key, &[event], cause)
    }

    /// Says to the source's targets that a version has failed.
    async fn tell_of_failure(&self, entry: &Entry) {
        let txn = self.iam.store().stale();
        let told = settings::peek_shared::<NotificationRules>(&txn, entry.place.bucket).and_then(|rules| {
            rules.map_or(Ok(Vec::new()), |rules| {
                rules.notes(&txn, &entry.place.key, &[Event::ReplicationFailed], Cause::SERVICE)
            })
        });
        let told = match told {
            Ok(notes) if notes.is_empty() => return,
            Ok(notes) => self.backend.tell(&entry.place, Some(&entry.version), notes).await.map_err(Error::from),
            Err(error) => Err(error),
        };
        if let Err(error) = told {
            tracing::warn!(%error, "nobody was told that a version was not replicated");
        }
    }

    async fn copy_away(
        &self,
        txn: &Txn,
        order: &Order,
        entry: &Entry,
        subject: Subject,
        name: &str,
    ) -> Result<(), Obstacle> {
        let target = target::find(txn, name)?.filter(|target| target.is_for(order.owner));
        let target = target.ok_or_else(|| Obstacle::Always(format!("there is no target {name}")))?;
        if !super::may_copy_to(txn, name, order.owner)? {
            let text = format!("the account has a sovereignty policy, and nobody has stated where {name} is");
            return Err(Obstacle::Always(text));
        }
        let target::Destination::S3(s3) = target.tenant.place.clone() else {
            return Err(Obstacle::Always(format!("{name} is no foreign S3")));
        };
        super::foreign_copy::copy(self, order, entry, subject, s3).await
    }
}
