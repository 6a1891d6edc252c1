//! The suite that every engine must pass, run on the embedded one. For etcd: `tests/etcd`.

mod conformance;
mod model;
mod sqlite;
