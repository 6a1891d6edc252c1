//! The EC2 network actions: the only files of this crate that see AWS's types.
