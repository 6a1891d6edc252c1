//! Telling targets of events: at least once, and for each key in the order in which its changes took effect.
//!
//! Each target has a queue of its own, so that one that is away keeps no other waiting. What a target does not take is
//! sent again, ever more slowly; meanwhile later events of the same key wait and those of other keys are tried. What it
//! has refused for a week is given up and counted.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderValue};
use sha2::Sha256;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use terroir_store::Store;
use terroir_types::{Clock, Error, Secret, Timestamp};
use tokio::time::Instant;

use super::message::{Subject, Told};
use crate::backend::{BucketId, Entry, Outbox};
use crate::outbound::{Outbound, OutboundError};
use crate::target::{self, Destination, Target};

const PAGE: usize = 256;
/// Messages to one target at once.
const AT_ONCE: usize = 16;
/// Keys that wait behind a message that was refused, beyond which the target is left alone for a while.
const MOST_BLOCKED: usize = 1000;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// Between two looks at the queues if nobody rings.
const LOOK_EVERY: Duration = Duration::from_secs(30);
const GIVE_UP_AFTER: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const PREFIX: &str = "events/";

/// Why a target does not get what waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub since: Timestamp,
    /// What went wrong last.
    pub error: String,
}

/// The worker. A cheap handle.
#[derive(Clone)]
pub struct Notifier(Arc<Inner>);

struct Inner {
    store: Store,
    outbox: Arc<dyn Outbox>,
    outbound: Outbound,
    clock: Arc<dyn Clock>,
    region: String,
    troubles: Mutex<BTreeMap<String, Trouble>>,
}

/// When a queue may be looked at again.
struct Pause {
    length: Duration,
    until: Instant,
}

/// What came of the entries of one key.
#[derive(Default)]
struct Sent {
    told: Vec<u64>,
    given_up: Vec<u64>,
    failure: Option<OutboundError>,
}

impl Notifier {
    pub fn new(
        store: Store,
        outbox: Arc<dyn Outbox>,
        outbound: Outbound,
        clock: Arc<dyn Clock>,
        region: String,
    ) -> Self {
        Self(Arc::new(Inner { store, outbox, outbound, clock, region, troubles: Mutex::default() }))
    }

    /// The targets that do not take what is sent to them, by name.
    pub fn troubles(&self) -> BTreeMap<String, Trouble> {
        self.0.troubles.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
        let sent = self.post(url, secret.as_ref(), &id, message.to_string().into()).await;
        sent.map_err(|error| Error::unavailable(format!("{}: {error}", target.name())))
    }

    /// Sends what is there, until `stop` is ready.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut bell = self.0.outbox.bell();
        let mut at_work = BTreeSet::new();
        let mut working = FuturesUnordered::new();
        let mut pauses: BTreeMap<String, Pause> = BTreeMap::new();
        loop {
            match self.0.outbox.queues().await {
                Ok(queues) => {
                    for queue in queues.into_iter().filter(|queue| queue.entries > 0) {
                        let Some(name) = queue.name.strip_prefix(PREFIX).map(str::to_owned) else { continue };
                        let waits = pauses.get(&name).is_some_and(|pause| pause.until > Instant::now());
                        if !waits && at_work.insert(name.clone()) {
                            working.push(async move {
                                let drained = self.drain(&name).await;
                                (name, drained)
                            });
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "the queues of events cannot be read; it is tried again"),
            }
            let now = Instant::now();
            let waiting = pauses.iter().filter(|(name, pause)| pause.until > now && !at_work.contains(*name));
            let look = waiting.map(|(_, pause)| pause.until).min().unwrap_or(now + LOOK_EVERY).min(now + LOOK_EVERY);
            tokio::select! {
                () = &mut stop => return,
                // The sender lives as long as the outbox that is held here.
                _ = bell.changed() => {}
                () = tokio::time::sleep_until(look) => {}
                Some((name, drained)) = working.next() => {
                    at_work.remove(&name);
                    self.note(&name, drained.as_ref().err());
                    match drained {
                        Ok(()) => drop(pauses.remove(&name)),
                        Err(_) => {
                            let length = pauses.get(&name).map_or(FIRST_PAUSE, |pause| (pause.length * 2).min(LONGEST_PAUSE));
                            pauses.insert(name, Pause { length, until: Instant::now() + length });
                        }
                    }
                }
            }
        }
    }

    fn note(&self, name: &str, error: Option<&Error>) {
        let mut troubles = self.0.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            None => {
                if troubles.remove(name).is_some() {
                    tracing::info!(target = name, "a target takes events again");
                }
            }
            Some(error) => {
                let text = error.internal_detail().unwrap_or_else(|| error.message()).to_owned();
                let since = match troubles.get(name) {
                    Some(trouble) => trouble.since,
                    None => {
                        tracing::warn!(target = name, error = text, "a target does not take events; they wait");
                        self.0.clock.now()
                    }
                };
                troubles.insert(name.to_owned(), Trouble { since, error: text });
            }
        }
    }

