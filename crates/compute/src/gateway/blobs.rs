use async_trait::async_trait;
use std::pin::Pin;
use terroir_agent_api::RoleCredentials;
use terroir_block_storage::ops::BlobSource;
use terroir_types::{AccountId, Error, InstanceId};
use tokio::io::AsyncRead;

/// Where the bytes of images and snapshots are.
#[async_trait]
pub trait BlobStore: Send + Sync {
    /// Errors: a `NotFound` class error if there is no such blob.
    async fn read(&self, blob: &BlobSource) -> Result<Pin<Box<dyn AsyncRead + Send>>, Error>;
}

/// Issues credentials of instance profiles.
#[async_trait]
pub trait RoleCredentialSource: Send + Sync {
    /// `profile` is an id, `AIPA...`. None if the profile or its role is gone, or does not trust EC2.
    async fn credentials(
        &self,
        account: AccountId,
        profile: &str,
        instance: InstanceId,
    ) -> Result<Option<RoleCredentials>, Error>;
}
