//! The distributed engine: the suite that every engine must pass, and what only a cluster can suffer.
//!
//! Real etcd servers, started here on free ports. `TERROIR_FULL=1` runs more rounds.

mod cluster;
#[path = "../engine/conformance.rs"]
mod conformance;
#[path = "../backup/cut.rs"]
mod cut;
mod faults;
#[path = "../engine/model.rs"]
mod model;
mod one_member;
mod proxy;

fn full() -> bool {
    std::env::var_os("TERROIR_FULL").is_some_and(|value| value == "1")
}
