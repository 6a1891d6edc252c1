//! What makes this machine a host of a region whose control plane is on other machines: a certificate, its key, and where
//! to dial. It is got with a token, and renewed when half of the certificate's life is over.
//!
//! ```text
//! token ──join──▶ member ──half of its life──▶ renewing ──▶ member
//!                   │                             └─ refused, or nobody answers: tried again until the end
//!                   └─ the certificate ends: only a new token helps; guests go on all the while
//! ```

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use terroir_agent_api::http::{HttpControlPlane, TlsDial};
use terroir_agent_api::{
    BlobSink, ControlPlane, CrossingError, Cursor, HostQuery, HostReport, JoinRequest, Membership, PROTOCOL_VERSION,
    QueryAnswer, RenewRequest, ReportAck, RoleCredentials, SpecPage,
};
use terroir_pki::{Fingerprint, HostKey, JoinToken};
use terroir_types::{Clock, HostId, InstanceId, Secret, Timestamp};

/// Tries to join, while nobody answers.
const TRIES: u32 = 5;
const TRY_PAUSE: Duration = Duration::from_secs(1);
/// Between two tries to renew: a tenth of what is left, within these.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// The clock may jump, so it is asked again at least so often.
const LONGEST_SLEEP: Duration = Duration::from_secs(600);

#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    membership: Membership,
    key_pem: Secret<String>,
}

/// Where it is kept: one file, so that key and certificate are always of each other.
#[derive(Debug, Clone)]
pub struct MembershipFile(PathBuf);

impl MembershipFile {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Whether this machine is a host of a region elsewhere.
    pub fn exists(&self) -> bool {
        self.0.exists()
    }

    fn read(&self) -> Result<Kept, String> {
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", self.0.display());
        let bytes = fs::read(&self.0).map_err(|error| named(&error))?;
        serde_json::from_slice(&bytes).map_err(|error| named(&error))
    }

    /// The key of a join whose answer may have been lost: with another one the same token would count no more.
    fn pending(&self) -> PathBuf {
        self.0.with_extension("joining")
    }

    fn pending_key(&self) -> Result<Option<Secret<String>>, String> {
        match fs::read_to_string(self.pending()) {
            Ok(text) => Ok(Some(Secret::new(text))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{}: {error}", self.pending().display())),
        }
    }

    fn keep(&self, kept: &Kept) -> Result<(), String> {
        let bytes = serde_json::to_vec(kept).map_err(|error| error.to_string())?;
        write(&self.0, &bytes)
    }
}

/// Whole or not at all, and for nobody else to read.
fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let fresh = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        File::open(path.parent().unwrap_or(path))?.sync_all()
    };
    write().map_err(|error| format!("{}: {error}", path.display()))
}

/// Makes this machine a host: with the token, once. The same token again, after an answer that was lost, is fine.
///
/// # Errors
/// A sentence that says what to do.
pub async fn join(file: &MembershipFile, host: HostId, token: &JoinToken) -> Result<Membership, String> {
    let text = |error: terroir_pki::PkiError| error.to_string();
    let key = match file.pending_key()? {
        Some(key) => HostKey::with_key(key).map_err(text)?,
        None => {
            let key = HostKey::create().map_err(text)?;
            write(&file.pending(), key.key_pem.expose().as_bytes())?;
            key
        }
    };
    let config = terroir_pki::joining_config(token.authority.clone()).map_err(text)?;
    let client = HttpControlPlane::with_dial(TlsDial::new(token.servers.clone(), config));
    let request = JoinRequest {
        protocol: PROTOCOL_VERSION,
        secret: token.secret.clone(),
        host,
        request_pem: key.request_pem.clone(),
    };
    let mut tries = 1;
    let membership = loop {
        match client.join(&request).await {
            Ok(membership) => break membership,
            Err(CrossingError::Unreachable(_)) if tries < TRIES => {}
            Err(CrossingError::Unreachable(why)) => return Err(format!("no server answers as the token's: {why}")),
            Err(CrossingError::Refused(why) | CrossingError::NotFound(why)) => return Err(why),
        }
        tries += 1;
        tokio::time::sleep(TRY_PAUSE).await;
    };
    if membership.host != host
        || Fingerprint::of_pem(&membership.authority_pem).map_err(text)? != token.authority
        || membership.servers.is_empty()
    {
        return Err("the server's answer is not about this host, or names another authority than the token".to_owned());
    }
    let kept = Kept { membership: membership.clone(), key_pem: key.key_pem };
    config_of(&kept)?;
    file.keep(&kept)?;
    fs::remove_file(file.pending()).map_err(|error| format!("{}: {error}", file.pending().display()))?;
    Ok(membership)
}

fn config_of(kept: &Kept) -> Result<Arc<rustls::ClientConfig>, String> {
    let Membership { authority_pem, certificate_pem, .. } = &kept.membership;
    terroir_pki::host_config(authority_pem, certificate_pem, &kept.key_pem).map_err(|error| error.to_string())
}

/// Whether the control plane answers, for whoever looks at this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkState {
    pub connected: bool,
    pub since: Timestamp,
    /// Why not.
    pub problem: Option<String>,
    pub region: String,
    pub site: String,
    pub servers: Vec<String>,
    pub certificate_until: Timestamp,
}

