//! Objects in and out, beside what the disk and the loopback interface allow.

use http::Method;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::client::{Payload, load, quantile};
use crate::cloud::Cloud;
use crate::report::{Aim, Report};
use crate::{Effort, say};

const MIB: usize = 1024 * 1024;
/// (name, bytes, connections)
const SIZES: &[(&str, usize, &[usize])] =
    &[("4 KiB", 4096, &[1, 8, 32]), ("1 MiB", MIB, &[1, 8, 32]), ("64 MiB", 64 * MIB, &[1, 4])];
/// Bounds the disk used: 4 KiB and 1 MiB objects per point.
const MOST_SMALL: usize = 5_000;
const MOST_MIDDLE: usize = 400;

pub async fn put_and_get(cloud: &Cloud, effort: &Effort, report: &mut Report) -> Result<(), String> {
    let endpoint = cloud.endpoint()?;
    let nothing = Payload::new("");
    endpoint.call(endpoint.s3(Method::PUT, "/bench", &nothing)?).await?;
    for (name, bytes, connections) in SIZES {
        let body = Payload::new(noise(*bytes));
        let most = match *bytes {
            4096 => MOST_SMALL,
            MIB => MOST_MIDDLE,
            _ => effort.large_objects,
        };
        let mib = (*bytes >= MIB).then_some(*bytes as f64 / MIB as f64);
        for &many in *connections {
            let path = move |number: usize| format!("/bench/{bytes}-{many}-{number}");
            let body = body.clone();
            let put = load(&endpoint, many, most, effort.point, move |endpoint, number| {
                endpoint.s3(Method::PUT, &path(number), &body)
            });
            let put = put.await.map_err(|error| format!("PUT {name}: {error}"))?;
            report.throughput(&format!("S3 PUT {name}, {many} connections"), &put, mib);
            let (there, nothing) = (put.count(), nothing.clone());
            let get = load(&endpoint, many, most, effort.point, move |endpoint, number| {
                endpoint.s3(Method::GET, &path(number % there), &nothing)
            });
            let get = get.await.map_err(|error| format!("GET {name}: {error}"))?;
            report.throughput(&format!("S3 GET {name}, {many} connections"), &get, mib);
        }
    }
    Ok(())
}

/// Bytes that no layer can make smaller: xorshift.
fn noise(count: usize) -> Vec<u8> {
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

pub async fn limits_of_the_machine(folder: &Path, effort: &Effort, report: &mut Report) -> Result<(), String> {
    let (folder, point, rounds) = (folder.to_owned(), effort.point, effort.rounds);
    let measure =
        move || Ok::<_, std::io::Error>((appends(&folder, point)?, large_writes(&folder, rounds)?, loopback()?));
    let (appends, writes, loopback) = tokio::task::spawn_blocking(measure).await.map_err(say)?.map_err(say)?;
    let total: Duration = appends.iter().sum();
    let note = format!("p50 {:.2} ms, one after the other", quantile(&appends, 0.5).as_secs_f64() * 1e3);
    let rate = appends.len() as f64 / total.as_secs_f64();
    report.figure("disk: append 4 KiB and fdatasync", rate, "/s", Aim::None, &note);
    let rate = 64.0 / quantile(&writes, 0.5).as_secs_f64();
    report.figure("disk: write 64 MiB and fsync", rate, "MiB/s", Aim::None, &format!("median of {}", writes.len()));
    report.figure("loopback: one TCP connection", loopback, "MiB/s", Aim::None, "512 MiB");
    Ok(())
}

fn appends(folder: &Path, limit: Duration) -> std::io::Result<Vec<Duration>> {
    let mut file = File::create(folder.join("append"))?;
    let block = noise(4096);
    let start = Instant::now();
    let mut times = Vec::new();
    while start.elapsed() < limit {
        let one = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        times.push(one.elapsed());
    }
    times.sort();
    Ok(times)
}

fn large_writes(folder: &Path, rounds: usize) -> std::io::Result<Vec<Duration>> {
    let block = noise(64 * MIB);
    let path = folder.join("large");
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        let mut file = File::create(&path)?;
        file.write_all(&block)?;
        file.sync_all()?;
        times.push(start.elapsed());
        std::fs::remove_file(&path)?;
    }
    times.sort();
    Ok(times)
}

/// MiB per second.
fn loopback() -> std::io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    let (mut receiver, _) = listener.accept()?;
    let writer = std::thread::spawn(move || (0..512).try_for_each(|_| sender.write_all(&[7; MIB])));
    let mut buffer = vec![0; MIB];
    let start = Instant::now();
    while receiver.read(&mut buffer)? > 0 {}
    let took = start.elapsed();
    writer.join().map_err(|_| std::io::Error::other("the writing thread panicked"))??;
    Ok(512.0 / took.as_secs_f64())
}
