use serde::{Deserialize, Serialize};
use std::sync::{Arc, PoisonError, RwLock};
use terroir_resources::Tags;
use terroir_store::Txn;
use terroir_types::{AccountId, Arn, IdSource, Timestamp};

/// Who is asking, as authentication established it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// [`AccountId::NOBODY`] for callers without an account.
    pub account: AccountId,
    /// `arn:aws:iam::ACCOUNT:root`, `...:user/NAME`, `arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION` or
    /// `...:federated-user/NAME`.
    pub arn: Arn,
    /// The account id for its root, `AIDA...` for a user, `AROA...:SESSION` for a role's session, `ACCOUNT:NAME` for a
    /// federated user.
    pub user_id: String,
    pub access_key_id: String,
    pub kind: CallerKind,
    /// What temporary credentials carry; none for long-lived ones.
    pub session: Option<Arc<Session>>,
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
    /// Somebody outside whom a user, or the account's root, gave a session under a name (`GetFederationToken`).
    FederatedUser {
        /// Id of the user, `AIDA...`; none: the root.
        user: Option<String>,
        name: String,
        /// As for an assumed role, but without any the session may do nothing by itself.
        policies: Vec<String>,
    },
    /// A person for whom an identity provider vouches, while it asks for a session of a role.
    WebIdentity {
        /// ARN of the provider.
        provider: String,
    },
    /// A part of this cloud that acts by itself.
    Service {
        /// For example `cloudtrail.amazonaws.com`.
        name: String,
    },
    /// Nobody signed the request.
    Anonymous,
}

/// What a session has beyond whose it is. Session tokens carry it, so its names are short in its stored form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    #[serde(rename = "i")]
    pub issued_at: Timestamp,
    /// When its user gave a code of a multi-factor device; none: not at all.
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    pub mfa_at: Option<Timestamp>,
    /// They stand before the tags of the user or role.
    #[serde(rename = "t", default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// Keys of those tags that a session which this one begins has too.
    #[serde(rename = "tt", default, skip_serializing_if = "Vec::is_empty")]
    pub transitive: Vec<String>,
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub source_identity: Option<String>,
    /// Who vouched for the person: ARN or name of an identity provider.
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The instance that was given the credentials, `i-...`.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
}

impl Caller {
    /// Who did not sign. Only the policy of a resource can allow it anything.
    pub fn anonymous() -> Self {
        Self::without_account("arn:aws:iam:::anonymous", "anonymous", CallerKind::Anonymous)
    }

    /// A part of this cloud that acts by itself, for example `cloudtrail.amazonaws.com`. Only the policy of a resource
    /// can allow it anything.
    pub fn service(name: &str) -> Self {
        Self::without_account(&format!("arn:aws:iam:::{name}"), name, CallerKind::Service { name: name.to_owned() })
    }

    /// A person, called `subject` by the identity provider of this ARN. Only a role's trust policy can allow it anything.
    pub fn web_identity(provider: &str, subject: &str) -> Self {
        let kind = CallerKind::WebIdentity { provider: provider.to_owned() };
        Self::without_account("arn:aws:iam:::web-identity", &format!("{provider}:{subject}"), kind)
    }

    fn without_account(arn: &str, user_id: &str, kind: CallerKind) -> Self {
        Self {
            account: AccountId::NOBODY,
            arn: Arn::parse(arn).expect("the text has six parts"),
            user_id: user_id.to_owned(),
            access_key_id: String::new(),
            kind,
            session: None,
        }
    }
}

/// Names of the one region that this endpoint answers for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    pub name: String,
    pub zones: Vec<Zone>,
    /// Where the API answers, for example `http://127.0.0.1:9000`.
    pub endpoint: String,
}

/// The region as it is at the moment: sites come while it runs. A cheap handle.
#[derive(Debug, Clone)]
pub struct CurrentRegion(Arc<RwLock<Arc<Region>>>);

impl From<Region> for CurrentRegion {
    fn from(region: Region) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(region))))
    }
}

impl CurrentRegion {
    pub fn get(&self) -> Arc<Region> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// For whoever asks from now on.
    pub fn set_zones(&self, zones: Vec<Zone>) {
        let mut region = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *region = Arc::new(Region { zones, ..Region::clone(&region) });
    }
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
