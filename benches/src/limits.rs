//! What the machine allows, measured without Terroir: the disk, the loopback interface, and a file that goes through
//! both as an object does.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::client::quantile;
use crate::objects::noise;
use crate::report::{Aim, Report};
use crate::{Effort, say};

const MIB: usize = 1024 * 1024;
const BUFFER: usize = 256 * 1024;

pub async fn disk_and_loopback(folder: &Path, effort: &Effort, report: &mut Report) -> Result<(), String> {
    let (folder, point, rounds) = (folder.to_owned(), effort.limit, effort.rounds);
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

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Over loopback into a new file, which is synced before the answer.
    In,
    /// From a file in the page cache over loopback.
    Out,
}

/// MiB per second of `bytes` at a time over `connections`, a thread at each end: no HTTP, no hash, no index. `folder`
/// gets a folder for the files.
pub async fn through(
    folder: &Path,
    way: Way,
    bytes: usize,
    connections: usize,
    limit: Duration,
) -> Result<f64, String> {
    let folder = folder.join("limit");
    let work = move || {
        std::fs::create_dir_all(&folder)?;
        let measured = through_files(&folder, way, bytes, connections, limit);
        std::fs::remove_dir_all(&folder)?;
        measured
    };
    tokio::task::spawn_blocking(work).await.map_err(say)?.map_err(say)
}

fn through_files(folder: &Path, way: Way, bytes: usize, connections: usize, limit: Duration) -> std::io::Result<f64> {
    let body = noise(bytes);
    if way == Way::Out {
        std::fs::write(folder.join("body"), &body)?;
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let moved = AtomicU64::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let mut ends = Vec::new();
        for number in 0..connections {
            let client = TcpStream::connect(address)?;
            let (server, _) = listener.accept()?;
            for stream in [&client, &server] {
                stream.set_nodelay(true)?;
            }
            let (body, moved, folder) = (&body, &moved, folder.to_owned());
            ends.push(scope.spawn(move || match way {
                Way::In => receive(server, &folder, number, bytes),
                Way::Out => send(server, &folder.join("body")),
            }));
            ends.push(scope.spawn(move || {
                let ask = |stream: &mut TcpStream| match way {
                    Way::In => stream.write_all(body).and_then(|()| stream.read_exact(&mut [0])),
                    Way::Out => stream.write_all(&[0]).and_then(|()| drain(stream, bytes)),
                };
                let mut client = client;
                while start.elapsed() < limit {
                    ask(&mut client)?;
                    moved.fetch_add(bytes as u64, Ordering::Relaxed);
                }
                Ok::<_, std::io::Error>(())
            }));
        }
        for end in ends {
            end.join().map_err(|_| std::io::Error::other("a thread of the limit panicked"))??;
        }
        Ok::<_, std::io::Error>(())
    })?;
    Ok(moved.into_inner() as f64 / MIB as f64 / start.elapsed().as_secs_f64())
}

/// None: nothing follows any more.
fn first_bytes(stream: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<Option<usize>> {
    Ok(Some(stream.read(buffer)?).filter(|count| *count > 0))
}

fn receive(mut stream: TcpStream, folder: &Path, number: usize, bytes: usize) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    for round in 0.. {
        let Some(mut count) = first_bytes(&mut stream, &mut buffer)? else { break };
        let path: PathBuf = folder.join(format!("{number}-{}", round % 8));
        let _ = std::fs::remove_file(&path);
        let mut file = File::create(&path)?;
        let mut left = bytes;
        loop {
            file.write_all(&buffer[..count])?;
            left -= count;
            if left == 0 {
                break;
            }
            let most = left.min(BUFFER);
            count = stream.read(&mut buffer[..most])?;
            if count == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        file.sync_all()?;
        stream.write_all(&[1])?;
    }
    Ok(())
}

fn send(mut stream: TcpStream, path: &Path) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    while first_bytes(&mut stream, &mut [0])?.is_some() {
        let mut file = File::open(path)?;
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                count => stream.write_all(&buffer[..count])?,
            }
        }
    }
    Ok(())
}

fn drain(stream: &mut TcpStream, bytes: usize) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut left = bytes;
    while left > 0 {
        let most = left.min(BUFFER);
        match stream.read(&mut buffer[..most])? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => left -= count,
        }
    }
    Ok(())
}
