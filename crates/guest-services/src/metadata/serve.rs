//! HTTP for one VPC's guests.

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use std::convert::Infallible;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use terroir_types::{Clock, IdSource, InterfaceId, VpcId};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::token::{LONGEST_LIFE, TokenKey};
use super::tree;
use crate::limit::Limiter;
use crate::snapshot::Current;

const TOKEN: &str = "x-aws-ec2-metadata-token";
const TOKEN_LIFE: &str = "x-aws-ec2-metadata-token-ttl-seconds";

const CONNECTIONS_PER_VPC: usize = 256;
const REQUESTS_PER_SECOND: u32 = 200;
/// For a request's head, and so for how long a connection may idle.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
const CONNECTION_DEADLINE: Duration = Duration::from_secs(120);
const LARGEST_HEAD: usize = 16 * 1024;
const MOST_HEADERS: usize = 64;
/// Of every packet but those of an answer with a token.
const ORDINARY_HOPS: u8 = 64;

/// What all VPCs' sockets share.
#[derive(Clone)]
pub struct Service {
    pub current: Current,
    pub key: Arc<TokenKey>,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn IdSource>,
    pub limits: Arc<Mutex<Limiter<InterfaceId>>>,
}

impl Service {
    pub fn new(current: Current, key: TokenKey, clock: Arc<dyn Clock>, random: Arc<dyn IdSource>) -> Self {
        let limits = Limiter::new(REQUESTS_PER_SECOND, REQUESTS_PER_SECOND);
        Self { current, key: Arc::new(key), clock, random, limits: Arc::new(Mutex::new(limits)) }
    }
}

/// Serves a listener until the task is dropped.
pub async fn serve(listener: TcpListener, vpc: VpcId, service: Service) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_PER_VPC));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%vpc, %error, "metadata listener");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let service = service.clone();
        tokio::spawn(async move {
            let served = tokio::time::timeout(CONNECTION_DEADLINE, converse(stream, peer.ip(), vpc, service)).await;
            if let Ok(Err(error)) = served {
                tracing::debug!(%vpc, %peer, %error, "metadata connection");
            }
            drop(place);
        });
    }
}

async fn converse(stream: TcpStream, peer: IpAddr, vpc: VpcId, service: Service) -> Result<(), hyper::Error> {
    // A second descriptor, to set the hop limit while hyper owns the first.
    let hops = stream.as_fd().try_clone_to_owned().ok().map(Arc::new);
    let respond = service_fn(move |request: Request<Incoming>| {
        let (service, hops) = (service.clone(), hops.clone());
        async move {
            let (response, limit) = service.answer(&request, vpc, peer);
            if let Some(fd) = hops {
                set_hop_limit(&fd, limit);
            }
            Ok::<_, Infallible>(response)
        }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(LARGEST_HEAD)
        .max_headers(MOST_HEADERS)
        .serve_connection(TokioIo::new(stream), respond)
        .await
}

fn set_hop_limit(fd: &OwnedFd, hops: u8) {
    // IPv4 only: 169.254.169.254 is the only address there is.
    if let Err(errno) = setsockopt(fd, sockopt::Ipv4Ttl, &i32::from(hops)) {
        tracing::warn!(%errno, "hop limit of a metadata connection");
    }
}

impl Service {
    /// The response, and the hop limit of its packets.
    fn answer<B>(&self, request: &Request<B>, vpc: VpcId, peer: IpAddr) -> (Response<Full<Bytes>>, u8) {
        let index = self.current.get();
        let (Some(seen), Some(network)) = (index.by_address(vpc, peer), index.vpc(vpc)) else {
            return (page(StatusCode::NOT_FOUND), ORDINARY_HOPS);
        };
        let options = &seen.guest.metadata.options;
        if !self.limits.lock().unwrap_or_else(PoisonError::into_inner).take(seen.interface.id, Instant::now()) {
            return (page(StatusCode::SERVICE_UNAVAILABLE), ORDINARY_HOPS);
        }
        if !options.enabled {
            return (page(StatusCode::FORBIDDEN), ORDINARY_HOPS);
        }
        let instance = seen.guest.instance;
        let path = request.uri().path();
        match *request.method() {
            Method::PUT if path.trim_end_matches('/') == "/latest/api/token" => {
                let now = self.clock.now();
                let response = match token_life(request.headers()) {
                    Ok(life) => token(&self.key.issue(vpc, instance, now, life, &*self.random), life),
                    Err(status) => page(status),
                };
                (response, options.hop_limit)
            }
            Method::GET | Method::HEAD => {
                let left = match request.headers().get(TOKEN) {
                    Some(token) => self.key.check(token.as_bytes(), vpc, instance, self.clock.now()),
                    None if options.tokens_required => None,
                    None => Some(0),
                };
                let Some(left) = left else { return (page(StatusCode::UNAUTHORIZED), ORDINARY_HOPS) };
                let content = decoded(path).and_then(|path| tree::find(&path, index.snapshot(), seen, &network.cidrs));
                let response = content.map_or_else(|| page(StatusCode::NOT_FOUND), |content| file(content, left));
                (response, ORDINARY_HOPS)
            }
            _ => (page(StatusCode::METHOD_NOT_ALLOWED), ORDINARY_HOPS),
        }
    }
}

/// Seconds that a token shall live. A proxy says that it is one: whoever asks through it is not the guest.
fn token_life(headers: &HeaderMap) -> Result<u32, StatusCode> {
    if headers.contains_key("x-forwarded-for") {
        return Err(StatusCode::FORBIDDEN);
    }
    let life = headers.get(TOKEN_LIFE).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    life.filter(|life| (1..=LONGEST_LIFE).contains(life)).ok_or(StatusCode::BAD_REQUEST)
}

fn decoded(path: &str) -> Option<String> {
    percent_encoding::percent_decode_str(path).decode_utf8().ok().map(|path| path.into_owned())
}

fn respond(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::SERVER, HeaderValue::from_static("EC2ws"));
    response
}

fn file(content: tree::Content, token_left: i64) -> Response<Full<Bytes>> {
    let mut response = respond(StatusCode::OK, content.kind, content.bytes);
    response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("none"));
    if token_left > 0 {
        response.headers_mut().insert(TOKEN_LIFE, HeaderValue::from(token_left));
    }
    response
}

