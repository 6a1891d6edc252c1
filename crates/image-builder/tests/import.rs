//! Importing files and URLs.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use terroir_image_builder::{DiskFormat, ImageError, Silent, import};

fn qemu_img(args: &[&str], file: &Path) {
    let status = Command::new("qemu-img").args(args).arg(file).output().unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
}

fn qemu_img_line(line: &str) {
    let status = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8_lossy(&output.stdout)[..64].to_owned()
}

/// A raw disk of 3 MiB with something in its second MiB.
fn raw_disk(path: &Path) -> Vec<u8> {
    let mut bytes = vec![0; 3 << 20];
    bytes[(1 << 20)..(1 << 20) + 5].copy_from_slice(b"hello");
    fs::write(path, &bytes).unwrap();
    bytes
}

fn qemu_img_is_missing() -> bool {
    let missing = Command::new("qemu-img").arg("--version").output().is_err();
    if missing {
        eprintln!("SKIPPED: qemu-img is not installed");
    }
    missing
}

#[tokio::test]
async fn every_format_becomes_the_same_raw_file() {
    if qemu_img_is_missing() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    let bytes = raw_disk(&raw);
    let raw_name = raw.to_str().unwrap();
    for (format, options) in [
        ("raw", ""),
        ("qcow2", "compat=1.1"),
        ("qcow2", "compat=0.10"),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=streamOptimized"),
    ] {
        let source = dir.path().join(format!("my-disk.{format}"));
        if format == "raw" {
            fs::copy(&raw, &source).unwrap();
        } else {
            qemu_img(&["convert", "-O", format, "-o", options, raw_name], &source);
        }
        let hash = sha256(&source);
        let out = dir.path().join("out");
        let name = source.to_str().unwrap();
        let built = import(name, &out, Some(&hash.to_uppercase()), &Silent).await.unwrap();
        assert_eq!((built.format, built.size_bytes), (DiskFormat::Raw, 3 << 20), "{options}");
        assert_eq!((built.name.as_str(), &built.sha256), ("my-disk", &hash));
        assert!(fs::read(&built.path).unwrap() == bytes, "{format} {options}");
        assert_eq!(fs::read_dir(&out).unwrap().count(), 1, "nothing else stays");
        fs::remove_dir_all(&out).unwrap();
    }
}

#[tokio::test]
async fn what_must_not_pass_leaves_nothing() {
    if qemu_img_is_missing() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    raw_disk(&path("base.raw"));
    let base = path("base.raw");
    qemu_img(&["create", "-f", "qcow2", "-F", "raw", "-b", base.to_str().unwrap()], &path("child"));
    let data = format!("data_file={}", path("data").display());
    let external = path("external");
    let external = external.to_str().unwrap();
    let line = format!("qemu-img create -f qcow2 -o {data} {external} 1M");
    qemu_img_line(&line);
    fs::write(path("text"), "no disk").unwrap();
    let wrong = "0".repeat(64);
    let out = path("out");
    for (name, expected_sha256, reason) in [
        ("child", None, "backing file"),
        ("external", None, "another file"),
        ("text", None, "multiple of 512"),
        (".", None, "not a regular file"),
        ("absent", None, "No such file"),
        ("base.raw", Some(wrong.as_str()), "nothing was imported"),
        ("base.raw", Some("abc"), "64 hexadecimal digits"),
    ] {
        let source = path(name);
        let error = import(source.to_str().unwrap(), &out, expected_sha256, &Silent).await.expect_err(name).to_string();
        assert!(error.contains(reason), "{name}: {error}");
        let left = fs::read_dir(&out).map_or(0, |entries| entries.count());
        assert_eq!(left, 0, "{name}");
    }
}

#[tokio::test]
async fn a_url_is_fetched_and_a_missing_one_is_told() {
    if qemu_img_is_missing() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let bytes = raw_disk(&dir.path().join("x"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let body = bytes.clone();
    let server = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let count = stream.read(&mut request).unwrap();
            let found = request[..count].starts_with(b"GET /disk.img ");
            let (status, body) = if found { ("200 OK", &body[..]) } else { ("404 None", &b""[..]) };
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(body).unwrap();
        }
    });
    let out = dir.path().join("out");
    let url = format!("http://{address}/disk.img");
    let built = import(&url, &out, None, &Silent).await.unwrap();
    assert!(fs::read(&built.path).unwrap() == bytes);
    assert_eq!((built.name.as_str(), built.source.as_str()), ("disk", url.as_str()));
    let missing = format!("http://{address}/none");
    let error = import(&missing, &out, None, &Silent).await.unwrap_err();
    assert!(matches!(error, ImageError::Fetch { .. }), "{error}");
    assert!(error.to_string().contains("404"), "{error}");
    server.join().unwrap();
}
