//! Requests to proxies: HTTPS, signed with Signature Version 4 as service `kms-xks-proxy`, and with a client certificate
//! where the operator has one.

use async_trait::async_trait;
use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Identity, Url};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use terroir_iam::sigv4::{PathRule, Scope, SigningKey, canonical_request, payload_hash, string_to_sign};
use terroir_types::Clock;

use super::{Fault, Proxies, ProxyAnswer};
use crate::model::Proxy;

const SERVICE: &str = "kms-xks-proxy";
/// For connection, request and answer together.
const DEADLINE: Duration = Duration::from_millis(1500);
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// How proxies are reached.
#[derive(Debug, Clone, Default)]
pub struct XksOptions {
    pub region: String,
    /// PEM of the authorities that may vouch for proxies; none: the machine's, as many as there are.
    pub authorities: Option<Vec<u8>>,
    /// PEM of the certificate that is shown to proxies which ask for one, and of its key.
    pub identity: Option<Vec<u8>>,
    /// Networks, besides public addresses, in which a proxy may be. The address is a tenant's to choose, and nothing inside
    /// is to be reached by it unless the operator says so.
    pub networks: Vec<IpNet>,
}

/// Over HTTPS. A cheap handle.
#[derive(Clone)]
pub struct XksClient {
    http: reqwest::Client,
    region: String,
    clock: Arc<dyn Clock>,
}

impl XksClient {
    /// # Errors
    /// A certificate or key that cannot be read.
    pub fn new(options: XksOptions, clock: Arc<dyn Clock>) -> Result<Self, String> {
        // Somebody else may have chosen the same provider before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(DEADLINE)
            .dns_resolver(Guarded { networks: options.networks.into() });
        let authorities = match &options.authorities {
            Some(pem) => Certificate::from_pem_bundle(pem).map_err(|error| format!("authorities: {error}"))?,
            None => {
                let machine = rustls_native_certs::load_native_certs().certs;
                machine.iter().filter_map(|der| Certificate::from_der(der).ok()).collect()
            }
        };
        builder = builder.tls_certs_only(authorities);
        if let Some(pem) = &options.identity {
            builder =
                builder.identity(Identity::from_pem(pem).map_err(|error| format!("client certificate: {error}"))?);
        }
        let http = builder.build().map_err(|error| error.to_string())?;
        Ok(Self { http, region: options.region, clock })
    }

    /// Host, time and signature of a request.
    fn sign(&self, proxy: &Proxy, url: &Url, body: &[u8]) -> Option<[(&'static str, String); 3]> {
        let now = self.clock.now();
        let date = now.to_amz_date();
        let host = match url.port() {
            Some(port) => format!("{}:{port}", url.host_str()?),
            None => url.host_str()?.to_owned(),
        };
        let request =
            http::Request::post(url.path()).header("host", &host).header("x-amz-date", &date).body(()).ok()?;
        let (parts, ()) = request.into_parts();
        let names = ["host".to_owned(), "x-amz-date".to_owned()];
        let scope = Scope { date: date.get(..8)?.to_owned(), region: self.region.clone(), service: SERVICE.to_owned() };
        let canonical = canonical_request(&parts, &names, &payload_hash(body), PathRule::Double).ok()?;
        let key = SigningKey::derive(proxy.secret.expose(), &scope);
        let signature = key.sign(&string_to_sign(now, &scope, &canonical));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders=host;x-amz-date, Signature={signature}",
            proxy.access_key_id
        );
        Some([("host", host), ("x-amz-date", date), ("authorization", authorization)])
    }
}

#[async_trait]
impl Proxies for XksClient {
    async fn post(&self, proxy: &Proxy, path: &str, body: Vec<u8>) -> Result<ProxyAnswer, Fault> {
        let url = Url::parse(&format!("{}{}{path}", proxy.endpoint, proxy.path)).map_err(|_| Fault::Unreachable)?;
        // An address would not pass by the resolver, which knows where proxies may be.
        if url.domain().is_none() {
            return Err(Fault::Unreachable);
        }
        let headers = self.sign(proxy, &url, &body).ok_or(Fault::Unreachable)?;
        let mut request = self.http.post(url).header("content-type", "application/json").body(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let mut answer = request.send().await.map_err(|error| fault(&error))?;
        let status = answer.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| fault(&error))? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ANSWER_BYTES {
                return Err(Fault::Malformed);
            }
        }
        Ok(ProxyAnswer { status, body })
    }
}

fn fault(error: &reqwest::Error) -> Fault {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut of_tls = false;
    while let Some(cause) = source {
        of_tls |= cause.is::<rustls::Error>();
        let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        of_tls |= inner.is_some_and(|inner| inner.is::<rustls::Error>());
        source = cause.source();
    }
    let fault = match () {
        () if of_tls => Fault::Tls,
        () if error.is_timeout() => Fault::TimedOut,
        () if error.is_connect() => Fault::Unreachable,
        () => Fault::Malformed,
    };
    tracing::debug!(%error, ?fault, "a request to an external key store failed");
    fault
}

/// Finds addresses of names, and keeps those in which nobody has a proxy to himself.
struct Guarded {
    networks: Arc<[IpNet]>,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let networks = Arc::clone(&self.networks);
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found.filter(|address| may_be_reached(address.ip(), &networks)).collect();
            if allowed.is_empty() {
                return Err("no address of this name may be reached".into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

fn may_be_reached(address: IpAddr, networks: &[IpNet]) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
        || match address {
            IpAddr::V4(address) => is_public_v4(address),
            IpAddr::V6(address) => is_public_v6(address),
        }
}

/// Outside of what IANA's registry of special-purpose addresses keeps from the Internet.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = matches!(
        (a, b, c),
        (0 | 10 | 127, _, _)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 168, _)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
            | (224..=255, _, _)
    );
    !special
}

/// Global unicast, without the ranges for documentation and those that hold IPv4 addresses.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    a & 0xe000 == 0x2000 && !matches!((a, b), (0x2001, 0xdb8 | 0) | (0x2002, _))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_proxy_may_be() {
        let inside = ["10.1.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()];
        for (address, by_itself, with_networks) in [
            ("9.9.9.9", true, true),
            ("10.1.2.3", false, true),
            ("10.2.2.3", false, false),
            ("127.0.0.1", false, false),
            ("169.254.169.254", false, false),
            ("100.100.0.1", false, false),
            ("172.31.0.1", false, false),
            ("192.168.1.1", false, false),
            ("0.0.0.0", false, false),
            ("224.0.0.1", false, false),
            ("::ffff:10.1.2.3", false, true),
            ("::ffff:127.0.0.1", false, false),
            ("::1", false, false),
            ("fd00::1", false, true),
            ("fe80::1", false, false),
            ("2620:fe::fe", true, true),
            ("2002:7f00:1::", false, false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(may_be_reached(address, &[]), by_itself, "{address}");
            assert_eq!(may_be_reached(address, &inside), with_networks, "{address}");
        }
    }
}