    /// Sends all that waits for one target.
    ///
    /// # Errors
    /// `Unavailable` if something is left.
    async fn drain(&self, name: &str) -> Result<(), Error> {
        let target = target::find(&self.0.store.stale(), name)?.ok_or_else(|| target::no_target(name))?;
        let queue = Target::event_queue(name);
        let mut blocked: HashSet<(BucketId, String)> = HashSet::new();
        let (mut after, mut failure) = (0, None);
        loop {
            let page = self.0.outbox.entries(&queue, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.number;
            let mut by_key: BTreeMap<(BucketId, String), Vec<Entry>> = BTreeMap::new();
            for entry in page {
                let key = (entry.place.bucket, entry.place.key.clone());
                if !blocked.contains(&key) {
                    by_key.entry(key).or_default().push(entry);
                }
            }
            let sending = by_key.into_iter().map(|(key, entries)| {
                let target = &target;
                async move { (key, self.send_in_order(target, entries).await) }
            });
            let mut sending = futures::stream::iter(sending).buffer_unordered(AT_ONCE);
            let (mut told, mut given_up) = (Vec::new(), Vec::new());
            while let Some((key, sent)) = sending.next().await {
                told.extend(sent.told);
                given_up.extend(sent.given_up);
                if let Some(error) = sent.failure {
                    failure = Some(error);
                    blocked.insert(key);
                }
            }
            drop(sending);
            let none_was_taken = told.is_empty();
            self.settle(&queue, told, given_up).await?;
            // A target that takes nothing is away; one that takes some is asked for the rest.
            if failure.is_some() && (none_was_taken || blocked.len() > MOST_BLOCKED) {
                break;
            }
        }
        failure.map_or(Ok(()), |error| Err(Error::unavailable(error.to_string())))
    }

    async fn settle(&self, queue: &str, told: Vec<u64>, given_up: Vec<u64>) -> Result<(), Error> {
        if !told.is_empty() {
            self.0.outbox.settle(queue, told, false).await?;
        }
        if !given_up.is_empty() {
            tracing::error!(queue, count = given_up.len(), "events were given up that nobody took for a week");
            self.0.outbox.settle(queue, given_up, true).await?;
        }
        Ok(())
    }

    async fn send_in_order(&self, target: &Target, entries: Vec<Entry>) -> Sent {
        let mut sent = Sent::default();
        for entry in entries {
            match self.send(target, &entry).await {
                Ok(()) => sent.told.push(entry.number),
                Err(_) if self.0.clock.now() > entry.at.plus(GIVE_UP_AFTER) => sent.given_up.push(entry.number),
                Err(error) => {
                    sent.failure = Some(error);
                    break;
                }
            }
        }
        sent
    }

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
        let message = told.message(entry, Subject { region: &self.0.region, owner_id: &owner_id });
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
        let seconds = self.0.clock.now().secs().to_string();
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
        self.0.outbound.post(url, headers, body).await
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
