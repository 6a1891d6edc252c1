//! Records of instances, hosts, key pairs and instance types. Field names in storage are short: DESIGN §5 allows 3 KiB
//! for an instance in all its records.
//!
//! | key | is |
//! |---|---|
//! | `instance/<account>/<id>` | what an instance should be |
//! | `instance-status/<account>/<id>` | what its host says of it |
//! | `host-instance/<host>/<id>` | whose an instance on a host is |
//! | `~user-data/<account>/<holder>` | user data, of a reservation or of one instance |
//! | `key-pair/<account>/<id>`, `key-name/<account>/<mac>` | key pairs |
//! | `host/<id>`, `host-status/<id>`, `host-capacity/<id>` | a host: as the operator wants it, as it is, what is promised of it |
//! | `join-token/<hash>`, `host-enrolment/<id>`, `removed-host/<id>` | who may become a host, who has, who is none any more |
//! | `host-authority/<operator>` | who signs hosts' certificates |
//! | `instance-type/<name>` | the catalogue |
//! | `compute-limits/<account>` | quotas other than the default ones |

mod enrolment;
mod host;
mod instance;
mod key_pair;
mod limits;

pub use enrolment::*;
pub use host::*;
pub use instance::*;
pub use key_pair::*;
pub use limits::*;
