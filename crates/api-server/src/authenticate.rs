//! Who sent a request: signature, scope, time and session, for the services whose actions are in the registry.

use std::time::Duration;
use terroir_action::Caller;
use terroir_aws_model::Service;
use terroir_iam::sigv4::{PathRule, Presented, SigningKey};
use terroir_iam::{Iam, RecentMap};
use terroir_store::Txn;
use terroir_types::Timestamp;

use crate::failure::Failure;

/// How far a client's clock may be off.
const SKEW: Duration = Duration::from_secs(300);
/// SDKs sign for this region where AWS has one endpoint for the world.
const GLOBAL_REGION: &str = "us-east-1";
const CACHED_KEYS: usize = 4096;

/// Checks signatures; keeps the signing keys of the day.
pub(crate) struct Authenticator {
    iam: Iam,
    region: String,
    /// By access key id and scope; each with the hash of the secret it was derived from.
    keys: RecentMap<(String, String), (String, SigningKey)>,
}

impl Authenticator {
    pub(crate) fn new(iam: Iam, region: String) -> Self {
        Self { iam, region, keys: RecentMap::new(CACHED_KEYS) }
    }

    /// `payload_hash`: SHA-256 of the body in hex.
    pub(crate) fn check(
        &self,
        txn: &Txn,
        service: Service,
        presented: &Presented,
        parts: &http::request::Parts,
        payload_hash: &str,
        now: Timestamp,
    ) -> Result<Caller, Failure> {
        let signature = |error| Failure::of_signature(service, &error);
        let authentication = |error| Failure::of_authentication(service, &error);
        let regions = [self.region.as_str(), GLOBAL_REGION];
        let accepted = if service == Service::Ec2 { &regions[..1] } else { &regions[..] };
        presented.check_scope_and_time(service.signing_name(), accepted, now, SKEW).map_err(signature)?;
        let key = self.signing_key(txn, presented).map_err(authentication)?;
        presented.verify(parts, payload_hash, PathRule::Double, &key).map_err(signature)?;
        self.iam
            .authenticate_in(txn, &presented.access_key_id, presented.session_token.as_deref())
            .map_err(authentication)
    }

    fn signing_key(&self, txn: &Txn, presented: &Presented) -> Result<SigningKey, terroir_iam::AuthenticationError> {
        let secret = self.iam.secret_in(txn, &presented.access_key_id)?;
        let secret_hash = terroir_iam::sigv4::payload_hash(secret.expose().as_bytes());
        let name = (presented.access_key_id.clone(), presented.scope.to_string());
        if let Some((hash, key)) = self.keys.get(&name)
            && hash == secret_hash
        {
            return Ok(key);
        }
        let key = SigningKey::derive(secret.expose(), &presented.scope);
        self.keys.insert(name, (secret_hash, key.clone()));
        Ok(key)
    }
}
