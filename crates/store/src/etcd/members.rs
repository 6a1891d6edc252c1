//! The way to etcd's members: which of them is asked, for how long, and what their errors mean.
//!
//! One member is preferred until it fails or keeps silent; then the next one is, for all that ask afterwards. A member
//! that hangs (paused, cut off) is as good as dead after one attempt's patience.

use http::uri::PathAndQuery;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::client::Grpc;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;

use super::rpc::{Call, KEEP_ALIVE, LeaseKeepAliveRequest, LeaseKeepAliveResponse, WATCH, WatchRequest, WatchResponse};
use super::{EtcdOptions, EtcdTls};
use crate::StoreError;
use crate::engine::Revision;

/// How long one call goes on trying. Below the patience of the store, so that the reason is told and not only that it
/// took too long.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// How long one member may take for its answer, at first; later attempts wait longer, for members that are only slow.
const FIRST_ATTEMPT: Duration = Duration::from_secs(2);
const LAST_ATTEMPT: Duration = Duration::from_secs(6);
const CONNECT: Duration = Duration::from_secs(1);
/// etcd refuses pings that come more often than every five seconds.
const PING_INTERVAL: Duration = Duration::from_secs(6);
const PING_PATIENCE: Duration = Duration::from_secs(3);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// Why a member's answer is no success.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing was done, and asking again would not help.
    Refused(Refusal),
    /// Nobody knows whether it was done.
    Unknown(String),
}

#[derive(Debug)]
pub(super) enum Refusal {
    Compacted,
    FutureRevision,
    KeyNotFound,
    LeaseNotFound,
    LeaseExists,
    NoSpace,
    TooLarge(String),
    Other(String),
}

impl From<Refusal> for StoreError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoSpace => Self::DiskFull,
            Refusal::TooLarge(message) | Refusal::Other(message) => Self::Io(format!("etcd: {message}")),
            // Those who ask for what may be so say which revision or lease it was.
            Refusal::Compacted | Refusal::FutureRevision | Refusal::KeyNotFound | Refusal::LeaseNotFound => {
                Self::Io(format!("etcd: {refusal:?}"))
            }
            Refusal::LeaseExists => Self::Io("etcd: a lease of this number exists".to_owned()),
        }
    }
}

/// Errors of etcd have no codes of their own: the texts are those of its `rpctypes`.
fn failure(status: &Status) -> Failure {
    let text = status.message();
    let refusal = match status.code() {
        Code::OutOfRange if text.contains("required revision has been compacted") => Refusal::Compacted,
        Code::OutOfRange if text.contains("required revision is a future revision") => Refusal::FutureRevision,
        _ if text.contains("etcdserver: key not found") => Refusal::KeyNotFound,
        Code::NotFound if text.contains("requested lease not found") => Refusal::LeaseNotFound,
        _ if text.contains("lease already exists") => Refusal::LeaseExists,
        _ if text.contains("database space exceeded") => Refusal::NoSpace,
        _ if text.contains("too many operations in txn") || text.contains("request is too large") => {
            Refusal::TooLarge(text.to_owned())
        }
        Code::ResourceExhausted if text.contains("larger than max") => Refusal::TooLarge(text.to_owned()),
        Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented => {
            Refusal::Other(text.to_owned())
        }
        code => return Failure::Unknown(format!("{code:?}: {text}")),
    };
    Failure::Refused(refusal)
}

struct Member {
    url: String,
    calls: Channel,
    /// On a connection of its own: what watchers have not read yet holds up nobody else.
    watches: Channel,
}

pub(super) struct Members {
    members: Vec<Member>,
    preferred: AtomicUsize,
    /// The newest revision that any answer has told of.
    newest: watch::Sender<Revision>,
    closed: watch::Sender<bool>,
}

impl Members {
    pub(super) fn new(options: &EtcdOptions) -> Result<Self, StoreError> {
        let members = options.endpoints.iter().map(|url| member(url, options.tls.as_ref()));
        let members = members.collect::<Result<Vec<_>, _>>()?;
        if members.is_empty() {
            return Err(StoreError::Io("etcd: no endpoint is named".to_owned()));
        }
        Ok(Self {
            members,
            preferred: AtomicUsize::new(0),
            newest: watch::Sender::new(0),
            closed: watch::Sender::new(false),
        })
    }