/// The control plane as a member reaches it. Keep [`Self::keep_fresh`] running beside it.
pub struct RemoteControl {
    file: MembershipFile,
    /// Where the state of the link is written when it changes.
    link: PathBuf,
    clock: Arc<dyn Clock>,
    kept: Mutex<Kept>,
    dial: Arc<TlsDial>,
    plane: HttpControlPlane,
    /// 0: not known, 1: connected, 2: not.
    seen: AtomicU8,
}

impl RemoteControl {
    /// # Errors
    /// A sentence for a file that cannot be used.
    pub fn open(file: MembershipFile, link: impl Into<PathBuf>, clock: Arc<dyn Clock>) -> Result<Arc<Self>, String> {
        let kept = file.read()?;
        let dial = TlsDial::new(kept.membership.servers.clone(), config_of(&kept)?);
        let plane = HttpControlPlane::with_dial(Arc::clone(&dial) as _);
        let (kept, seen) = (Mutex::new(kept), AtomicU8::new(0));
        Ok(Arc::new(Self { file, link: link.into(), clock, kept, dial, plane, seen }))
    }

    fn kept(&self) -> Kept {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Renews the certificate whenever half of its life is over. Ends with the task.
    pub async fn keep_fresh(&self) {
        loop {
            let kept = self.kept();
            let facts = match terroir_pki::facts(&kept.membership.certificate_pem) {
                Ok(facts) => facts,
                Err(error) => return tracing::error!(%error, "the certificate is not renewed"),
            };
            let now = self.clock.now();
            let due = facts.half_life().since(now);
            if !due.is_zero() {
                tokio::time::sleep(due.min(LONGEST_SLEEP)).await;
                continue;
            }
            match self.renew(&kept.membership).await {
                Ok(until) => tracing::info!(until = until.to_rfc3339_seconds(), "the host's certificate was renewed"),
                Err(why) => {
                    let left = facts.until.since(self.clock.now());
                    if left.is_zero() {
                        tracing::error!(why, "the host's certificate has ended: join again with a token for this host");
                    } else {
                        tracing::warn!(why, until = facts.until.to_rfc3339_seconds(), "not renewed yet");
                    }
                    let pause = if left.is_zero() { LONGEST_PAUSE } else { left / 10 };
                    tokio::time::sleep(pause.clamp(SHORTEST_PAUSE, LONGEST_PAUSE)).await;
                }
            }
        }
    }

    /// With a new key, so that a stolen one ends with its certificate.
    async fn renew(&self, member: &Membership) -> Result<Timestamp, String> {
        let key = HostKey::create().map_err(|error| error.to_string())?;
        let request = RenewRequest { host: member.host, request_pem: key.request_pem.clone() };
        let next = self.plane.renew(&request).await.map_err(|error| error.to_string())?;
        let known = Fingerprint::of_pem(&member.authority_pem).map_err(|error| error.to_string())?;
        let named = Fingerprint::of_pem(&next.authority_pem).map_err(|error| error.to_string())?;
        if next.host != member.host || named != known || next.servers.is_empty() {
            return Err("the answer is not about this host, or of another authority".to_owned());
        }
        let until = terroir_pki::facts(&next.certificate_pem).map_err(|error| error.to_string())?.until;
        let kept = Kept { membership: next, key_pem: key.key_pem };
        let config = config_of(&kept)?;
        self.file.keep(&kept)?;
        self.dial.replace(kept.membership.servers.clone(), config);
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        // The next answer writes the link's state anew.
        self.seen.store(0, Ordering::Relaxed);
        Ok(until)
    }

    fn note<T>(&self, answer: &Result<T, CrossingError>) {
        let (state, problem) = match answer {
            Ok(_) => (1, None),
            Err(error) => (2, Some(error.to_string())),
        };
        if self.seen.swap(state, Ordering::Relaxed) == state {
            return;
        }
        let Kept { membership, .. } = self.kept();
        let until = terroir_pki::facts(&membership.certificate_pem).map_or(Timestamp::EPOCH, |facts| facts.until);
        let link = LinkState {
            connected: state == 1,
            since: self.clock.now(),
            problem,
            region: membership.region,
            site: membership.site,
            servers: membership.servers,
            certificate_until: until,
        };
        let fresh = self.link.with_extension("new");
        let write = || -> std::io::Result<()> {
            fs::write(&fresh, serde_json::to_vec_pretty(&link)?)?;
            fs::rename(&fresh, &self.link)
        };
        if let Err(error) = write() {
            tracing::warn!(%error, "the state of the link is not written down");
        }
    }
}

#[async_trait]
impl ControlPlane for RemoteControl {
    async fn pull_spec(&self, host: HostId, cursor: Cursor, wait: Duration) -> Result<SpecPage, CrossingError> {
        let page = self.plane.pull_spec(host, cursor, wait).await;
        self.note(&page);
        page
    }

    async fn report(&self, report: HostReport) -> Result<ReportAck, CrossingError> {
        self.plane.report(report).await
    }

    async fn queries(&self, host: HostId, wait: Duration) -> Result<Vec<HostQuery>, CrossingError> {
        self.plane.queries(host, wait).await
    }

    async fn answer(&self, host: HostId, query: u64, answer: QueryAnswer) -> Result<(), CrossingError> {
        self.plane.answer(host, query, answer).await
    }

    async fn fetch_blob(&self, host: HostId, name: &str, sink: BlobSink<'_>) -> Result<(), CrossingError> {
        self.plane.fetch_blob(host, name, sink).await
    }

    async fn credentials(&self, host: HostId, instance: InstanceId) -> Result<RoleCredentials, CrossingError> {
        self.plane.credentials(host, instance).await
    }
}
