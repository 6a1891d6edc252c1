//! Which bucket a request is for, by its host and its path.

use http::header::HOST;
use http::request::Parts;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use s3s::S3Result;
use s3s::host::{S3Host, VirtualHost};
use s3s::path::{S3Path, parse_path_style, parse_virtual_hosted_style};

/// Names below which a host's first labels are a bucket: `BUCKET.DOMAIN`.
#[derive(Debug, Clone)]
pub(super) struct Domains(Vec<String>);

impl Domains {
    pub(super) fn new(domains: impl IntoIterator<Item = String>) -> Self {
        let mut domains: Vec<_> = domains.into_iter().map(|domain| domain.to_ascii_lowercase()).collect();
        // `a.s3.localhost` is bucket `a` below `s3.localhost`, not `a.s3` below `localhost`.
        domains.sort_by_key(|domain| std::cmp::Reverse(domain.len()));
        Self(domains)
    }

    /// The domain and the bucket in front of it. `host` may have a port.
    fn split(&self, host: &str) -> Option<(&str, String)> {
        let lower = without_port(host).to_ascii_lowercase();
        self.0.iter().find_map(|domain| {
            let bucket = lower.strip_suffix(domain.as_str())?.strip_suffix('.')?;
            (!bucket.is_empty()).then(|| (domain.as_str(), bucket.to_owned()))
        })
    }

    /// The bucket in a host's name.
    pub(super) fn bucket_of_host(&self, parts: &Parts) -> Option<String> {
        Some(self.split(host(parts)?)?.1)
    }

    /// Where a request goes; none if its address is no valid one.
    pub(super) fn locate(&self, parts: &Parts) -> Option<S3Path> {
        let path = percent_decode_str(parts.uri.path()).decode_utf8().ok()?;
        match self.bucket_of_host(parts) {
            Some(bucket) => parse_virtual_hosted_style(Some(&bucket), &path).ok(),
            None => parse_path_style(&path).ok(),
        }
    }
}

impl S3Host for Domains {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        Ok(match self.split(host) {
            Some((domain, bucket)) => VirtualHost::new(domain).with_bucket(bucket),
            None => VirtualHost::new(without_port(host)),
        })
    }
}

/// What of a key stands in a path as it is.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// The path of an object, encoded.
pub(super) fn path_of(bucket: &str, key: &str) -> String {
    format!("/{bucket}/{}", utf8_percent_encode(key, KEPT))
}

impl Domains {
    /// The whole address of an object, at the host that the request came to.
    pub(super) fn url_of(&self, parts: &Parts, secure: bool, bucket: &str, key: &str) -> String {
        let Some(named) = host(parts) else { return path_of(bucket, key) };
        let path = match self.bucket_of_host(parts) {
            Some(_) => format!("/{}", utf8_percent_encode(key, KEPT)),
            None => path_of(bucket, key),
        };
        format!("{}://{named}{path}", if secure { "https" } else { "http" })
    }
}

/// The host that a request names, with its port.
pub(super) fn host(parts: &Parts) -> Option<&str> {
    let named = parts.headers.get(HOST).and_then(|value| value.to_str().ok());
    named.or_else(|| parts.uri.authority().map(http::uri::Authority::as_str))
}

fn without_port(host: &str) -> &str {
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    name.map_or(host, |(name, _)| name)
}