    pub(super) fn close(&self) {
        self.closed.send_replace(true);
    }

    pub(super) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// What `work` gives, unless the engine is closed first.
    pub(super) async fn unless_closed<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let mut closed = self.closed.subscribe();
        tokio::select! {
            biased;
            // The sender lives as long as this call does.
            _ = closed.wait_for(|closed| *closed) => Err(StoreError::Closed),
            result = work => result,
        }
    }

    pub(super) fn saw(&self, revision: Revision) {
        self.newest.send_if_modified(|newest| {
            let newer = revision > *newest;
            *newest = revision.max(*newest);
            newer
        });
    }

    /// Tells of the revisions that other calls have seen.
    pub(super) fn newest(&self) -> watch::Receiver<Revision> {
        self.newest.subscribe()
    }

    pub(super) fn preferred(&self) -> usize {
        self.preferred.load(Ordering::Relaxed)
    }

    /// Makes the member after `number` the preferred one, unless somebody else has done so.
    pub(super) fn distrust(&self, number: usize, why: &str) {
        let next = (number + 1) % self.members.len();
        if self.preferred.compare_exchange(number, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() && next != number
        {
            tracing::warn!(member = self.members[number].url, next = self.members[next].url, why, "etcd: next member");
        }
    }

    /// One attempt at the preferred member.
    pub(super) async fn once<C: Call>(&self, call: &C, patience: Duration) -> Result<C::Answer, Failure> {
        let number = self.preferred();
        let answer = async {
            let mut grpc = client(&self.members[number].calls);
            grpc.ready().await.map_err(|error| Failure::Unknown(causes(&error)))?;
            let codec = ProstCodec::<C, C::Answer>::default();
            let answer = grpc.unary(tonic::Request::new(call.clone()), C::path(), codec).await;
            answer.map(tonic::Response::into_inner).map_err(|status| failure(&status))
        };
        let answer = timeout(patience, answer).await;
        let answer = answer.unwrap_or_else(|_| Err(Failure::Unknown(format!("no answer within {patience:?}"))));
        if let Err(Failure::Unknown(why)) = &answer {
            self.distrust(number, why);
        }
        answer
    }

    /// Asks until a member answers: only for calls that may be done twice.
    pub(super) async fn ask<C: Call>(&self, call: &C) -> Result<C::Answer, AskError> {
        self.ask_again(call, |_| false).await.map(|(answer, _)| answer)
    }

    /// Like [`Self::ask`], and whether there was more than one attempt. A refusal that `done` recognises in a later one
    /// is the work of an earlier one.
    pub(super) async fn ask_again<C: Call>(
        &self,
        call: &C,
        done: impl Fn(&Refusal) -> bool,
    ) -> Result<(C::Answer, bool), AskError> {
        let mut tries = Tries::new();
        loop {
            match self.once(call, tries.patience()).await {
                Ok(answer) => return Ok((answer, tries.count > 0)),
                Err(Failure::Refused(refusal)) if tries.count > 0 && done(&refusal) => {
                    return Ok((C::Answer::default(), true));
                }
                Err(Failure::Refused(refusal)) => return Err(AskError::Refused(refusal)),
                Err(Failure::Unknown(why)) => tries.again(why).await.map_err(AskError::Gone)?,
            }
        }
    }

    pub(super) async fn keep_alive(&self, id: i64, patience: Duration) -> Result<i64, Failure> {
        let number = self.preferred();
        let answer = async {
            let mut grpc = client(&self.members[number].calls);
            grpc.ready().await.map_err(|error| Failure::Unknown(causes(&error)))?;
            let codec = ProstCodec::<LeaseKeepAliveRequest, LeaseKeepAliveResponse>::default();
            let request = futures::stream::once(std::future::ready(LeaseKeepAliveRequest { id }));
            let path = PathAndQuery::from_static(KEEP_ALIVE);
            let answers = grpc.streaming(tonic::Request::new(request), path, codec).await;
            let message = answers.map_err(|status| failure(&status))?.into_inner().message().await;
            match message.map_err(|status| failure(&status))? {
                Some(answer) => Ok(answer.ttl_secs),
                None => Err(Failure::Unknown("the stream ended without an answer".to_owned())),
            }
        };
        let answer = timeout(patience, answer).await;
        let answer = answer.unwrap_or_else(|_| Err(Failure::Unknown(format!("no answer within {patience:?}"))));
        if let Err(Failure::Unknown(why)) = &answer {
            self.distrust(number, why);
        }
        answer
    }

    /// A watch at the preferred member, and which one that is. The member ends it when it has no leader any more.
    pub(super) async fn watch(&self, create: WatchRequest) -> (usize, Result<Streaming<WatchResponse>, String>) {
        let number = self.preferred();
        let start = async {
            let mut grpc = client(&self.members[number].watches);
            grpc.ready().await.map_err(|error| causes(&error))?;
            let requests = futures::stream::once(std::future::ready(create));
            // The end of the requests would be the end of the watch.
            let requests = futures::StreamExt::chain(requests, futures::stream::pending());
            let mut request = tonic::Request::new(requests);
            request.metadata_mut().insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
            let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
            let answers = grpc.streaming(request, PathAndQuery::from_static(WATCH), codec).await;
            answers.map(tonic::Response::into_inner).map_err(|status| status.to_string())
        };
        let started = timeout(FIRST_ATTEMPT, start).await;
        (number, started.unwrap_or_else(|_| Err(format!("no answer within {FIRST_ATTEMPT:?}"))))
    }
}

