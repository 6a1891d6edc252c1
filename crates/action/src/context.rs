use terroir_store::Txn;
use terroir_types::{AccountId, Arn, IdSource, Timestamp};

/// Who is asking, as authentication established it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub account: AccountId,
    /// `arn:aws:iam::ACCOUNT:root`, `...:user/NAME` or `arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION`.
    pub arn: Arn,
    /// The account id for its root, `AIDA...` for a user, `AROA...:SESSION` for a role's session.
    pub user_id: String,
    pub access_key_id: String,
    pub kind: CallerKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallerKind {
    /// The account itself: allowed everything inside it.
    Root,
    User {
        name: String,
    },
    AssumedRole {
        role: String,
        session: String,
        /// JSON documents that further limit the session; each must allow too.
        policies: Vec<String>,
    },
}

/// Names of the one region that this endpoint answers for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    pub name: String,
    pub zones: Vec<Zone>,
    /// Where the API answers, for example `http://127.0.0.1:9000`.
    pub endpoint: String,
}

/// An availability zone, which is a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    pub name: String,
    pub id: String,
}

/// What an action works with. It commits nothing itself, does no I/O and asks no clock.
pub struct Context<'a> {
    pub txn: &'a mut Txn,
    pub caller: &'a Caller,
    pub now: Timestamp,
    pub ids: &'a dyn IdSource,
    pub region: &'a Region,
    pub request_id: &'a str,
}

impl Context<'_> {
    pub fn account(&self) -> AccountId {
        self.caller.account
    }

    /// `arn:aws:ec2:REGION:ACCOUNT:KIND/ID` in the caller's account.
    pub fn ec2_arn(&self, kind: &str, id: impl std::fmt::Display) -> Arn {
        Arn::new("ec2", &self.region.name, Some(self.caller.account), format_args!("{kind}/{id}"))
    }
}
