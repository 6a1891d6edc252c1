//! The VPC's resolver. Names of the cloud are answered from the snapshot; everything else goes to the operator's
//! upstreams, if there are any. A guest is answered for its own VPC only.
//!
//! | name | answer |
//! |---|---|
//! | `ip-A-B-C-D.REGION.compute.internal` | A.B.C.D, if the VPC's networks hold it |
//! | `D.C.B.A.in-addr.arpa` of such an address | the name above |
//! | `ec2-A-B-C-D.REGION.compute.terroir.internal` | the private address if it is a guest's of this VPC and host, else A.B.C.D |
//! | the rest of `internal`, reverse names of private networks | NXDOMAIN; never asked outside |

mod forward;
mod serve;

pub use forward::Forwarder;
pub use serve::{QUERIES_PER_SECOND, serve_tcp, serve_udp};

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr};
use terroir_types::VpcId;

use crate::snapshot::Index;

/// Seconds that an answer about the cloud's own names may be kept.
const TTL: u32 = 60;
/// What we say we can take over UDP, and the most we send: fits every link without fragments.
const UDP_PAYLOAD: u16 = 1232;

/// What to do with a query.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not a query, or nobody's business: no answer at all.
    Ignore,
    /// Answer with these bytes.
    Answer(Vec<u8>),
    /// Ask outside.
    Forward(Question),
}

/// A query that goes outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub id: u16,
    /// The query as it came.
    pub bytes: Vec<u8>,
    /// The largest answer that the client takes over UDP.
    pub payload: u16,
}

/// Decides about a query of a guest in `vpc`. `tcp`: no limit on the answer's size.
pub fn decide(bytes: &[u8], index: &Index, vpc: VpcId, tcp: bool) -> Verdict {
    let Ok(query) = Message::from_vec(bytes) else {
        return malformed(bytes);
    };
    if query.metadata.message_type != MessageType::Query {
        return Verdict::Ignore;
    }
    let Some(network) = index.vpc(vpc).filter(|network| network.dns_support) else {
        return Verdict::Ignore;
    };
    let payload = if tcp { u16::MAX } else { query.max_payload().clamp(512, UDP_PAYLOAD) };
    let fail = |code| Verdict::Answer(reply(&query, code, None, payload));
    if query.metadata.op_code != OpCode::Query {
        return fail(ResponseCode::NotImp);
    }
    let [question] = &query.queries[..] else {
        return fail(ResponseCode::FormErr);
    };
    if query.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return fail(ResponseCode::BADVERS);
    }
    if question.query_class() != DNSClass::IN || matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR) {
        return fail(ResponseCode::Refused);
    }
    match local(question.name(), index, vpc, &network.cidrs) {
        Local::Data(data) => {
            let matches = [data.record_type(), RecordType::ANY].contains(&question.query_type());
            let record = matches.then(|| Record::from_rdata(question.name().clone(), TTL, data));
            Verdict::Answer(reply(&query, ResponseCode::NoError, record, payload))
        }
        Local::Nothing => fail(ResponseCode::NXDomain),
        // The domain itself and names between it and a host.
        Local::Empty => fail(ResponseCode::NoError),
        Local::Elsewhere if index.snapshot().dns_upstreams.is_empty() => fail(ResponseCode::Refused),
        Local::Elsewhere => Verdict::Forward(Question { id: query.metadata.id, bytes: bytes.to_vec(), payload }),
    }
}

/// A query too broken to parse gets FORMERR if it has a header that says query.
fn malformed(bytes: &[u8]) -> Verdict {
    match bytes {
        [high, low, flags, ..] if bytes.len() >= 12 && flags & 0x80 == 0 => {
            let message = Message::error_msg(u16::from_be_bytes([*high, *low]), OpCode::Query, ResponseCode::FormErr);
            message.to_vec().map_or(Verdict::Ignore, Verdict::Answer)
        }
        _ => Verdict::Ignore,
    }
}

