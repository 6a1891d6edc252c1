//! Objects in and out, side by side with Garage: one load generator for both, in alternating rounds.

use http::Method;
use std::sync::Arc;

use crate::Effort;
use crate::client::{Call, Endpoint, Measured, Payload, load};
use crate::cloud::Cloud;
use crate::garage::{self, Garage};
use crate::limits::{self, Way};
use crate::report::{Aim, Report};

pub const BUCKET: &str = "bench";
const MIB: usize = 1024 * 1024;
const CONNECTIONS: [usize; 3] = [1, 8, 32];
/// Garage holds 10,000 objects at most: those of the listing, the small and the large ones. A round that writes more
/// goes over the same keys again, and one that deletes ends when they are gone.
const LISTED: usize = 1000;
const SMALL_KEYS: usize = 8000;
/// Name, bytes and keys of the large ones.
const LARGE: [(&str, usize, usize); 2] = [("1 MiB", MIB, 256), ("64 MiB", 64 * MIB, 8)];

/// Of what disk and loopback allow, this share is enough.
const ENOUGH: f64 = 0.8;

/// One of those who are measured.
struct Side {
    endpoint: Endpoint,
    process: Option<Garage>,
}

/// Terroir first; then, if it is here, Garage as it comes, and Garage that waits for the disk.
pub struct Contest {
    sides: Vec<Side>,
    absent: &'static str,
    /// Rounds so far; nobody is always the first.
    turn: usize,
}

impl Contest {
    pub async fn begin(cloud: &Cloud, report: &mut Report) -> Result<Self, String> {
        let terroir = cloud.endpoint()?;
        terroir.call(terroir.s3(Method::PUT, &format!("/{BUCKET}"), &Payload::new(""))?).await?;
        let mut sides = vec![Side { endpoint: terroir, process: None }];
        let Some(program) = garage::program() else {
            return Ok(Self { sides, absent: garage::HOW_TO_INSTALL, turn: 0 });
        };
        let version = garage::version(&program)?;
        report
            .remark(&format!("{version}: one node, LMDB; with its defaults, then with metadata_fsync and data_fsync"));
        for syncs in [false, true] {
            let process = Garage::start(&program, syncs)?;
            sides.push(Side { endpoint: process.endpoint.clone(), process: Some(process) });
        }
        Ok(Self { sides, absent: "", turn: 0 })
    }

    /// A round for each side: `call(endpoint, number, keys)`, at most `most` of them, where a side has so many `keys`.
    async fn round(
        &mut self,
        connections: usize,
        effort: &Effort,
        keys: &[usize],
        most: Option<usize>,
        call: impl Fn(&Endpoint, usize, usize) -> Result<Call, String> + Send + Sync + 'static,
    ) -> Result<Vec<Measured>, String> {
        let call = Arc::new(call);
        let mut measured: Vec<Option<Measured>> = self.sides.iter().map(|_| None).collect();
        for step in 0..self.sides.len() {
            let at = (self.turn + step) % self.sides.len();
            let (side, keys, call) = (&self.sides[at], keys[at], Arc::clone(&call));
            let count = most.map_or(usize::MAX, |most| most.min(keys));
            let one = load(&side.endpoint, connections, count, effort.round, move |endpoint, number| {
                call(endpoint, number, keys)
            });
            let who = if side.process.is_some() { "Garage: " } else { "" };
            measured[at] = Some(one.await.map_err(|error| format!("{who}{error}"))?);
        }
        self.turn += 1;
        Ok(measured.into_iter().flatten().collect())
    }

    /// What Garage did, as often as the row of Terroir has it.
    fn note(&self, measured: &[Measured], factor: f64) -> String {
        let [terroir, rest @ ..] = measured else { return String::new() };
        let own = format!("p50 {:.2} ms, p99 {:.2} ms", terroir.quantile_ms(0.5), terroir.quantile_ms(0.99));
        let [plain, syncing] = rest else { return format!("{own}; {}", self.absent) };
        let of = |other: &Measured| {
            format!("{:.0} ({:.1} ×)", other.per_second() * factor, terroir.per_second() / other.per_second())
        };
        format!("Garage {}, with fsync {}; {own}", of(plain), of(syncing))
    }

    fn row(&self, report: &mut Report, what: &str, measured: &[Measured], mib: Option<f64>, aim: Aim, more: &str) {
        let (factor, unit) = mib.map_or((1.0, "/s"), |mib| (mib, "MiB/s"));
        let note = format!("{}{more}", self.note(measured, factor));
        report.figure(what, measured[0].per_second() * factor, unit, aim, &note);
    }
}

