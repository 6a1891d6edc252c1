//! Every parser of bytes that come from outside, each as a function that takes any bytes and must not panic, overflow its
//! stack, or say yes to what its assertions call wrong.
//!
//! `cargo test -p terroir-fuzz` feeds them the corpus and mutations of it; `make fuzz` has libFuzzer look for more, guided
//! by coverage. What it finds goes into `corpus/TARGET/` with the mending, so that it stays found.

mod cloud;
mod guests;
mod requests;

/// Bytes beyond these are cut off: what they would find, shorter ones find sooner.
pub const MAX_BYTES: usize = 64 << 10;

pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

pub const TARGETS: [Target; 12] = [
    Target { name: "query", run: requests::query },
    Target { name: "json", run: requests::json },
    Target { name: "xml", run: requests::xml },
    Target { name: "sigv4", run: requests::sigv4 },
    Target { name: "form-policy", run: requests::form_policy },
    Target { name: "web-token", run: cloud::web_token },
    Target { name: "policy", run: cloud::policy },
    Target { name: "sovereignty-policy", run: cloud::sovereignty_policy },
    Target { name: "ciphertext", run: cloud::ciphertext },
    Target { name: "note", run: cloud::note },
    Target { name: "image", run: guests::image },
    Target { name: "packets", run: guests::packets },
];

/// Runs a target on any bytes.
pub fn feed(target: &Target, bytes: &[u8]) {
    (target.run)(&bytes[..bytes.len().min(MAX_BYTES)]);
}
