//! Requests to targets. Where they go the operator has said: redirects are not followed and no proxy is asked.

use bytes::Bytes;
use reqwest::{Certificate, Client, Response, StatusCode, redirect};
use std::time::Duration;
use terroir_types::Error;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a whole message to a webhook, until its answer's head is there.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two pieces of an answer.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
const IDLE_CONNECTIONS: usize = 32;

/// Why a request came to nothing; says nothing of what the other side wrote.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    #[error("{0}")]
    Unreachable(String),
    #[error("it answered {0}")]
    Answered(StatusCode),
    /// An error in S3's words.
    #[error("it answered {status} {code}")]
    Refused { status: StatusCode, code: String },
    /// What was asked for cannot be asked over HTTP, or makes no sense.
    #[error("{0}")]
    Impossible(String),
}

/// Speaks HTTP to targets. A cheap handle.
#[derive(Clone)]
pub struct Outbound(Client);

impl Outbound {
    /// Trusts the machine's authorities, as many as there are: a machine without any has targets over HTTP only.
    ///
    /// # Errors
    /// `Internal` if no client can be made.
    pub fn new() -> Result<Self, Error> {
        // Fails when the process has chosen one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let authorities = rustls_native_certs::load_native_certs().certs;
        let client = Client::builder()
            .tls_certs_only(authorities.iter().filter_map(|der| Certificate::from_der(der).ok()))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(STALL_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .user_agent(concat!("Terroir/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Error::internal(format_args!("the HTTP client: {}", reason(&error))))?;
        Ok(Self(client))
    }

    /// Sends a document; what is answered to it is not read.
    ///
    /// # Errors
    /// Anything but a status of 2xx.
    pub async fn post(&self, url: &str, headers: http::HeaderMap, body: Bytes) -> Result<(), OutboundError> {
        let request = self.0.post(url).headers(headers).body(body).timeout(MESSAGE_TIMEOUT);
        let answer = request.send().await.map_err(|error| OutboundError::Unreachable(reason(&error)))?;
        if answer.status().is_success() { Ok(()) } else { Err(OutboundError::Answered(answer.status())) }
    }
}

impl Outbound {
    /// Sends a signed request as it is.
    pub(crate) async fn send(
        &self,
        request: http::Request<Bytes>,
        limit: Option<Duration>,
    ) -> Result<Response, OutboundError> {
        let target = request.uri().to_string();
        let mut request =
            reqwest::Request::try_from(request).map_err(|error| OutboundError::Impossible(reason(&error)))?;
        // URLs drop the dots of paths; what was signed would be another one.
        if request.url().as_str() != target {
            return Err(OutboundError::Impossible("no URL can have this key in its path".to_owned()));
        }
        *request.timeout_mut() = limit;
        self.0.execute(request).await.map_err(|error| OutboundError::Unreachable(reason(&error)))
    }
}

/// With its causes, which say what went wrong; without the address, which may have a token in it.
fn reason(error: &reqwest::Error) -> String {
    let mut text = match () {
        () if error.is_timeout() => "it did not answer in time".to_owned(),
        () if error.is_connect() => "it cannot be reached".to_owned(),
        () => "the request failed".to_owned(),
    };
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
