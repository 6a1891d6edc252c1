//! The endpoint's certificate: read from two files, read again when they change or on SIGHUP, while connections go on.

use std::fs;
use std::future::Future;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use terroir_pki::{CertificateFacts, CurrentCertificate, Handshakes, PkiError};
use terroir_types::Secret;
use tokio::signal::unix::{SignalKind, signal};

/// How often the files are looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Handshakes at once; more wait.
const HANDSHAKES: usize = 256;
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// Why a certificate cannot be used; a sentence that names the file.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("{name} = '{}': {error} (the control plane's user must be able to read it)", path.display())]
    Unreadable { name: &'static str, path: PathBuf, error: std::io::Error },
    #[error("tls_cert = '{}': {error}", path.display())]
    Unusable { path: PathBuf, error: PkiError },
}

/// What tells a changed file: inode, size, time of change.
type Stamp = [Option<(u64, u64, i64, i64)>; 2];

struct Found {
    stamp: Stamp,
    facts: CertificateFacts,
    /// Why the files as they are now are not used.
    problem: Option<String>,
}

/// The two files, and what of them is in use.
pub struct CertificateFiles {
    certificate: PathBuf,
    key: PathBuf,
    current: Arc<CurrentCertificate>,
    found: Mutex<Found>,
}

impl CertificateFiles {
    /// # Errors
    /// [`CertificateError`].
    pub fn open(certificate: &Path, key: &Path) -> Result<Arc<Self>, CertificateError> {
        let stamp = stamp(certificate, key);
        let (first, facts) = read(certificate, key)?;
        Ok(Arc::new(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            current: CurrentCertificate::new(first),
            found: Mutex::new(Found { stamp, facts, problem: None }),
        }))
    }

    /// For [`crate::ApiServer::serve`].
    ///
    /// # Errors
    /// If TLS cannot be set up at all.
    pub fn handshakes(&self) -> Result<Handshakes, PkiError> {
        let config = terroir_pki::api_config(Arc::clone(&self.current))?;
        Ok(Handshakes::new(config, HANDSHAKES, HANDSHAKE_DEADLINE))
    }

    /// Of the certificate in use.
    pub fn facts(&self) -> CertificateFacts {
        self.lock().facts.clone()
    }

    /// Why the files as they are now are not used; none: they are.
    pub fn problem(&self) -> Option<String> {
        self.lock().problem.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the files over if they have changed. Those that cannot be used leave what was; a renewal writes one file
    /// after the other, and is complete at a later look.
    pub fn look(&self) {
        let stamp = stamp(&self.certificate, &self.key);
        if self.lock().stamp != stamp {
            self.take(stamp);
        }
    }

    fn take(&self, stamp: Stamp) {
        match read(&self.certificate, &self.key) {
            Ok((next, facts)) => {
                self.current.replace(next);
                tracing::info!(until = facts.until.to_rfc3339_seconds(), "the certificate was read again");
                *self.lock() = Found { stamp, facts, problem: None };
            }
            Err(error) => {
                tracing::warn!(%error, "the certificate stays the one from before");
                let mut found = self.lock();
                found.stamp = stamp;
                found.problem = Some(format!("{error}; the certificate from before is still in use"));
            }
        }
    }

    /// Looks at the files every `every`, and takes them over on SIGHUP, until `shutdown`.
    pub async fn run(&self, every: Duration, shutdown: impl Future<Output = ()>) {
        let mut look = tokio::time::interval(every);
        let mut asked = signal(SignalKind::hangup()).ok();
        let mut hung_up = async move || match &mut asked {
            Some(asked) => asked.recv().await,
            None => std::future::pending().await,
        };
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                _ = look.tick() => self.look(),
                _ = hung_up() => self.take(stamp(&self.certificate, &self.key)),
            }
        }
    }
}

fn stamp(certificate: &Path, key: &Path) -> Stamp {
    let of = |path: &Path| fs::metadata(path).ok().map(|m| (m.ino(), m.size(), m.mtime(), m.mtime_nsec()));
    [of(certificate), of(key)]
}

fn read(certificate: &Path, key: &Path) -> Result<(rustls::sign::CertifiedKey, CertificateFacts), CertificateError> {
    let text = |name, path: &Path| {
        fs::read_to_string(path).map_err(|error| CertificateError::Unreadable { name, path: path.to_owned(), error })
    };
    let chain = text("tls_cert", certificate)?;
    let key = Secret::new(text("tls_key", key)?);
    let unusable = |error| CertificateError::Unusable { path: certificate.to_owned(), error };
    let certified = terroir_pki::certified(&chain, &key).map_err(unusable)?;
    Ok((certified, terroir_pki::facts(&chain).map_err(unusable)?))
}