/// Why a question got no answer that it asked for.
#[derive(Debug)]
pub(super) enum AskError {
    Refused(Refusal),
    Gone(StoreError),
}

impl From<AskError> for StoreError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Refused(refusal) => refusal.into(),
            AskError::Gone(error) => error,
        }
    }
}

/// Attempts of one call, with pauses between and an end.
pub(super) struct Tries {
    deadline: Instant,
    pause: Duration,
    pub(super) count: u32,
}

impl Tries {
    pub(super) fn new() -> Self {
        Self { deadline: Instant::now() + PATIENCE, pause: FIRST_PAUSE, count: 0 }
    }

    /// Of the next attempt.
    pub(super) fn patience(&self) -> Duration {
        let patience = (FIRST_ATTEMPT * (self.count + 1)).min(LAST_ATTEMPT);
        patience.min(self.deadline.saturating_duration_since(Instant::now()).max(FIRST_PAUSE))
    }

    /// Waits a little; an error with the last attempt's reason once time is up.
    pub(super) async fn again(&mut self, why: String) -> Result<(), StoreError> {
        if Instant::now() + self.pause >= self.deadline {
            return Err(StoreError::Io(format!("etcd: {why}")));
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LAST_PAUSE);
        self.count += 1;
        Ok(())
    }
}

fn client(channel: &Channel) -> Grpc<Channel> {
    // The server's limits are the ones that count.
    Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX)
}

fn member(url: &str, tls: Option<&EtcdTls>) -> Result<Member, StoreError> {
    let invalid = |error: &dyn std::fmt::Display| StoreError::Io(format!("etcd: '{url}' is no endpoint: {error}"));
    let mut endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| invalid(&error))?;
    match (endpoint.uri().scheme_str(), tls) {
        (Some("http"), None) => {}
        (Some("https"), tls) => {
            let tls = tls.map_or_else(ClientTlsConfig::new, tls_config);
            endpoint = endpoint.tls_config(tls).map_err(|error| invalid(&causes(&error)))?;
        }
        (Some("http"), Some(_)) => return Err(invalid(&"there are certificates, so it must begin with https://")),
        _ => return Err(invalid(&"it must begin with https:// or http://")),
    }
    let endpoint = endpoint
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_PATIENCE)
        .http2_adaptive_window(true);
    Ok(Member { url: url.to_owned(), calls: endpoint.connect_lazy(), watches: endpoint.connect_lazy() })
}

fn tls_config(tls: &EtcdTls) -> ClientTlsConfig {
    let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.authorities));
    match &tls.identity {
        Some(identity) => config.identity(Identity::from_pem(&identity.certificate, &*identity.key)),
        None => config,
    }
}

/// tonic's own text is only "transport error".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
