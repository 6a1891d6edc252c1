//! The suite that every engine must pass, run on the embedded one.

mod conformance;
mod model;
mod sqlite;
