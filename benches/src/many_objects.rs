//! What an operation costs when the bucket grows.

use http::Method;
use std::time::Duration;

use crate::Effort;
use crate::client::{Endpoint, Measured, Payload, load};
use crate::cloud::Cloud;
use crate::objects::{noise, peak};
use crate::report::{Aim, Report};

const BUCKET: &str = "many";
const CONNECTIONS: usize = 8;
const REPEATS: usize = 3;
/// Written and deleted again at every size of the bucket.
const EXTRA: usize = 3000;
const READS: usize = 10_000;
const LISTS: usize = 200;
const LIMIT: Duration = Duration::from_secs(10);
/// A rate that falls less than this is called flat.
const FLAT: f64 = 0.8;

/// Keys in no order: odd multiples are all different.
fn path(number: usize) -> String {
    format!("/{BUCKET}/{:016x}", scatter(number))
}

const fn scatter(number: usize) -> u64 {
    (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Rates per second, and what a listing takes in milliseconds.
struct Costs {
    put: f64,
    get: f64,
    head: f64,
    delete: f64,
    list_ms: f64,
}

pub async fn growing(cloud: &Cloud, effort: &Effort, report: &mut Report) -> Result<(), String> {
    cloud.forget_peak("server")?;
    let endpoint = cloud.endpoint()?;
    endpoint.call(endpoint.s3(Method::PUT, &format!("/{BUCKET}"), &Payload::new(""))?).await?;
    let body = Payload::new(noise(4096));
    let mut there = 0;
    let mut first: Option<Costs> = None;
    for &size in effort.sizes {
        let put = {
            let body = body.clone();
            load(&endpoint, 32, size - there, effort.longest, move |endpoint, number| {
                endpoint.s3(Method::PUT, &path(there + number), &body)
            })
        };
        let put = put.await.map_err(|error| format!("PUT of many: {error}"))?;
        if put.count() < size - there {
            return Err(format!("{} objects are not written in {} s", size, effort.longest.as_secs()));
        }
        there = size;
        report.figure(
            &format!("filled to {size} objects of 4 KiB"),
            put.per_second(),
            "/s",
            Aim::None,
            "32 connections",
        );
        let costs = costs(&endpoint, there, &body).await?;
        let rows = [("PUT", costs.put, 0), ("GET", costs.get, 1), ("HEAD", costs.head, 2), ("DELETE", costs.delete, 3)];
        for (verb, rate, at) in rows {
            let before = first.as_ref().map(|first| [first.put, first.get, first.head, first.delete][at]);
            let aim = before.map_or(Aim::None, |before| Aim::AtLeast(FLAT * before));
            let note = format!("{CONNECTIONS} connections, median of {REPEATS}");
            report.figure(&format!("S3 {verb} 4 KiB among {size} objects"), rate, "/s", aim, &note);
        }
        let note = format!("p50 of {LISTS}, 1 connection, from any key on");
        let what = format!("S3 LIST of 1,000 keys among {size} objects");
        report.figure(&what, costs.list_ms, "ms", Aim::AtMost(5.0), &note);
        first.get_or_insert(costs);
    }
    peak(cloud, report, &format!("{there} objects"))
}

async fn costs(endpoint: &Endpoint, there: usize, body: &Payload) -> Result<Costs, String> {
    let nothing = Payload::new("");
    let [mut put, mut get, mut head, mut delete] = [const { Vec::new() }; 4];
    for repeat in 0..REPEATS {
        let one = async |method: Method, count: usize, body: &Payload, key: fn(usize, usize, usize) -> usize| {
            let (name, body) = (method.clone(), body.clone());
            let measured = load(endpoint, CONNECTIONS, count, LIMIT, move |endpoint, number| {
                endpoint.s3(method.clone(), &path(key(number, there, repeat)), &body)
            });
            measured.await.map(|measured| measured.per_second()).map_err(|error| format!("{name} among many: {error}"))
        };
        let extra = |number: usize, there: usize, _: usize| there + number;
        // Anywhere among those that are there.
        let any = |number: usize, there: usize, repeat: usize| {
            (scatter(number * REPEATS + repeat + 1) % there as u64) as usize
        };
        put.push(one(Method::PUT, EXTRA, body, extra).await?);
        head.push(one(Method::HEAD, READS, &nothing, any).await?);
        get.push(one(Method::GET, READS, &nothing, any).await?);
        delete.push(one(Method::DELETE, EXTRA, &nothing, extra).await?);
    }
    let list = load(endpoint, 1, LISTS, LIMIT, move |endpoint, number| {
        let after = format!("{:016x}", scatter(number % there) / 2);
        let query = [("list-type", "2"), ("max-keys", "1000"), ("start-after", after.as_str())];
        endpoint.s3_query(&format!("/{BUCKET}"), &query, &nothing)
    });
    let list: Measured = list.await.map_err(|error| format!("LIST among many: {error}"))?;
    Ok(Costs {
        put: median(put),
        get: median(get),
        head: median(head),
        delete: median(delete),
        list_ms: list.quantile_ms(0.5),
    })
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
