//! Where something goes: a pure function of hosts, request and policy to a host, or the reasons why there is none. The
//! same one for machines, volumes, snapshots, images, replicas and logs.
//!
//! A host is used if it takes new work, stands in the wanted zone, has the wanted architecture, is allowed by the policy,
//! is not one to stay away from, and has room. Among the few best one is drawn at random, so that concurrent placements
//! seldom meet on the same capacity record. There is no fallback to a place that the request did not allow.
//!
//! [`Cluster`] is an index: hosts of one site, fire zone and architecture are one class, for which zone, architecture and
//! policy are decided once, and inside of which a tree of maxima leads to hosts with room. A placement costs about as
//! much as there are classes, and the logarithm of the hosts.

mod cluster;
mod copies;
mod group;
mod reason;
mod room;
mod tree;

pub use cluster::{Admission, Candidate, Closed, Cluster, Request, Strategy};
pub use copies::{Copies, MAX_COPIES};
pub use group::{Avoid, MAX_SPREAD_PER_ZONE, apart_from_partitions, apart_from_spread};
pub use reason::{NoPlace, Why};
pub use room::Room;
