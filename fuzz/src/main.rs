//! libFuzzer's driver: `TERROIR_FUZZ=TARGET terroir-fuzz [libFuzzer's arguments]`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use terroir_fuzz::{TARGETS, Target, feed};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("TERROIR_FUZZ").unwrap_or_default();
    let names = || TARGETS.map(|target| target.name).join(", ");
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("TERROIR_FUZZ is one of {}", names()))
});

fuzz_target!(|bytes: &[u8]| feed(&TARGET, bytes));
