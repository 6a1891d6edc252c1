//! When a guest's SSH server answers.

use std::io::ErrorKind;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(120);
/// A guest without an address drops what is sent to it, and the kernel would repeat it a second later only.
const CONNECT: Duration = Duration::from_millis(50);
const READ: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

/// Tries until `SSH-` is read from port 22 of `address`; the time since `start`.
pub async fn banner(address: &str, start: Instant) -> Result<Duration, String> {
    while start.elapsed() < DEADLINE {
        if matches!(attempt(address).await, Ok(banner) if &banner == b"SSH-") {
            return Ok(start.elapsed());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(format!("{address} does not answer SSH after {} s", DEADLINE.as_secs()))
}

async fn attempt(address: &str) -> std::io::Result<[u8; 4]> {
    let late = |_| std::io::Error::from(ErrorKind::TimedOut);
    let mut stream = timeout(CONNECT, TcpStream::connect((address, 22))).await.map_err(late)??;
    let mut banner = [0; 4];
    timeout(READ, stream.read_exact(&mut banner)).await.map_err(late)??;
    Ok(banner)
}
