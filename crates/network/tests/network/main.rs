//! The network domain through its API actions and its commands, on a real store.

mod actions;
mod hosts;
mod interfaces;
mod properties;
mod races;
mod world;
