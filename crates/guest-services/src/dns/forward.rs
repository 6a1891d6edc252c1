//! Asking the operator's resolvers, as the client asked: its bytes under an id of our own, from a port of its own.

use hickory_proto::op::{Message, OpCode, ResponseCode};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use terroir_types::{IdSource, OsRandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Question;

/// For one upstream; then the next one is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// Upstreams asked for one query.
const UPSTREAMS: usize = 3;
/// Queries outside at a time, of all guests together.
const AT_A_TIME: usize = 256;
const LARGEST_UDP_ANSWER: usize = 4096;

#[derive(Debug, Clone)]
pub struct Forwarder {
    places: Arc<Semaphore>,
    port: u16,
}

impl Forwarder {
    /// Upstreams are asked at `port`, 53 in production.
    pub fn new(port: u16) -> Self {
        Self { places: Arc::new(Semaphore::new(AT_A_TIME)), port }
    }

    /// The answer's bytes, at most as large as the client takes. SERVFAIL if no upstream answers in time, REFUSED when
    /// too many queries wait.
    pub async fn ask(&self, question: &Question, upstreams: &[IpAddr], tcp: bool) -> Vec<u8> {
        let Ok(_place) = self.places.try_acquire() else {
            return failure(question, ResponseCode::Refused);
        };
        for upstream in upstreams.iter().take(UPSTREAMS) {
            let address = SocketAddr::new(*upstream, self.port);
            let asked = if tcp {
                timeout(PATIENCE, ask_tcp(question, address)).await
            } else {
                timeout(PATIENCE, ask_udp(question, address)).await
            };
            match asked {
                Ok(Ok(mut answer)) => {
                    answer[..2].copy_from_slice(&question.id.to_be_bytes());
                    return fit(answer, question.payload);
                }
                Ok(Err(error)) => tracing::debug!(%upstream, %error, "upstream resolver"),
                Err(_) => tracing::debug!(%upstream, "upstream resolver does not answer in time"),
            }
        }
        failure(question, ResponseCode::ServFail)
    }
}

fn failure(question: &Question, code: ResponseCode) -> Vec<u8> {
    let mut message = Message::error_msg(question.id, OpCode::Query, code);
    if let Ok(query) = Message::from_vec(&question.bytes) {
        message.queries = query.queries;
        message.metadata.recursion_desired = query.metadata.recursion_desired;
    }
    message.metadata.recursion_available = true;
    message.to_vec().unwrap_or_default()
}

fn fit(answer: Vec<u8>, payload: u16) -> Vec<u8> {
    if answer.len() <= usize::from(payload) {
        return answer;
    }
    // Large and not parseable: nothing a client could use.
    Message::from_vec(&answer).map_or_else(|_| Vec::new(), |message| super::fitted(message, payload))
}

fn renumbered(question: &Question) -> (u16, Vec<u8>) {
    let mut id = [0; 2];
    OsRandom.fill(&mut id);
    let mut bytes = question.bytes.clone();
    bytes[..2].copy_from_slice(&id);
    (u16::from_be_bytes(id), bytes)
}

/// Whether `answer` is one to the question: same id, a response, same name and type.
fn fits_question(answer: &[u8], id: u16, question: &Question) -> bool {
    match (Message::from_vec(answer), Message::from_vec(&question.bytes)) {
        (Ok(answer), Ok(query)) => {
            answer.metadata.id == id
                && answer.metadata.message_type == hickory_proto::op::MessageType::Response
                && answer.queries == query.queries
        }
        _ => false,
    }
}

async fn ask_udp(question: &Question, upstream: SocketAddr) -> std::io::Result<Vec<u8>> {
    let any: IpAddr = match upstream {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // Connected: the kernel drops what comes from elsewhere.
    socket.connect(upstream).await?;
    let (id, bytes) = renumbered(question);
    socket.send(&bytes).await?;
    let mut buffer = vec![0; LARGEST_UDP_ANSWER];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if fits_question(&buffer[..length], id, question) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(question: &Question, upstream: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    let (id, bytes) = renumbered(question);
    let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    if fits_question(&answer, id, question) {
        Ok(answer)
    } else {
        Err(std::io::Error::other("an answer to another question"))
    }
}
