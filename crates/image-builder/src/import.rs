//! Images that others made: fetched, checked and turned into a sparse raw file.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::disk::{Staged, publish, staged_name};
use crate::probe::{Probed, probe};
use crate::progress::Progress;
use crate::{BootHints, BuiltImage, DiskFormat, ImageError, io_error};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A server that sends nothing for so long is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Address space of `qemu-img`, bytes: a hostile header cannot make it eat the machine.
const QEMU_IMG_MEMORY_BYTES: u64 = 4 << 30;

/// Takes in the image at `source`, a path or an `http(s)` URL, as `OUT_DIR/SHA256.raw`.
///
/// Formats are told by content: raw, qcow2, VMDK. If `expected_sha256` is given, the source as
/// it was fetched must have that SHA-256 (hexadecimal digits, any case). Refused are images that
/// refer to other files, encrypted or compressed ones, and such as claim more than
/// [`crate::MAX_VIRTUAL_SIZE_BYTES`]. Needs `qemu-img`.
///
/// A URL is fetched from this machine with its network rights: give it only URLs that the
/// operator chose.
pub async fn import(
    source: &str,
    out_dir: &Path,
    expected_sha256: Option<&str>,
    progress: &dyn Progress,
) -> Result<BuiltImage, ImageError> {
    let expected = expected_sha256.map(parse_sha256).transpose()?;
    tokio::fs::create_dir_all(out_dir).await.map_err(io_error("create", out_dir))?;
    let is_url = source.starts_with("http://") || source.starts_with("https://");
    // Holds the download; removed at the end, whatever it is.
    let download = Staged(staged_name(&out_dir.join("download")));
    let (local, sha256) = if is_url {
        progress.step(&format!("fetching {source}"));
        (download.0.clone(), fetch(source, &download.0, progress).await?)
    } else {
        let path = PathBuf::from(source);
        progress.step(&format!("reading {source}"));
        let sha256 = hash(&path, progress).await?;
        (path, sha256)
    };
    if let Some(expected) = expected
        && expected != sha256
    {
        return Err(ImageError::ChecksumMismatch { origin: source.to_owned(), expected, actual: sha256 });
    }
    let probed = probe(&local, source)?;
    progress.step(&format!("converting from {}", probed.format.as_str()));
    let path = out_dir.join(format!("{sha256}.raw"));
    let staged = Staged(staged_name(&path));
    convert(&local, probed, &staged.0, progress).await?;
    let size = tokio::fs::metadata(&staged.0).await.map_err(io_error("read", &staged.0))?.len();
    if size != probed.virtual_size_bytes.next_multiple_of(512) {
        return Err(ImageError::Refused {
            origin: source.to_owned(),
            reason: format!("its header says {} bytes, it has {size}", probed.virtual_size_bytes),
        });
    }
    publish(&staged.0, &path)?;
    Ok(BuiltImage {
        name: name_of(source),
        architecture: "x86_64".to_owned(),
        path,
        format: DiskFormat::Raw,
        size_bytes: size,
        sha256,
        source: source.to_owned(),
        description: format!("imported from {} as {}", source, probed.format.as_str()),
        boot: BootHints::default(),
    })
}

fn parse_sha256(text: &str) -> Result<String, ImageError> {
    let text = text.trim().trim_start_matches("sha256:").to_ascii_lowercase();
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(text);
    }
    Err(ImageError::Unexpected(format!("`{text}` is no SHA-256 checksum: it has 64 hexadecimal digits")))
}

/// Last part of a path or URL without query and extension: `debian-12-generic-amd64`.
fn name_of(source: &str) -> String {
    let path = source.split(['?', '#']).next().unwrap_or(source);
    let file = path.trim_end_matches('/').rsplit('/').next().unwrap_or(path);
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    let name: String =
        stem.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).take(100).collect();
    if name.is_empty() { "imported".to_owned() } else { name }
}

async fn hash(path: &Path, progress: &dyn Progress) -> Result<String, ImageError> {
    let mut file = File::open(path).await.map_err(io_error("open", path))?;
    let metadata = file.metadata().await.map_err(io_error("read", path))?;
    if !metadata.is_file() {
        return Err(ImageError::Refused {
            origin: path.display().to_string(),
            reason: "it is not a regular file".to_owned(),
        });
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let count = file.read(&mut buffer).await.map_err(io_error("read", path))?;
        if count == 0 {
            return Ok(hex::encode(hash.finalize()));
        }
        hash.update(&buffer[..count]);
        done += count as u64;
        progress.bytes(done, Some(metadata.len()));
    }
}

