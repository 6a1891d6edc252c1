//! A check that tenants are kept apart: for every action of a server's registry, what belongs to another account is as
//! unknown as what never was. Two accounts get as much of everything as the actions can make; then one calls each action
//! with what is the other's, and with made-up ids of the same form, and must get the same answers.
//!
//! The requests come from `coverage.txt`, so an action that has a row there is in this check too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use terroir_aws_model::Service;
use terroir_iam::ops;
use terroir_store::Txn;
use terroir_types::{AccountId, Error, IdSource};

use crate::ApiServer;
use crate::coverage::{TABLE, rows};
use crate::in_process::{Answer, Client};

/// Further parameters of EC2 that take an id, with its prefix; each is tried with every action that knows it. What the
/// rows of the table have is found there.
const PARAMETERS: &[(&str, &str)] = &[
    ("AllocationId.1", "eipalloc"),
    ("BlockDeviceMapping.1.Ebs.SnapshotId", "snap"),
    ("GroupId.1", "sg"),
    ("GroupIds.1", "sg"),
    ("ImageId.1", "ami"),
    ("InternetGatewayId.1", "igw"),
    ("IpPermissions.1.Groups.1.GroupId", "sg"),
    ("KeyPairId", "key"),
    ("KeyPairId.1", "key"),
    ("NetworkInterface.1.NetworkInterfaceId", "eni"),
    ("NetworkInterface.1.SecurityGroupId.1", "sg"),
    ("NetworkInterface.1.SubnetId", "subnet"),
    ("NetworkInterfaceId", "eni"),
    ("NetworkInterfaceId.1", "eni"),
    ("RouteTableId.1", "rtb"),
    ("SecurityGroupId.1", "sg"),
    ("SecurityGroupRuleId.1", "sgr"),
    ("SnapshotId", "snap"),
    ("SnapshotId.1", "snap"),
    ("SubnetId", "subnet"),
    ("SubnetId.1", "subnet"),
    ("VolumeId", "vol"),
    ("VolumeId.1", "vol"),
    ("VpcId", "vpc"),
    ("VpcId.1", "vpc"),
];

/// Filters of EC2's lists that take an id.
const FILTERS: &[(&str, &str)] = &[
    ("allocation-id", "eipalloc"),
    ("association-id", "eipassoc"),
    ("association.route-table-association-id", "rtbassoc"),
    ("association.subnet-id", "subnet"),
    ("attachment.instance-id", "i"),
    ("attachment.vpc-id", "vpc"),
    ("block-device-mapping.volume-id", "vol"),
    ("group-id", "sg"),
    ("image-id", "ami"),
    ("instance-id", "i"),
    ("internet-gateway-id", "igw"),
    ("key-pair-id", "key"),
    ("network-interface-id", "eni"),
    ("resource-id", "i"),
    ("resource-id", "vol"),
    ("route-table-id", "rtb"),
    ("security-group-rule-id", "sgr"),
    ("snapshot-id", "snap"),
    ("subnet-id", "subnet"),
    ("volume-id", "vol"),
    ("vpc-id", "vpc"),
];

/// Names that are one account's in the whole region, as at AWS: that one is taken is told.
const SHARED_NAMES: &[&str] = &["CreateAccountAlias", "CreateBucket"];

/// What actions begin with that make something, or put things together.
const MAKING: &[&str] =
    &["Create", "Allocate", "Run", "Register", "Import", "Associate", "Attach", "Add", "Put", "Enable", "Authorize"];
/// Those of them that make something new under a name that the caller chooses.
const NAMING: &[&str] = &["Create", "Allocate", "Run", "Register", "Import"];
const READING: &[&str] = &["Describe", "List", "Get"];
const ALLOW: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"ec2:*","Resource":"*"}]}"#;

fn begins_with(action: &str, verbs: &[&str]) -> bool {
    verbs.iter().any(|verb| action.starts_with(verb))
}

