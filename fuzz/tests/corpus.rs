//! The corpus and mutations of it, the same ones every time.

use std::path::{Path, PathBuf};
use std::{fs, panic};
use terroir_fuzz::{TARGETS, Target, feed};
use terroir_types::{IdSource, SeededRandom};

fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.into_iter().map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

fn below(random: &SeededRandom, end: usize) -> usize {
    if end == 0 { 0 } else { usize::try_from(random.next_u64() % end as u64).unwrap() }
}

/// One to eight small changes; pieces come from all seeds.
fn mutated(seeds: &[(PathBuf, Vec<u8>)], random: &SeededRandom) -> Vec<u8> {
    let mut bytes = seeds[below(random, seeds.len())].1.clone();
    for _ in 0..=below(random, 8) {
        let at = below(random, bytes.len() + 1);
        let end = (at + 1 + below(random, 16)).min(bytes.len());
        let other = &seeds[below(random, seeds.len())].1;
        let from = below(random, other.len());
        let piece = &other[from..(from + below(random, 32)).min(other.len())];
        match below(random, 8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << below(random, 8),
            1 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'%', b'.'][below(random, 8)],
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at.min(end)..end)),
            4 => drop(bytes.splice(at..at, piece.iter().copied())),
            5 => drop(bytes.splice(at.min(end)..end, piece.iter().copied())),
            // Depth and length.
            6 => {
                let again = bytes[at.min(end)..end].repeat(1 << below(random, 10));
                drop(bytes.splice(at..at, again));
            }
            _ => bytes.insert(at, u8::try_from(below(random, 256)).unwrap()),
        }
    }
    bytes
}

/// Feeds the corpus and `count` mutations of it; the input at which the target fails, if any.
fn search(target: &Target, count: usize) -> Option<Vec<u8>> {
    let seeds = corpus(target);
    let random = SeededRandom::new(0x0007_e220);
    let mut inputs = seeds.iter().map(|(_, bytes)| bytes.clone()).chain((0..count).map(|_| mutated(&seeds, &random)));
    inputs.find(|bytes| panic::catch_unwind(|| feed(target, bytes)).is_err())
}

fn check(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let full = std::env::var("TERROIR_FULL").is_ok_and(|value| value == "1");
    if let Some(bytes) = search(target, if full { 2_000_000 } else { 50_000 }) {
        panic!("{name} fails at {}", bytes.escape_ascii());
    }
}

macro_rules! targets {
    ($($test:ident: $name:literal),* $(,)?) => {
        $(#[test] fn $test() { check($name); })*

        #[test]
        fn every_target_is_tested() {
            assert_eq!(TARGETS.map(|target| target.name), [$($name),*]);
        }
    };
}

targets! {
    query: "query", json: "json", xml: "xml", sigv4: "sigv4", form_policy: "form-policy", web_token: "web-token",
    policy: "policy", sovereignty_policy: "sovereignty-policy", ciphertext: "ciphertext", note: "note", image: "image",
    packets: "packets",
}

/// A parser that trusts a length is found out.
#[test]
fn a_fault_is_found() {
    fn trusts_a_length(bytes: &[u8]) {
        if let Some(at) = bytes.iter().position(|byte| *byte == b'=') {
            let length = bytes.get(at + 1).map_or(0, |byte| usize::from(*byte) % 4);
            let _ = &bytes[at..at + length];
        }
    }
    let silent = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let found = search(&Target { name: "query", run: trusts_a_length }, 5_000);
    panic::set_hook(silent);
    assert!(found.is_some());
}