fn token(token: &str, life: u32) -> Response<Full<Bytes>> {
    let mut response = respond(StatusCode::OK, "text/plain", token.to_owned());
    response.headers_mut().insert(TOKEN_LIFE, HeaderValue::from(life));
    response
}

/// EC2's error page.
fn page(status: StatusCode) -> Response<Full<Bytes>> {
    let title = format!("{} - {}", status.as_str(), status.canonical_reason().unwrap_or("Error"));
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n\
         <!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.0 Transitional//EN\"\n\
         \t\"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd\">\n\
         <html xmlns=\"http://www.w3.org/1999/xhtml\" xml:lang=\"en\" lang=\"en\">\n\
         \x20<head>\n  <title>{title}</title>\n </head>\n <body>\n  <h1>{title}</h1>\n </body>\n</html>\n"
    );
    respond(status, "text/html", body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use http_body_util::BodyExt;
    use terroir_types::{ManualClock, OsRandom, Timestamp};

    fn service() -> (Service, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::at(Timestamp::from_secs(1_700_000_000)));
        let key = TokenKey::generate(&OsRandom);
        let current = Current::new(sample::index());
        (Service::new(current, key, clock.clone(), Arc::new(OsRandom)), clock)
    }

    /// Status, hop limit and body; the guest is `VPC/LAST`.
    fn ask(service: &Service, guest: (u32, u8), line: &str, headers: &[(&str, &str)]) -> (u16, u8, String) {
        let (method, path) = line.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let peer = IpAddr::from([10, 0, 0, guest.1]);
        let (response, hops) = service.answer(&request, sample::vpc(guest.0), peer);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (parts, body) = response.into_parts();
        let body = runtime.block_on(body.collect()).unwrap().to_bytes();
        (parts.status.as_u16(), hops, String::from_utf8_lossy(&body).into_owned())
    }

    const WEB: (u32, u8) = (1, 11);
    const PLAIN: (u32, u8) = (1, 12);
    const OFF: (u32, u8) = (2, 11);
    const NOBODY: (u32, u8) = (2, 12);

    #[test]
    fn sessions() {
        let (service, clock) = service();
        let life: &[(&str, &str)] = &[("X-aws-ec2-metadata-token-ttl-seconds", "60")];
        let put = "PUT /latest/api/token";
        let id = "GET /latest/meta-data/instance-id";
        let (status, hops, token) = ask(&service, PLAIN, put, life);
        assert_eq!((status, hops), (200, 1), "the answer with a token goes one hop");
        let session: &[(&str, &str)] = &[(TOKEN, &token)];
        assert_eq!(ask(&service, PLAIN, id, session), (200, 64, "i-0000000000000010c".to_owned()));
        assert_eq!(ask(&service, WEB, id, session).0, 401, "another guest's token");
        clock.advance(Duration::from_secs(61));
        assert_eq!(ask(&service, PLAIN, id, session).0, 401, "an ended token");
        type Headers<'a> = &'a [(&'a str, &'a str)];
        let rows: &[(&str, (u32, u8), &str, Headers<'_>, u16)] = &[
            ("version 1 where tokens are required", PLAIN, id, &[], 401),
            ("version 1 where they are not", WEB, id, &[], 200),
            ("a wrong token where none is required", WEB, id, &[(TOKEN, "x")], 401),
            ("no life", WEB, put, &[], 400),
            ("a life too short", WEB, put, &[("X-aws-ec2-metadata-token-ttl-seconds", "0")], 400),
            ("a life too long", WEB, put, &[("X-aws-ec2-metadata-token-ttl-seconds", "21601")], 400),
            ("a life that is no number", WEB, put, &[("X-aws-ec2-metadata-token-ttl-seconds", "1h")], 400),
            ("the longest life", WEB, put, &[("X-aws-ec2-metadata-token-ttl-seconds", "21600")], 200),
            (
                "through a proxy",
                WEB,
                put,
                &[("X-aws-ec2-metadata-token-ttl-seconds", "60"), ("X-Forwarded-For", "a")],
                403,
            ),
            ("another method", WEB, "POST /latest/meta-data/", &[], 405),
            ("a token elsewhere", WEB, "PUT /latest/meta-data/", life, 405),
            ("nothing there", WEB, "GET /latest/meta-data/nothing", &[], 404),
            ("no user data", PLAIN, "GET /latest/user-data", &[], 401),
            ("a path in escapes", WEB, "GET /latest/meta%2Ddata/instance-id", &[], 200),
            ("a path that is no UTF-8", WEB, "GET /latest/%ff", &[], 404),
            ("switched off", OFF, id, &[], 403),
            ("switched off, a token", OFF, put, life, 403),
            ("nobody's address", NOBODY, id, &[], 404),
        ];
        for (what, guest, line, headers, status) in rows {
            assert_eq!(ask(&service, *guest, line, headers).0, *status, "{what}");
        }
        assert!(ask(&service, PLAIN, id, &[]).2.contains("<title>401 - Unauthorized</title>"));
    }

    /// What a raw request over TCP gets; the guest has the loopback address.
    fn raw(request: &[u8]) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut snapshot = sample::snapshot();
        snapshot.guests[0].interfaces[0].addresses.push(IpAddr::from([127, 0, 0, 1]));
        let (service, _) = service();
        service.current.set(crate::snapshot::Index::new(snapshot));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(serve(listener, sample::vpc(1), service));
            let mut stream = TcpStream::connect(address).await.unwrap();
            // The other side may close before it has read everything.
            let _ = stream.write_all(request).await;
            let mut answer = Vec::new();
            let read = stream.read_to_end(&mut answer);
            let _ = tokio::time::timeout(Duration::from_secs(15), read).await.expect("the connection ends");
            String::from_utf8_lossy(&answer).into_owned()
        })
    }

    #[test]
    fn hostile_requests_are_bounded() {
        let honest = raw(b"GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert!(honest.starts_with("HTTP/1.1 200 OK\r\n") && honest.contains("server: EC2ws\r\n"), "{honest}");
        assert!(honest.ends_with("\r\n\r\ni-0000000000000010b"), "{honest}");
        let many: String = (0..100).map(|n| format!("X-{n}: 1\r\n")).collect();
        let large = format!("GET / HTTP/1.1\r\nX-Large: {}\r\n\r\n", "x".repeat(100_000));
        for (what, request) in [
            ("too many headers", format!("GET / HTTP/1.1\r\n{many}\r\n").into_bytes()),
            ("a header too large", large.into_bytes()),
            ("no HTTP", b"\x16\x03\x01\r\n\r\n".to_vec()),
            ("a head that never ends", b"GET / HTTP/1.1\r\nHost".to_vec()),
        ] {
            let answer = raw(&request);
            assert!(!answer.contains(" 200 "), "{what}: {answer}");
        }
    }
}
