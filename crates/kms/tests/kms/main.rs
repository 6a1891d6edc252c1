//! The key service as its callers see it: over the API of a server in this process, and through the door for data keys.

mod access;
mod cipher;
mod door;
mod elsewhere;
mod grants;
mod histories;
mod keys;
mod world;