fn reply(query: &Message, code: ResponseCode, answer: Option<Record>, payload: u16) -> Vec<u8> {
    let mut message = Message::response(query.metadata.id, query.metadata.op_code);
    message.metadata = Metadata::response_from_request(&query.metadata);
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    // Several are no query, and repeating them could make the answer larger than what was asked.
    if let [question] = &query.queries[..] {
        message.queries = vec![question.clone()];
    }
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD).set_version(0);
        edns.set_rcode_high(code.high());
        message.edns = Some(edns);
    }
    match answer {
        Some(record) => {
            message.metadata.authoritative = true;
            message.answers.push(record);
        }
        None if matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) => {
            message.metadata.authoritative = true;
            message.authorities.extend(start_of_authority());
        }
        None => {}
    }
    fitted(message, payload)
}

/// Cut, and marked so, if it is larger than the client takes.
fn fitted(message: Message, payload: u16) -> Vec<u8> {
    match message.to_vec() {
        Ok(bytes) if bytes.len() <= usize::from(payload) => bytes,
        Ok(_) => message.truncate().to_vec().unwrap_or_default(),
        Err(_) => {
            Message::error_msg(message.metadata.id, OpCode::Query, ResponseCode::ServFail).to_vec().unwrap_or_default()
        }
    }
}

/// For how long "no such name" may be kept.
fn start_of_authority() -> Option<Record> {
    let zone = Name::from_ascii("internal.").ok()?;
    let soa = SOA::new(
        Name::from_ascii("ns.internal.").ok()?,
        Name::from_ascii("hostmaster.internal.").ok()?,
        1,
        3600,
        600,
        86_400,
        TTL,
    );
    Some(Record::from_rdata(zone, TTL, RData::SOA(soa)))
}

#[derive(Debug, PartialEq, Eq)]
enum Local {
    Data(RData),
    Nothing,
    Empty,
    Elsewhere,
}

fn local(name: &Name, index: &Index, vpc: VpcId, cidrs: &[IpNet]) -> Local {
    let labels: Vec<String> =
        name.iter().rev().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let region = index.snapshot().region.as_str();
    let inside = |address: Ipv4Addr| cidrs.iter().any(|net| net.contains(&IpAddr::V4(address)));
    match labels[..] {
        ["internal", "compute", r, host] if r == region => match dashed(host, "ip-") {
            Some(address) if inside(address) => Local::Data(RData::A(A(address))),
            _ => Local::Nothing,
        },
        ["internal", "terroir", "compute", r, host] if r == region => match dashed(host, "ec2-") {
            Some(public) => Local::Data(RData::A(A(index.private_of(vpc, public).unwrap_or(public)))),
            None => Local::Nothing,
        },
        ["internal"] | ["internal", "compute" | "terroir"] | ["internal", "terroir", "compute"] => Local::Empty,
        ["internal", "compute", r] | ["internal", "terroir", "compute", r] if r == region => Local::Empty,
        ["internal", ..] => Local::Nothing,
        ["arpa", "in-addr", ref octets @ ..] => reverse(octets, region, inside),
        _ => Local::Elsewhere,
    }
}

/// `PREFIXa-b-c-d`, every number in its shortest form.
fn dashed(host: &str, prefix: &str) -> Option<Ipv4Addr> {
    let text = host.strip_prefix(prefix)?.replace('-', ".");
    text.parse::<Ipv4Addr>().ok().filter(|address| address.to_string() == text)
}

/// `octets` from the first to the last.
fn reverse(octets: &[&str], region: &str, inside: impl Fn(Ipv4Addr) -> bool) -> Local {
    let numbers: Option<Vec<u8>> = octets.iter().map(|text| text.parse().ok()).collect();
    let Some(numbers) = numbers else { return Local::Elsewhere };
    if let [a, b, c, d] = numbers[..]
        && inside(Ipv4Addr::new(a, b, c, d))
    {
        let host = format!("ip-{a}-{b}-{c}-{d}.{region}.compute.internal.");
        return Name::from_ascii(host).map_or(Local::Nothing, |name| Local::Data(RData::PTR(PTR(name))));
    }
    // Who asks outside about private networks tells the outside how the inside looks.
    match numbers[..] {
        [10, ..] | [192, 168, ..] | [169, 254, ..] | [127, ..] => Local::Nothing,
        [172, b, ..] if (16..32).contains(&b) => Local::Nothing,
        [100, b, ..] if (64..128).contains(&b) => Local::Nothing,
        _ => Local::Elsewhere,
    }
}

#[cfg(test)]
mod tests;