/// Streams a URL into `target` and returns its SHA-256.
async fn fetch(url: &str, target: &Path, progress: &dyn Progress) -> Result<String, ImageError> {
    let failed = |error: reqwest::Error| {
        let mut reason = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            reason.push_str(&format!(": {inner}"));
            cause = inner.source();
        }
        ImageError::Fetch { url: url.to_owned(), reason }
    };
    // Fails when the process has chosen one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(STALL_TIMEOUT)
        .build()
        .map_err(failed)?;
    let response = client.get(url).send().await.map_err(failed)?;
    let mut response = response.error_for_status().map_err(failed)?;
    let total = response.content_length();
    let mut file = File::create(target).await.map_err(io_error("create", target))?;
    let mut hash = Sha256::new();
    let mut done = 0;
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        hash.update(&chunk);
        file.write_all(&chunk).await.map_err(io_error("write", target))?;
        done += chunk.len() as u64;
        progress.bytes(done, total);
    }
    file.flush().await.map_err(io_error("write", target))?;
    Ok(hex::encode(hash.finalize()))
}

/// `qemu-img convert` with the format named, never guessed, and limits on what it may use.
async fn convert(from: &Path, probed: Probed, to: &Path, progress: &dyn Progress) -> Result<(), ImageError> {
    let failed =
        |reason: String| ImageError::Command { command: format!("qemu-img convert {}", from.display()), reason };
    let absolute = tokio::fs::canonicalize(from).await.map_err(io_error("open", from))?;
    let mut child = Command::new("prlimit")
        .arg(format!("--as={QEMU_IMG_MEMORY_BYTES}"))
        .args(["--", "qemu-img", "convert", "-p", "-f", probed.format.as_str(), "-O", "raw"])
        // Holes for every 4 KiB of zeros.
        .args(["-S", "4k", "-t", "writeback"])
        // The prefix keeps qemu-img from reading a protocol or JSON out of the name.
        .arg(prefixed(&absolute))
        .arg(prefixed(to))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let mut stderr = child.stderr.take();
    let reading_errors = async {
        let mut text = String::new();
        if let Some(pipe) = stderr.as_mut() {
            // What cannot be read is missing from an error message only.
            let _ = pipe.read_to_string(&mut text).await;
        }
        text
    };
    let mut stdout = child.stdout.take();
    let reading_progress = async {
        let Some(pipe) = stdout.as_mut() else { return };
        let mut buffer = [0; 256];
        while let Ok(count) = pipe.read(&mut buffer).await
            && count > 0
        {
            if let Some(percent) = percentage(&String::from_utf8_lossy(&buffer[..count])) {
                let done = probed.virtual_size_bytes as f64 * percent / 100.0;
                progress.bytes(done as u64, Some(probed.virtual_size_bytes));
            }
        }
    };
    let (text, ()) = tokio::join!(reading_errors, reading_progress);
    let status = child.wait().await.map_err(|error| failed(error.to_string()))?;
    if status.success() {
        return Ok(());
    }
    if status.code() == Some(127) || text.contains("failed to execute") {
        return Err(ImageError::MissingProgram { program: "qemu-img".to_owned(), package: "qemu-utils".to_owned() });
    }
    Err(failed(text.trim().to_owned()))
}

fn prefixed(path: &Path) -> std::ffi::OsString {
    let mut name = std::ffi::OsString::from("file:");
    name.push(path);
    name
}

/// `    (12.34/100%)\r` → 12.34
fn percentage(text: &str) -> Option<f64> {
    let start = text.rfind('(')?;
    let (number, _) = text[start + 1..].split_once('/')?;
    number.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_percentages_are_read() {
        for (source, name) in [
            ("https://cloud.example/a/debian-12.1-amd64.qcow2?x=1", "debian-12.1-amd64"),
            ("/srv/my image.raw", "my-image"),
            ("https://host/", "host"),
            ("plain", "plain"),
        ] {
            assert_eq!(name_of(source), name, "{source}");
        }
        assert_eq!(percentage("    (1.00/100%)\r    (12.50/100%)\r"), Some(12.5));
        assert_eq!(percentage("nothing"), None);
    }
}
