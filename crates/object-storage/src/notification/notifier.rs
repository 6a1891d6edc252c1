//! Sending events to targets. What a target does not take for a week is given up and counted.

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderValue};
use sha2::Sha256;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use terroir_store::Store;
use terroir_types::{Clock, Error, Secret};

use super::message::{Subject, Told};
use crate::backend::{Entry, Outbox};
use crate::delivery::{self, Carried, Carrier, GIVE_UP_AFTER, Trouble, Troubles};
use crate::outbound::{Outbound, OutboundError};
use crate::target::{self, Destination, Target};

/// The worker. A cheap handle.
#[derive(Clone)]
pub struct Notifier(Arc<Inner>);

struct Inner {
    store: Store,
    outbox: Arc<dyn Outbox>,
    outbound: Outbound,
    clock: Arc<dyn Clock>,
    region: String,
    troubles: Troubles,
}

#[async_trait]
impl Carrier for Inner {
    const PREFIX: &'static str = target::EVENTS;

    async fn carry(&self, queue: &str, entry: &Entry) -> Carried {
        let name = queue.strip_prefix(Self::PREFIX).unwrap_or_default();
        let target = match target::find(&self.store.stale(), name) {
            Ok(Some(target)) => target,
            // Its queue goes with it, or just after it.
            Ok(None) => return Carried::Later(target::no_target(name).to_string()),
            Err(error) => return Carried::Later(error.to_string()),
        };
        match self.send(&target, entry).await {
            Ok(()) => Carried::Done,
            Err(_) if self.clock.now() > entry.at.plus(GIVE_UP_AFTER) => Carried::GivenUp,
            Err(error) => Carried::Later(error.to_string()),
        }
    }
}

impl Notifier {
    pub fn new(
        store: Store,
        outbox: Arc<dyn Outbox>,
        outbound: Outbound,
        clock: Arc<dyn Clock>,
        region: String,
    ) -> Self {
        Self(Arc::new(Inner { store, outbox, outbound, clock, region, troubles: Troubles::default() }))
    }

    /// The queues of targets that do not take what is sent to them, by name.
    pub fn troubles(&self) -> BTreeMap<String, Trouble> {
        self.0.troubles.all()
    }

    /// Sends what is there, until `stop` is ready.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        let Inner { outbox, troubles, clock, .. } = &*self.0;
        delivery::run(&*self.0, &**outbox, troubles, &**clock, stop).await;
    }

    /// Sends one message that is about nothing.
    ///
    /// # Errors
    /// `Unavailable` with what went wrong.
    pub async fn try_out(&self, target: &Target) -> Result<(), Error> {
        let Destination::Webhook { url, secret } = &target.tenant.place else {
            return Err(Error::invalid("InvalidParameterValue", "it is told of no events"));
        };
        let now = self.0.clock.now();
        let message = serde_json::json!({
            "Service": "Amazon S3", "Event": "s3:TestEvent", "Time": now.to_rfc3339(),
            "Bucket": "", "RequestId": "", "HostId": "",
        });
        let id = format!("test_{}", now.millis());
        let sent = self.0.post(url, secret.as_ref(), &id, message.to_string().into()).await;
        sent.map_err(|error| Error::unavailable(format!("{}: {error}", target.name())))
    }
}

impl Inner {
    async fn send(&self, target: &Target, entry: &Entry) -> Result<(), OutboundError> {
        let Destination::Webhook { url, secret } = &target.tenant.place else { return Ok(()) };
        let told = match Told::unpack(&entry.body) {
            Ok(told) => told,
            Err(error) => {
                tracing::error!(%error, number = entry.number, "an event cannot be read and is passed over");
                return Ok(());
            }
        };
        let owner_id = crate::acl::canonical_id(told.owner);
        let message = told.message(entry, Subject { region: &self.region, owner_id: &owner_id });
        // The same for every attempt, so that the other side knows what it has seen.
        let id = format!("msg_{:018X}", entry.number);
        self.post(url, secret.as_ref(), &id, message.to_string().into()).await
    }

    async fn post(
        &self,
        url: &str,
        secret: Option<&Secret<String>>,
        id: &str,
        body: Bytes,
    ) -> Result<(), OutboundError> {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let seconds = self.clock.now().secs().to_string();
        let signature = secret.map(|secret| sign(secret.expose(), id, &seconds, &body));
        let named = [
            ("webhook-id", Some(id.to_owned())),
            ("webhook-timestamp", Some(seconds)),
            ("webhook-signature", signature),
        ];
        for (name, value) in named {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
                headers.insert(name, value);
            }
        }
        self.outbound.post(url, headers, body).await
    }
}

/// Source: "Standard Webhooks" 1.0.0. A secret that begins with `whsec_` is the key in Base64, any other one the key.
fn sign(secret: &str, id: &str, seconds: &str, body: &[u8]) -> String {
    let decoded = secret.strip_prefix("whsec_").and_then(|text| STANDARD.decode(text).ok());
    let key = decoded.unwrap_or_else(|| secret.as_bytes().to_vec());
    // HMAC takes keys of every length.
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes any key");
    mac.update(format!("{id}.{seconds}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let body = br#"{"test": 2432232314}"#;
        let signature = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