/// 4 KiB objects, and a listing.
pub async fn small(cloud: &Cloud, contest: &mut Contest, effort: &Effort, report: &mut Report) -> Result<(), String> {
    cloud.forget_peak("server")?;
    let (body, nothing) = (Payload::new(noise(4096)), Payload::new(""));
    let path = |number: usize| format!("/{BUCKET}/small/{number:06}");
    let endless = vec![SMALL_KEYS; contest.sides.len()];
    for many in CONNECTIONS {
        let body = body.clone();
        let put = contest.round(many, effort, &endless, None, move |endpoint, number, keys| {
            endpoint.s3(Method::PUT, &path(number % keys), &body)
        });
        let put = put.await.map_err(|error| format!("PUT 4 KiB: {error}"))?;
        let there: Vec<usize> = put.iter().map(|side| side.count().min(SMALL_KEYS)).collect();
        let with = async |contest: &mut Contest, method: Method, most: Option<usize>| {
            let nothing = nothing.clone();
            let name = method.clone();
            let round = contest.round(many, effort, &there, most, move |endpoint, number, keys| {
                endpoint.s3(method.clone(), &path(number % keys), &nothing)
            });
            round.await.map_err(|error| format!("{name} 4 KiB: {error}"))
        };
        let head = with(contest, Method::HEAD, None).await?;
        let get = with(contest, Method::GET, None).await?;
        let delete = with(contest, Method::DELETE, Some(SMALL_KEYS)).await?;
        let rates: Vec<f64> = put.iter().map(Measured::per_second).collect();
        let aim = match rates[..] {
            [_, plain, syncing] if many > 1 => Aim::AtLeast((2.0 * plain).max(10.0 * syncing)),
            _ => Aim::None,
        };
        contest.row(report, &format!("S3 PUT 4 KiB, {many} connections"), &put, None, aim, "");
        let aim = head.get(1).map_or(Aim::None, |plain| Aim::AtLeast(plain.per_second()));
        contest.row(report, &format!("S3 GET 4 KiB, {many} connections"), &get, None, aim, "");
        contest.row(report, &format!("S3 HEAD 4 KiB, {many} connections"), &head, None, Aim::None, "");
        contest.row(report, &format!("S3 DELETE 4 KiB, {many} connections"), &delete, None, Aim::None, "");
    }
    listing(contest, effort, &body, report).await?;
    peak(cloud, report, "4 KiB objects")
}

async fn listing(contest: &mut Contest, effort: &Effort, body: &Payload, report: &mut Report) -> Result<(), String> {
    let listed = vec![LISTED; contest.sides.len()];
    for side in &contest.sides {
        let body = body.clone();
        let put = load(&side.endpoint, 8, LISTED, effort.longest, move |endpoint, number| {
            endpoint.s3(Method::PUT, &format!("/{BUCKET}/listed/{number:06}"), &body)
        });
        put.await.map_err(|error| format!("PUT for LIST: {error}"))?;
    }
    let nothing = Payload::new("");
    for many in CONNECTIONS {
        let nothing = nothing.clone();
        let list = contest.round(many, effort, &listed, None, move |endpoint, _, _| {
            let query = [("list-type", "2"), ("max-keys", "1000"), ("prefix", "listed/")];
            endpoint.s3_query(&format!("/{BUCKET}"), &query, &nothing)
        });
        let list = list.await.map_err(|error| format!("LIST: {error}"))?;
        contest.row(report, &format!("S3 LIST of 1,000 keys, {many} connections"), &list, None, Aim::None, "");
    }
    Ok(())
}

/// 1 MiB and 64 MiB objects, beside what a file over loopback allows.
pub async fn large(cloud: &Cloud, contest: &mut Contest, effort: &Effort, report: &mut Report) -> Result<(), String> {
    cloud.forget_peak("server")?;
    let nothing = Payload::new("");
    for (name, bytes, keys) in LARGE {
        let body = Payload::new(noise(bytes));
        let path = move |number: usize| format!("/{BUCKET}/{}/{number:06}", bytes / MIB);
        let endless = vec![keys; contest.sides.len()];
        for many in CONNECTIONS {
            let body = body.clone();
            let put = contest.round(many, effort, &endless, None, move |endpoint, number, keys| {
                endpoint.s3(Method::PUT, &path(number % keys), &body)
            });
            let put = put.await.map_err(|error| format!("PUT {name}: {error}"))?;
            let there: Vec<usize> = put.iter().map(|side| side.count().min(keys)).collect();
            let nothing = nothing.clone();
            let get = contest.round(many, effort, &there, None, move |endpoint, number, keys| {
                endpoint.s3(Method::GET, &path(number % keys), &nothing)
            });
            let get = get.await.map_err(|error| format!("GET {name}: {error}"))?;
            for (verb, times, way, measured) in [("PUT", 2.0, Way::In, &put), ("GET", 1.5, Way::Out, &get)] {
                let allowed = limits::through(cloud.folder(), way, bytes, many, effort.limit).await?;
                let mib = bytes as f64 / MIB as f64;
                let ahead = measured.get(1).map_or(f64::INFINITY, |plain| times * plain.per_second() * mib);
                let aim = Aim::AtLeast(ahead.min(ENOUGH * allowed));
                let more = format!("; disk and loopback allow {allowed:.0}");
                let what = format!("S3 {verb} {name}, {many} connections");
                contest.row(report, &what, measured, Some(mib), aim, &more);
            }
        }
    }
    peak(cloud, report, "1 MiB and 64 MiB objects")
}

/// The server's greatest memory since [`Cloud::forget_peak`].
pub fn peak(cloud: &Cloud, report: &mut Report, under: &str) -> Result<(), String> {
    let mib = cloud.peak("server")? as f64 / MIB as f64;
    report.figure(&format!("the server's peak memory, {under}"), mib, "MiB", Aim::AtMost(150.0), "RSS");
    Ok(())
}

/// Bytes that no layer can make smaller: xorshift.
pub fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}