/// In which order actions are checked: what one does must not change what another is told. Names are each account's own,
/// so whoever takes the other's name has something of that name afterwards.
fn turn(action: &str) -> u8 {
    if begins_with(action, READING) {
        0
    } else if begins_with(action, NAMING) {
        4
    } else if action.starts_with("Put") {
        // Of what there is: its users, before there are any of the other's names.
        3
    } else if begins_with(action, MAKING) {
        1
    } else {
        2
    }
}

type Row<'a> = ((&'a str, &'a str), Vec<(&'a str, &'a str)>);

/// What kind of thing a value names; none: it names nothing that could be somebody's.
fn kind_of(value: &str) -> Option<String> {
    if let Some(resource) = value.strip_prefix("arn:aws:iam::") {
        return Some(format!("arn {}", resource.split_once(':')?.1.split('/').next()?));
    }
    if value.len() == 20 && value.starts_with("AKIA") {
        return Some("AKIA".to_owned());
    }
    if let Some(resource) = value.strip_prefix("arn:aws:kms:") {
        return Some(format!("kms arn {}", resource.splitn(3, ':').nth(2)?.split('/').next()?));
    }
    if value == "name" {
        return Some("name".to_owned());
    }
    if value.strip_prefix("alias/").is_some_and(|name| !name.contains(['/', ' '])) {
        return Some("alias".to_owned());
    }
    let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if value.len() == 36 && value.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && is_hex(&value.replace('-', "")) {
        return Some("uuid".to_owned());
    }
    if value.len() == 64 && is_hex(value) {
        return Some("64 digits".to_owned());
    }
    let (prefix, digits) = value.rsplit_once('-')?;
    let is_id = prefix.bytes().all(|b| b.is_ascii_lowercase()) && (8..=17).contains(&digits.len());
    (is_id && is_hex(digits)).then(|| prefix.to_owned())
}

/// A value of the same form that names nothing.
fn made_up(value: &str, ids: &dyn IdSource) -> String {
    let name = format!("no{:x}", ids.next_u64());
    let digits = |count| ids.text(b"0123456789abcdef", count);
    let uuid = || [8, 4, 4, 4, 12].map(digits).join("-");
    match kind_of(value).as_deref() {
        Some("uuid") => return uuid(),
        Some("64 digits") => return digits(64),
        Some("alias") => return format!("alias/{name}"),
        Some("kms arn key") => {
            return format!("{}/{}", value.rsplit_once('/').map_or(value, |(front, _)| front), uuid());
        }
        _ => {}
    }
    if value.starts_with("arn:") {
        return format!("{}/{name}", value.rsplit_once('/').map_or(value, |(front, _)| front));
    }
    if value.starts_with("AKIA") {
        return format!("AKIA{}", ids.text(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16));
    }
    match value.rsplit_once('-').filter(|_| kind_of(value).is_some()) {
        Some((prefix, digits)) => format!("{prefix}-{}", ids.text(b"0123456789abcdef", digits.len())),
        None => name,
    }
}

/// One tenant, and what it has.
struct Tenant<'a> {
    server: &'a ApiServer,
    client: Client,
    account: AccountId,
    name: String,
    /// By kind.
    has: BTreeMap<String, BTreeSet<String>>,
}

impl<'a> Tenant<'a> {
    async fn new(server: &'a ApiServer, name: &str) -> Result<Self, Error> {
        let parts = &server.0.parts;
        let now = parts.clock.now();
        let name = format!("{name}-{:x}", parts.ids.next_u64());
        let make = |txn: &mut Txn| ops::create_account(txn, &name, &*parts.ids, now);
        let (account, _) = parts.store.transact(&[], make).await?;
        let client = Client::new(&account.access_key_id, &account.secret, &parts.region.get().name, now);
        let alias = format!("alias/{name}");
        let has = [("name", name.clone()), ("alias", alias)];
        let has = has.map(|(kind, name)| (kind.to_owned(), BTreeSet::from([name]))).into();
        Ok(Self { server, client, account: account.account_id, name, has })
    }

