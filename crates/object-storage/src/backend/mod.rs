//! Where object bytes and their index are kept.
//!
//! [`ObjectBackend`] is what the S3 front needs of a place for objects, and no more: it knows neither accounts nor
//! permissions, and a bucket is a number to it. [`local`] keeps objects on this machine's disk. A log of segments or a
//! foreign S3 endpoint can stand in its place.
//!
//! What every backend promises:
//! - A write that returned is on stable storage, with everything that is needed to find it again.
//! - An object is replaced at once: a reader sees the old one or the new one, whole, also while it streams.
//! - Versions of a key are in the order in which their writes took effect (see [`Versioning`]).
//! - A condition on a write is decided together with the write: of several creations that ask for absence one wins.
//! - What failed or was given up leaves nothing that can be seen.

pub mod local;
mod lock;
mod outbox;
mod replica;
mod types;
mod version;

pub use lock::*;
pub use outbox::*;
pub use replica::*;
pub use types::*;
pub use version::*;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use std::ops::Range;
use std::pin::Pin;

use crate::acl::Acl;

/// The bytes of an object, in pieces of any size. An error ends it.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>;
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One version of an object, held so that it stays readable when it is replaced or deleted meanwhile.
pub trait Content: Send + Sync + 'static {
    /// The bytes in `range` of what is stored, which is more than the object's size where it is sealed.
    fn stream(&self, range: Range<u64>) -> ByteStream;

    /// The parts that a multipart upload was completed from, none for other objects.
    fn parts(&self) -> &[PartOfObject];
}

/// An object that was found, with access to its bytes.
pub struct OpenObject {
    pub head: ObjectHead,
    pub content: Box<dyn Content>,
}

impl OpenObject {
    /// Bytes of the object. Of one that is encrypted there is only an error here: see [`crate::encryption`].
    pub fn stream(&self, range: Range<u64>) -> ByteStream {
        if self.head.meta.encryption.is_some() {
            let error = BackendError::Damaged("an encrypted object was read without its key".to_owned());
            return Box::pin(futures::stream::once(async { Err(error.into()) }));
        }
        self.content.stream(range)
    }

    pub fn stream_all(&self) -> ByteStream {
        self.stream(0..self.head.size)
    }
}

#[async_trait]
pub trait ObjectBackend: Replicas {
    /// First half of deleting a bucket: from here on nothing can be written to it.
    ///
    /// # Errors
    /// `BucketNotEmpty` if it holds a version or a delete marker; uploads in progress do not count.
    async fn close_bucket(&self, bucket: BucketId) -> Result<(), BackendError>;

    /// Second half: either the bucket is gone for good, or it opens again.
    async fn settle_bucket(&self, bucket: BucketId, gone: bool) -> Result<(), BackendError>;

    /// Buckets that were closed and not settled, because the process ended in between.
    async fn closed_buckets(&self) -> Result<Vec<BucketId>, BackendError>;

    async fn put(&self, at: &Place, body: ByteStream, put: Put) -> Result<ObjectHead, BackendError>;

    /// `version`: none for the object, that is the newest version.
    async fn head(&self, at: &Place, version: Option<&VersionId>) -> Result<Lookup<ObjectHead>, BackendError>;

    async fn open(&self, at: &Place, version: Option<&VersionId>) -> Result<Lookup<OpenObject>, BackendError>;

    /// Copies a version without changing its bytes or its checksum. Neither may be encrypted.
    ///
    /// # Errors
    /// `SourceChanged` if the source is gone, or its ETag is no longer the one that is named.
    async fn copy(&self, from: &Source, to: &Place, copy: NewCopy) -> Result<ObjectHead, BackendError>;

    /// Replaces the tags of an object, or of one version; gives the version whose tags they are now. `notes` are kept
    /// with the change.
    ///
    /// # Errors
    /// `NoSuchKey`, `NoSuchVersion`, `IsDeleteMarker`.
    async fn set_tags(
        &self,
        at: &Place,
        version: Option<&VersionId>,
        tags: StringMap,
        notes: Vec<Note>,
    ) -> Result<VersionId, BackendError>;

    /// Replaces the access control list of one version.
    ///
    /// # Errors
    /// As for [`Self::set_tags`].
    async fn set_acl(
        &self,
        at: &Place,
        version: &VersionId,
        acl: Option<Acl>,
        notes: Vec<Note>,
    ) -> Result<VersionId, BackendError>;

    /// Changes what keeps an object, or one version; gives the version that it keeps. `notes` are kept with the change.
    ///
    /// # Errors
    /// `NoSuchKey`, `NoSuchVersion`, `IsDeleteMarker`, `Locked`.
    async fn change_lock(
        &self,
        at: &Place,
        version: Option<&VersionId>,
        change: LockChange,
        notes: Vec<Note>,
    ) -> Result<VersionId, BackendError>;

    /// Deletes an object or one version. That there is nothing to delete is no error.
    ///
    /// # Errors
    /// `Locked`; `PreconditionFailed` and `NoSuchKey` by the condition.
    async fn delete(&self, at: &Place, delete: Delete) -> Result<Deleted, BackendError>;

    async fn list(&self, bucket: BucketId, list: List) -> Result<Listing, BackendError>;

    async fn list_versions(&self, bucket: BucketId, list: ListVersions) -> Result<VersionListing, BackendError>;

    async fn usage(&self, bucket: BucketId) -> Result<BucketUsage, BackendError>;

    async fn create_upload(&self, at: &Place, new: NewUpload) -> Result<Upload, BackendError>;

    async fn upload(&self, at: &Place, id: &str) -> Result<Option<Upload>, BackendError>;

    async fn put_part(
        &self,
        at: &Place,
        upload: &str,
        body: ByteStream,
        part: NewPart,
    ) -> Result<PartHead, BackendError>;

    /// The parts with numbers above `after`, at most `limit`, and whether there are more.
    async fn list_parts(
        &self,
        at: &Place,
        upload: &str,
        after: u16,
        limit: usize,
    ) -> Result<(Vec<PartHead>, bool), BackendError>;

    async fn list_uploads(&self, bucket: BucketId, list: ListUploads) -> Result<UploadListing, BackendError>;

    /// Makes one object of an upload's parts. A repeat after success answers the same.
    async fn complete_upload(
        &self,
        at: &Place,
        upload: &str,
        complete: CompleteUpload,
    ) -> Result<ObjectHead, BackendError>;

    async fn abort_upload(&self, at: &Place, upload: &str) -> Result<(), BackendError>;
}
