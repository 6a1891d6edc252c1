//! Bytes of images and snapshots, kept by object storage in a bucket that no S3 caller can name.

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use sha2::{Digest, Sha256};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use terroir_block_storage::aws::{ObjectFacts, ObjectSource};
use terroir_block_storage::model::ObjectRef;
use terroir_block_storage::ops::BlobSource;
use terroir_compute::gateway::BlobStore;
use terroir_object_storage::backend::{BoxError, BucketId, Delete, ObjectBackend, OpenObject, Place, Put};
use terroir_store::Store;
use terroir_types::{AccountId, Error};
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use crate::admin_api::StoredBlob;

#[derive(Clone)]
pub struct Blobs {
    backend: Arc<dyn ObjectBackend>,
    store: Store,
}

/// Bytes that tell an image's format.
const HEAD_BYTES: usize = 4096;

fn system(name: &str) -> Place {
    Place::new(BucketId::SYSTEM, name)
}

impl Blobs {
    pub fn new(backend: Arc<dyn ObjectBackend>, store: Store) -> Self {
        Self { backend, store }
    }

    /// Keeps a stream under a name, durably.
    ///
    /// Errors: those of the disk, of the stream, and `InvalidDigest` if `name` ends in another SHA-256 than its own.
    pub async fn put(
        &self,
        name: &str,
        body: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
    ) -> Result<StoredBlob, Error> {
        let seen = Arc::new(Mutex::new((Sha256::new(), 0_u64)));
        let recorder = Arc::clone(&seen);
        let body = body.inspect_ok(move |chunk| {
            let mut seen = recorder.lock().unwrap_or_else(PoisonError::into_inner);
            seen.0.update(chunk);
            seen.1 += chunk.len() as u64;
        });
        self.backend.put(&system(name), Box::pin(body), Put::plain()).await?;
        let (digest, size_bytes) = {
            let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            (seen.0.clone(), seen.1)
        };
        let sha256 = hex::encode(digest.finalize());
        if let Some((_, wanted)) = name.rsplit_once('/').filter(|(_, last)| last.len() == sha256.len())
            && wanted != sha256
        {
            self.remove(name).await?;
            return Err(Error::invalid(
                "InvalidDigest",
                format!("{name} holds other bytes: their SHA-256 is {sha256}"),
            ));
        }
        Ok(StoredBlob { size_bytes, sha256 })
    }

    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        self.backend.delete(&system(name), Delete::default()).await?;
        Ok(())
    }

    async fn open(&self, source: &BlobSource) -> Result<OpenObject, Error> {
        let place = match source {
            BlobSource::Stored { name } => system(name),
            BlobSource::Object { account, object } => self.place(*account, &object.bucket, &object.key).await?,
        };
        let found = self.backend.open(&place, None).await?.found();
        found.ok_or_else(|| Error::not_found("NoSuchKey", format!("{} is not there", place.key)))
    }

    /// An object of an account's own bucket.
    async fn place(&self, account: AccountId, bucket: &str, key: &str) -> Result<Place, Error> {
        let txn = self.store.read().await?;
        let found = terroir_object_storage::ops::find_bucket(&txn, bucket)?.filter(|found| found.account == account);
        match found {
            Some(bucket) => Ok(Place::new(bucket.id, key)),
            None => Err(Error::not_found("NoSuchBucket", format!("The specified bucket does not exist: {bucket}"))),
        }
    }
}

#[async_trait]
impl BlobStore for Blobs {
    async fn read(&self, blob: &BlobSource) -> Result<Pin<Box<dyn AsyncRead + Send>>, Error> {
        let object = self.open(blob).await?;
        let stream = object.stream_all().map_err(std::io::Error::other);
        Ok(Box::pin(StreamReader::new(stream)))
    }
}

#[async_trait]
impl ObjectSource for Blobs {
    async fn take_over(&self, account: AccountId, object: &ObjectRef, blob: &str) -> Result<ObjectFacts, Error> {
        let ObjectRef { bucket, key } = object;
        let place = self.place(account, bucket, key).await?;
        let found = self.backend.open(&place, None).await?.found();
        let found = found.ok_or_else(|| {
            Error::not_found("NoSuchKey", format!("The specified key does not exist: {bucket}/{key}"))
        })?;
        let head = Arc::new(Mutex::new(Vec::new()));
        let recorder = Arc::clone(&head);
        let body = found.stream_all().inspect_ok(move |chunk| {
            let mut head = recorder.lock().unwrap_or_else(PoisonError::into_inner);
            let missing = HEAD_BYTES.saturating_sub(head.len());
            head.extend_from_slice(&chunk[..chunk.len().min(missing)]);
        });
        let StoredBlob { size_bytes, sha256 } = self.put(blob, body).await?;
        let head = std::mem::take(&mut *head.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(ObjectFacts { size_bytes, sha256, head })
    }

    async fn forget(&self, blob: &str) -> Result<(), Error> {
        self.remove(blob).await
    }
}