    async fn call(&self, service: Service, action: &str, parameters: &[(&str, &str)]) -> Answer {
        let client = Client { now: self.server.0.parts.clock.now(), ..self.client.clone() };
        loop {
            let answer = client.call(self.server, service, action, parameters).await;
            if !matches!(answer.code.as_str(), "RequestLimitExceeded" | "Throttling" | "ThrottlingException") {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The value that this tenant would write in place of the table's.
    fn own(&self, parameter: &str, value: &str) -> String {
        match (parameter, kind_of(value)) {
            ("AssumeRolePolicyDocument", _) => format!(
                r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":"sts:AssumeRole","Principal":{{"AWS":"{}"}}}}]}}"#,
                self.account
            ),
            (_, _) if value == "{}" => ALLOW.to_owned(),
            (_, Some(kind)) => match self.has.get(&kind).and_then(|own| own.first()) {
                Some(own) => own.clone(),
                None => value.replace("123456789012", &self.account.to_string()),
            },
            (_, None) => value.to_owned(),
        }
    }

    fn request(&self, row: &Row<'_>) -> Vec<(String, String)> {
        row.1.iter().map(|(name, value)| ((*name).to_owned(), self.own(name, value))).collect()
    }

    /// Notes every id and ARN of an answer.
    fn note(&mut self, answer: &Answer) {
        let is_json = answer.body.starts_with('{');
        for text in answer.body.split(if is_json { &['"'][..] } else { &['<', '>'][..] }) {
            // Elsewhere these are numbers of requests and hashes.
            if !is_json && matches!(kind_of(text).as_deref(), Some("uuid" | "64 digits" | "alias")) {
                continue;
            }
            let foreign_arn = text.starts_with("arn:") && !text.contains(&self.account.to_string());
            if let Some(kind) = kind_of(text).filter(|kind| kind != "name" && !foreign_arn) {
                self.has.entry(kind).or_default().insert(text.to_owned());
            }
        }
    }

    /// Makes one of everything that can be made, and looks at all lists.
    async fn settle(&mut self, rows: &[Row<'_>]) {
        // What one action makes another needs.
        for _ in 0..3 {
            for row in rows {
                let ((service, action), _) = row;
                let making = begins_with(action, MAKING);
                let reading = action.starts_with("Describe") || action.starts_with("List") || *action == "GetUser";
                let Some(service) = Service::from_signing_name(service).filter(|_| making || reading) else { continue };
                let request = self.request(row);
                let request: Vec<_> = request.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                let answer = self.call(service, action, &request).await;
                if answer.status.is_success() {
                    self.note(&answer);
                }
            }
        }
    }
}

/// What is wrong, one sentence each; empty if the tenants are kept apart.
///
/// It makes two accounts of its own in the server's store. `equip` gives each what the actions of the table cannot make,
/// and names it.
///
/// # Errors
/// An account cannot be made, and those of `equip`.
pub async fn problems(
    server: &ApiServer,
    equip: impl Fn(&mut Txn, AccountId) -> Result<Vec<String>, Error>,
) -> Result<Vec<String>, Error> {
    let registry = &server.0.parts.registry;
    let rows: Vec<Row<'_>> = rows(TABLE).into_iter().collect();
    let mut me = Tenant::new(server, "me").await?;
    let mut other = Tenant::new(server, "other").await?;
    for tenant in [&mut me, &mut other] {
        let account = tenant.account;
        let (given, _) = server.0.parts.store.transact(&[], |txn| equip(txn, account)).await?;
        for id in given {
            tenant.has.entry(kind_of(&id).unwrap_or_default()).or_default().insert(id);
        }
        tenant.settle(&rows).await;
    }
    let mut problems = Vec::new();
    // What both see belongs to everybody.
    let theirs: BTreeMap<String, String> = other
        .has
        .iter()
        .filter_map(|(kind, values)| {
            let own = me.has.get(kind);
            let theirs = values.iter().find(|value| own.is_none_or(|own| !own.contains(*value)))?;
            Some((kind.clone(), theirs.clone()))
        })
        .collect();
    let named = rows.iter().flat_map(|(_, parameters)| parameters).filter_map(|(_, value)| kind_of(value));
    for kind in named.collect::<BTreeSet<_>>() {
        if !theirs.contains_key(&kind) {
            problems.push(format!("nothing could be made to try `{kind}` with"));
        }
    }
    let vocabulary = vocabulary(&rows);
    let mut in_turn: Vec<&Row<'_>> = rows.iter().collect();
    in_turn.sort_by_key(|((_, action), _)| turn(action));
    for row in in_turn {
        let ((service, action), _) = row;
        let Some(service) = Service::from_signing_name(service) else { continue };
        if registry.find(service, action).is_none() || SHARED_NAMES.contains(action) {
            continue;
        }
        let check = Check { me: &me, other: &other, theirs: &theirs, service, action };
        for variant in check.variants(row, &vocabulary) {
            check.compare(&variant, &mut problems).await;
        }
        check.lists(row, &mut problems).await;
    }
    Ok(problems)
}

/// Parameters of EC2 that take an id, with its kind: those of all rows, with and without a number, and [`PARAMETERS`].
fn vocabulary(rows: &[Row<'_>]) -> BTreeSet<(String, String)> {
    let mut found: BTreeSet<_> =
        PARAMETERS.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect();
    for (_, parameters) in rows.iter().filter(|((service, _), _)| *service == "ec2") {
        for (name, value) in parameters {
            if let Some(kind) = kind_of(value).filter(|kind| kind != "name") {
                let bare = name.strip_suffix(".1").unwrap_or(name);
                found.insert((bare.to_owned(), kind.clone()));
                found.insert((format!("{bare}.1"), kind));
            }
        }
    }
    found
}

/// A request with one value that is to be somebody's: its place, and the value.
struct Variant {
    request: Vec<(String, String)>,
    place: usize,
}

struct Check<'a> {
    me: &'a Tenant<'a>,
    other: &'a Tenant<'a>,
    theirs: &'a BTreeMap<String, String>,
    service: Service,
    action: &'a str,
}

impl Check<'_> {
    /// One for every value that could be somebody's; all else is the caller's own.
    fn variants(&self, row: &Row<'_>, vocabulary: &BTreeSet<(String, String)>) -> Vec<Variant> {
        let base = self.me.request(row);
        let mut variants = Vec::new();
        for (place, (_, value)) in row.1.iter().enumerate() {
            if let Some(theirs) = kind_of(value).and_then(|kind| self.theirs.get(&kind)) {
                let mut request = base.clone();
                request[place].1.clone_from(theirs);
                variants.push(Variant { request, place });
            }
        }
        if self.service == Service::Kms {
            // A key may be named in other ways.
            let is_key = |variant: &&Variant| kind_of(&variant.request[variant.place].1).as_deref() == Some("uuid");
            let places: Vec<usize> = variants.iter().filter(is_key).map(|variant| variant.place).collect();
            for place in places {
                for theirs in ["kms arn key", "kms arn alias"].iter().filter_map(|kind| self.theirs.get(*kind)) {
                    let mut request = base.clone();
                    request[place].1.clone_from(theirs);
                    variants.push(Variant { request, place });
                }
            }
        }
        if self.service != Service::Ec2 {
            return variants;
        }
        for (name, kind) in vocabulary {
            let there = base.iter().any(|(known, _)| known == name);
            if let Some(theirs) = self.theirs.get(kind).filter(|_| !there) {
                let request = [base.clone(), vec![(name.clone(), theirs.clone())]].concat();
                variants.push(Variant { place: request.len() - 1, request });
            }
        }
        if self.action.starts_with("Describe") {
            for (name, kind) in FILTERS {
                if let Some(theirs) = self.theirs.get(*kind) {
                    let filter = [("Filter.1.Name", *name), ("Filter.1.Value.1", theirs)];
                    let filter = filter.map(|(name, value)| (name.to_owned(), value.to_owned()));
                    let request = [base.clone(), filter.to_vec()].concat();
                    variants.push(Variant { place: request.len() - 1, request });
                }
            }
        }
        variants
    }

    async fn ask(&self, variant: &Variant, value: &str) -> (Answer, String) {
        let with = |(place, (name, own)): (usize, &(String, String))| {
            (name.clone(), if place == variant.place { value.to_owned() } else { own.clone() })
        };
        let request: Vec<_> = variant.request.iter().enumerate().map(with).collect();
        let request: Vec<_> = request.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let answer = self.me.call(self.service, self.action, &request).await;
        // What changes something, or begins a session, answers with what it made, which is new each time.
        let reading = begins_with(self.action, READING) && self.service != Service::Sts;
        let told = if answer.status.is_success() && !reading { String::new() } else { masked(&answer.body, value) };
        (answer, told)
    }

    /// Whether what is theirs is answered as what never was.
    async fn compare(&self, variant: &Variant, problems: &mut Vec<String>) {
        let theirs = &variant.request[variant.place].1;
        let nothing = made_up(theirs, &*self.me.server.0.parts.ids);
        let (with_nothing, expected) = self.ask(variant, &nothing).await;
        if with_nothing.code == "UnknownParameter" {
            return;
        }
        let (with_theirs, told) = self.ask(variant, theirs).await;
        if (with_theirs.status, &with_theirs.code, &told) != (with_nothing.status, &with_nothing.code, &expected) {
            let name = &variant.request[variant.place].0;
            problems.push(format!(
                "{} {} tells {name}={theirs} of another account from {nothing}: {} {told} and {} {expected}",
                self.service.signing_name(),
                self.action,
                with_theirs.status,
                with_nothing.status,
            ));
        }
    }

    /// Whether an answer shows anything of the other tenant's.
    async fn lists(&self, row: &Row<'_>, problems: &mut Vec<String>) {
        if !begins_with(self.action, READING) {
            return;
        }
        let request = self.me.request(row);
        let request: Vec<_> = request.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let answer = self.me.call(self.service, self.action, &request).await;
        let number = self.other.account.to_string();
        let shown =
            self.theirs.values().chain([&number, &self.other.name]).find(|theirs| answer.body.contains(*theirs));
        if let Some(theirs) = shown {
            problems.push(format!("{} {} shows {theirs} of another account", self.service.signing_name(), self.action));
        }
    }
}

/// The body without the value that was asked for, and without what is new in every answer.
fn masked(body: &str, value: &str) -> String {
    let mut text = body.replace(value, "ASKED");
    for name in ["RequestId", "RequestID", "requestId"] {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        if let Some((front, rest)) = text.split_once(&open)
            && let Some((_, back)) = rest.split_once(&close)
        {
            text = format!("{front}{back}");
        }
    }
    // An ARN may be shown by its last part alone.
    match value.rsplit_once('/') {
        Some((_, name)) => text.replace(name, "ASKED"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use terroir_types::OsRandom;

    #[test]
    fn forms_of_what_is_somebody_s() {
        for (value, kind) in [
            ("i-0123456789abcdef0", Some("i")),
            ("rtbassoc-0123456789abcdef0", Some("rtbassoc")),
            ("arn:aws:iam::123456789012:mfa/name", Some("arn mfa")),
            ("AKIA0123456789ABCDEF", Some("AKIA")),
            ("12345678-1234-1234-1234-123456789abc", Some("uuid")),
            ("arn:aws:kms:r-1:123456789012:key/12345678-1234-1234-1234-123456789abc", Some("kms arn key")),
            ("arn:aws:kms:r-1:123456789012:alias/name", Some("kms arn alias")),
            ("alias/name", Some("alias")),
            ("name", Some("name")),
            ("terroir-1a", None),
            ("10.0.0.0/8", None),
            ("t3.nano", None),
        ] {
            assert_eq!(kind_of(value).as_deref(), kind, "{value}");
            if kind.is_some() && value != "name" {
                let other = made_up(value, &OsRandom);
                assert!(other != value && kind_of(&other) == kind_of(value), "{value} {other}");
            }
        }
        assert_eq!(masked("<a>i-1</a><RequestId>x</RequestId>", "i-1"), "<a>ASKED</a>");
    }
}
