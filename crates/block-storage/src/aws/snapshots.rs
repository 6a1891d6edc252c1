use std::collections::BTreeSet;
use std::sync::Arc;
use terroir_action::general::ec2_tags;
use terroir_action::{Access, Action, Bounds, Context, Request, Response, Target, paginate};
use terroir_aws_model::{Decode, ec2};
use terroir_resources::Tags;
use terroir_store::Key;
use terroir_types::{AccountId, Error, SnapshotId};

use super::{gib, no_page_of_ids, parse_filters, parse_ids, scope};
use crate::model::Snapshot;
use crate::{SYSTEM_ACCOUNT, SYSTEM_ALIAS, ops};

pub struct DescribeSnapshots;

const FILTERS: &[&str] = &[
    "description",
    "encrypted",
    "owner-alias",
    "owner-id",
    "progress",
    "snapshot-id",
    "start-time",
    "status",
    "storage-tier",
    "tag",
    "volume-id",
    "volume-size",
];

impl Action for DescribeSnapshots {
    type Op = ec2::ops::DescribeSnapshots;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &Request<Self>) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("ec2:DescribeSnapshots")])
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        let filters = parse_filters(&request.filters, FILTERS)?;
        no_page_of_ids(&request.snapshot_ids, request.max_results, "snapshotSet")?;
        let owners = owners(cx.account(), &request.owner_ids)?;
        let mut rows = Vec::new();
        for snapshot in candidates(cx, &request.snapshot_ids)? {
            if owners.as_ref().is_some_and(|owners| !owners.contains(&snapshot.account)) {
                continue;
            }
            let tags = terroir_resources::tags(cx.txn, cx.account(), &snapshot.id.to_string())?;
            if filters.matches(&tags, |name| field(&snapshot, name)) {
                rows.push((snapshot.id.to_string(), (snapshot, tags)));
            }
        }
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        let scope = format!("{}|{:?}", scope(&request.snapshot_ids, &filters), request.owner_ids);
        let (page, next_token) =
            paginate(cx, "DescribeSnapshots", &scope, request.page(), Bounds::EC2, rows.into_iter())?;
        let snapshots = page.iter().map(|(snapshot, tags)| shape(snapshot, tags)).collect();
        Ok(ec2::DescribeSnapshotsResult { snapshots, next_token })
    }
}

fn candidates(cx: &Context<'_>, ids: &[String]) -> Result<Vec<Arc<Snapshot>>, Error> {
    if !ids.is_empty() {
        let ids: BTreeSet<SnapshotId> = parse_ids(ids)?.into_iter().collect();
        return ids.into_iter().map(|id| ops::find_snapshot(cx.txn, cx.account(), id)).collect();
    }
    let mut all = Vec::new();
    for account in BTreeSet::from([cx.account(), SYSTEM_ACCOUNT]) {
        let rows = cx.txn.peek_range::<Snapshot>(&Key::new(format!("snapshot/{account}")))?;
        all.extend(rows.into_iter().map(|(_, snapshot)| snapshot));
    }
    Ok(all)
}

/// `Owners` as accounts; none means everybody. `amazon` owns nothing here.
pub(super) fn owners(caller: AccountId, owners: &[String]) -> Result<Option<BTreeSet<AccountId>>, Error> {
    if owners.is_empty() {
        return Ok(None);
    }
    let mut accounts = BTreeSet::new();
    for owner in owners {
        match owner.as_str() {
            "self" => accounts.insert(caller),
            SYSTEM_ALIAS => accounts.insert(SYSTEM_ACCOUNT),
            "amazon" | "aws-marketplace" | "aws-backup-vault" => false,
            number => accounts.insert(number.parse().map_err(|_| {
                let message = format!("Invalid owner '{number}': expected an account ID, 'self' or '{SYSTEM_ALIAS}'");
                Error::invalid("InvalidParameterValue", message)
            })?),
        };
    }
    Ok(Some(accounts))
}

pub(super) fn alias(owner: AccountId) -> Option<String> {
    (owner == SYSTEM_ACCOUNT).then(|| SYSTEM_ALIAS.to_owned())
}

fn field(snapshot: &Snapshot, name: &str) -> Vec<String> {
    match name {
        "description" => vec![snapshot.tenant.description.clone()],
        "encrypted" => vec!["false".to_owned()],
        "owner-alias" => alias(snapshot.account).into_iter().collect(),
        "owner-id" => vec![snapshot.account.to_string()],
        "progress" => vec!["100%".to_owned()],
        "snapshot-id" => vec![snapshot.id.to_string()],
        "start-time" => vec![snapshot.created_at.to_rfc3339()],
        "status" => vec!["completed".to_owned()],
        "storage-tier" => vec!["standard".to_owned()],
        "volume-size" => gib(snapshot.volume_bytes).map(|gib| gib.to_string()).into_iter().collect(),
        _ => Vec::new(),
    }
}

fn shape(snapshot: &Snapshot, tags: &Tags) -> ec2::Snapshot {
    ec2::Snapshot {
        completion_time: Some(snapshot.created_at),
        description: Some(snapshot.tenant.description.clone()),
        encrypted: Some(false),
        owner_alias: alias(snapshot.account),
        owner_id: Some(snapshot.account.to_string()),
        progress: Some("100%".to_owned()),
        snapshot_id: Some(snapshot.id.to_string()),
        start_time: Some(snapshot.created_at),
        state: Some("completed".to_owned()),
        storage_tier: Some("standard".to_owned()),
        tags: ec2_tags(tags),
        volume_size: gib(snapshot.volume_bytes),
        ..ec2::Snapshot::default()
    }
}
