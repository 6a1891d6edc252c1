//! Rules of replication, as clients write them.

use http::StatusCode;
use s3s::dto::{Destination as DestinationElement, *};
use s3s::{S3Error, S3Request, S3Response, S3Result};
use std::collections::BTreeSet;
use terroir_action::Target as Permission;
use terroir_store::Txn;
use terroir_types::{AccountId, Arn, Error as DomainError};

use super::error::{from_domain, invalid, invalid_argument, malformed_xml, not_implemented, s3};
use super::front::RequestScope;
use super::service::{S3Api, Scoped};
use crate::backend::{self, Note, ObjectMeta, StringMap, Versioning};
use crate::encryption::Method;
use crate::lifecycle::{Filter, FilterForm};
use crate::lock::LockSetting;
use crate::model::Bucket as BucketRecord;
use crate::replication::{self, Destination, ReplicationRules, Rule};
use crate::{ops, settings, versioning};

const MAX_RULES: usize = 1000;
const MAX_ID: usize = 255;
const MAX_PREFIX: usize = 1024;

fn refused(message: impl Into<String>) -> S3Error {
    invalid("InvalidRequest", message)
}

fn domain(message: &str) -> DomainError {
    DomainError::invalid("InvalidRequest", message)
}

impl S3Api {
    fn replication_rules(&self, bucket: &BucketRecord) -> S3Result<Option<std::sync::Arc<ReplicationRules>>> {
        // At least as new as what the access hook has read.
        settings::peek_shared::<ReplicationRules>(&self.iam().store().stale(), bucket.id).map_err(from_domain)
    }

    /// What a new version says of its copies, and what is to be written with it.
    pub(super) fn replication(
        &self,
        bucket: &BucketRecord,
        versioning: Versioning,
        key: &str,
        meta: &ObjectMeta,
    ) -> S3Result<(Option<backend::ReplicationStatus>, Vec<Note>)> {
        // As in AWS, what is under a key service's key is not copied; what is under the client's cannot be.
        let is_ours = meta.encryption.as_ref().is_none_or(|encryption| encryption.method == Method::S3);
        match self.replication_rules(bucket)? {
            Some(rules) if versioning == Versioning::Enabled && is_ours => {
                rules.of_version(bucket.id, key, &meta.tags).map_err(from_domain)
            }
            _ => Ok((None, Vec::new())),
        }
    }

    /// What is to be written with a delete marker.
    pub(super) fn replication_of_marker(
        &self,
        bucket: &BucketRecord,
        versioning: Versioning,
        key: &str,
    ) -> S3Result<Vec<Note>> {
        match self.replication_rules(bucket)? {
            Some(rules) if versioning == Versioning::Enabled => rules.of_marker(bucket.id, key).map_err(from_domain),
            _ => Ok(Vec::new()),
        }
    }

    /// What is to be written with a change of what is said of a version.
    pub(super) fn replication_of_change(&self, bucket: &BucketRecord, key: &str) -> S3Result<Vec<Note>> {
        let rules = self.replication_rules(bucket)?;
        rules.map_or(Ok(Vec::new()), |rules| rules.of_change(bucket.id, key)).map_err(from_domain)
    }

    pub(super) async fn get_bucket_replication(
        &self,
        request: S3Request<GetBucketReplicationInput>,
    ) -> S3Result<S3Response<GetBucketReplicationOutput>> {
        let rules = self.setting::<ReplicationRules>(request.bucket()?).await?.ok_or_else(|| {
            let message = "The replication configuration was not found";
            s3("ReplicationConfigurationNotFoundError", StatusCode::NOT_FOUND, message)
        })?;
        let shown = rules.rules.iter().map(|rule| shown_rule(rule, self.region())).collect();
        let replication_configuration = Some(ReplicationConfiguration { role: rules.role, rules: shown });
        Ok(S3Response::new(GetBucketReplicationOutput { replication_configuration }))
    }

    pub(super) async fn put_bucket_replication(
        &self,
        request: S3Request<PutBucketReplicationInput>,
    ) -> S3Result<S3Response<PutBucketReplicationOutput>> {
        let bucket = request.bucket()?.clone();
        let document = &request.input.replication_configuration;
        let role = read_role(&document.role, bucket.account)?;
        let rules = read_rules(&document.rules, self.region(), || format!("{:032x}", self.ids().next_u128()))?;
        self.may_pass(request.scope()?, &role).await?;
        let rules =
            ReplicationRules { role: role.to_string(), bucket: bucket.name().to_owned(), owner: bucket.account, rules };
        let put = |txn: &mut Txn, bucket: &BucketRecord| {
            check_places(txn, bucket, &rules)?;
            settings::put(txn, bucket, &rules)
        };
        self.change_bucket(&bucket, put).await?;
        Ok(S3Response::new(PutBucketReplicationOutput::default()))
    }

    pub(super) async fn delete_bucket_replication(
        &self,
        request: S3Request<DeleteBucketReplicationInput>,
    ) -> S3Result<S3Response<DeleteBucketReplicationOutput>> {
        let bucket = request.bucket()?.clone();
        self.change_bucket(&bucket, |txn, bucket| settings::remove::<ReplicationRules>(txn, bucket.id).map(drop))
            .await?;
        Ok(S3Response::new(DeleteBucketReplicationOutput::default()))
    }

    /// Who gives a role to the service is passing it on.
    async fn may_pass(&self, scope: &RequestScope, role: &Arn) -> S3Result<()> {
        let pass = Permission::on("iam:PassRole", role.clone()).key("iam:PassedToService", "s3.amazonaws.com");
        self.iam().authorize(&scope.caller, &[pass], &scope.facts).await.map_err(from_domain)
    }
}

/// What the store says of source and destinations, in the transaction that sets the rules.
fn check_places(txn: &Txn, bucket: &BucketRecord, rules: &ReplicationRules) -> Result<(), DomainError> {
    if versioning::tracked(txn, bucket.id)? != Versioning::Enabled {
        return Err(domain("Versioning must be 'Enabled' on the bucket to apply a replication configuration"));
    }
    for rule in &rules.rules {
        let name = match &rule.destination {
            Destination::Bucket(name) => name,
            Destination::Target(name) if replication::may_copy_to(txn, name, bucket.account)? => continue,
            Destination::Target(_) => return Err(domain("Destination bucket must exist.")),
        };
        let destination = ops::find_bucket(txn, name)?.ok_or_else(|| domain("Destination bucket must exist."))?;
        if destination.id == bucket.id {
            return Err(domain("Destination bucket cannot be the same as the source bucket"));
        }
        if rule.account.is_some_and(|account| account != destination.account) {
            return Err(domain("The destination bucket is not owned by the account that is named"));
        }
        if versioning::tracked(txn, destination.id)? != Versioning::Enabled {
            return Err(domain("Destination bucket must have versioning enabled."));
        }
        let [ours, theirs] = [bucket.id, destination.id].map(|id| settings::get::<LockSetting>(txn, id));
        if ours?.is_some() && theirs?.is_none() {
            return Err(domain("Object Lock must be enabled on the destination bucket."));
        }
    }
    Ok(())
}

fn read_role(text: &str, account: AccountId) -> S3Result<Arn> {
    let arn = Arn::parse(text).ok().filter(|arn| arn.service() == "iam" && arn.resource().starts_with("role/"));
    let arn = arn.ok_or_else(|| invalid_argument("Invalid Role Arn"))?;
    if arn.account() != Some(account) {
        return Err(refused("The role must be in the account of the bucket"));
    }
    Ok(arn)
}

/// Source: "PutBucketReplication" of the S3 API reference, and what AWS answers.
fn read_rules(rules: &[ReplicationRule], region: &str, new_id: impl Fn() -> String) -> S3Result<Vec<Rule>> {
    if rules.is_empty() {
        return Err(malformed_xml());
    }
    if rules.len() > MAX_RULES {
        return Err(refused("The number of replication rules must not exceed the allowed limit of 1000 rules."));
    }
    let (mut ids, mut priorities, mut read) = (BTreeSet::new(), BTreeSet::new(), Vec::with_capacity(rules.len()));
    let is_second_kind = rules[0].filter.is_some();
    for rule in rules {
        if rule.filter.is_some() != is_second_kind {
            return Err(refused("Replication rules of both schema versions cannot be in one configuration"));
        }
        let id = rule.id.clone().filter(|id| !id.is_empty()).unwrap_or_else(&new_id);
        if id.chars().count() > MAX_ID {
            return Err(invalid_argument("ID length should not exceed allowed limit of 255"));
        }
        if !ids.insert(id.clone()) {
            return Err(invalid_argument("Rule ID must be unique. Found same ID for more than one rule"));
        }
        let rule = read_rule(rule, id, region)?;
        if let Some(priority) = rule.priority
            && !priorities.insert(priority)
        {
            return Err(refused(format!("Found duplicate priority {priority}")));
        }
        read.push(rule);
    }
    Ok(read)
}

fn read_rule(rule: &ReplicationRule, id: String, region: &str) -> S3Result<Rule> {
    let on = |status: &str| match status {
        "Enabled" => Ok(true),
        "Disabled" => Ok(false),
        _ => Err(malformed_xml()),
    };
    let filter = read_filter(rule)?;
    let version = "must be specified for this version of Cross Region Replication configuration schema. Please refer to S3 Developer Guide for more information.";
    let markers = match rule.delete_marker_replication.as_ref() {
        Some(markers) => Some(on(markers.status.as_ref().ok_or_else(malformed_xml)?.as_str())?),
        None => None,
    };
    if rule.filter.is_some() {
        if rule.priority.is_none() {
            return Err(refused(format!("Priority {version}")));
        }
        if markers.is_none() {
            return Err(refused(format!("DeleteMarkerReplication {version}")));
        }
        if markers == Some(true) && !filter.tags.is_empty() {
            return Err(refused("Delete marker replication is not supported if any Tag filter is specified."));
        }
    } else if rule.priority.is_some() || markers.is_some() {
        return Err(refused("Priority and DeleteMarkerReplication cannot be used for this version of the schema."));
    }
    if rule.priority.is_some_and(|priority| priority < 0) {
        return Err(invalid_argument("Priority must not be negative"));
    }
    let existing =
        rule.existing_object_replication.as_ref().map(|existing| on(existing.status.as_str())).transpose()?;
    if existing == Some(true) {
        return Err(not_implemented("replication of existing objects"));
    }
    if let Some(criteria) = &rule.source_selection_criteria {
        let changes = criteria.replica_modifications.as_ref().map(|changes| on(changes.status.as_str())).transpose()?;
        if changes == Some(true) || criteria.sse_kms_encrypted_objects.is_some() {
            return Err(not_implemented("source selection criteria"));
        }
    }
    let (destination, account, owner_translated) = read_destination(&rule.destination, region)?;
    Ok(Rule {
        id,
        enabled: on(rule.status.as_str())?,
        priority: rule.priority,
        filter,
        delete_markers: markers,
        destination,
        account,
        owner_translated,
        excludes_existing: existing.is_some(),
    })
}

fn read_filter(rule: &ReplicationRule) -> S3Result<Filter> {
    let tags = |tags: &[Tag]| {
        let mut read = StringMap::new();
        for tag in tags {
            let (Some(key), Some(value)) = (tag.key.clone(), tag.value.clone()) else { return Err(malformed_xml()) };
            super::convert::check_tag(&key, &value)?;
            if read.insert(key, value).is_some() {
                return Err(refused("Duplicate Tag Keys are not allowed."));
            }
        }
        Ok(read)
    };
    let filter = match (&rule.prefix, &rule.filter) {
        (Some(prefix), None) => Filter { form: FilterForm::Prefix, prefix: Some(prefix.clone()), ..Filter::default() },
        (None, Some(ReplicationRuleFilter { and: None, prefix, tag })) if prefix.is_none() || tag.is_none() => {
            Filter { prefix: prefix.clone(), tags: tags(tag.as_slice())?, ..Filter::default() }
        }
        (None, Some(ReplicationRuleFilter { and: Some(and), prefix: None, tag: None })) => {
            let tags = tags(and.tags.as_deref().unwrap_or_default())?;
            if usize::from(and.prefix.is_some()) + tags.len() < 2 {
                return Err(malformed_xml());
            }
            Filter { form: FilterForm::And, prefix: and.prefix.clone(), tags, ..Filter::default() }
        }
        _ => return Err(malformed_xml()),
    };
    if filter.prefix.as_ref().is_some_and(|prefix| prefix.len() > MAX_PREFIX) {
        return Err(refused("The maximum size of a prefix is 1024."));
    }
    Ok(filter)
}

fn read_destination(element: &DestinationElement, region: &str) -> S3Result<(Destination, Option<AccountId>, bool)> {
    let is_on = |status: &str| status == "Enabled";
    if element.encryption_configuration.is_some() {
        return Err(not_implemented("encryption of copies"));
    }
    let metrics = element.metrics.as_ref().is_some_and(|metrics| is_on(metrics.status.as_str()));
    if metrics || element.replication_time.as_ref().is_some_and(|time| is_on(time.status.as_str())) {
        return Err(not_implemented("replication time control and its metrics"));
    }
    if element.storage_class.as_ref().is_some_and(|class| class.as_str() != StorageClass::STANDARD) {
        return Err(invalid("InvalidStorageClass", "The storage class you specified is not valid: only STANDARD is"));
    }
    let account = element.account.as_ref().map(|text| text.parse::<AccountId>());
    let account = account.transpose().map_err(|_| invalid_argument("The account id is not valid"))?;
    let translated = element.access_control_translation.is_some();
    if translated && account.is_none() {
        return Err(refused("Account must be specified when AccessControlTranslation is specified"));
    }
    let of_target = format!("arn:aws:s3:{region}:{}:target/", AccountId::NOBODY);
    let bucket = &element.bucket;
    let destination = match (bucket.strip_prefix("arn:aws:s3:::"), bucket.strip_prefix(&of_target)) {
        (Some(name), _) if ops::is_bucket_name(name) => Destination::Bucket(name.to_owned()),
        (None, Some(name)) if !name.is_empty() && account.is_none() => Destination::Target(name.to_owned()),
        _ => return Err(invalid_argument("Invalid bucket ARN.")),
    };
    Ok((destination, account, translated))
}

fn shown_rule(rule: &Rule, region: &str) -> ReplicationRule {
    let status = |on: bool| if on { "Enabled" } else { "Disabled" }.to_owned();
    let mut tags: Vec<_> = rule
        .filter
        .tags
        .iter()
        .map(|(key, value)| Tag { key: Some(key.clone()), value: Some(value.clone()) })
        .collect();
    let prefix = rule.filter.prefix.clone();
    let (old_prefix, filter) = match rule.filter.form {
        FilterForm::Prefix => (prefix, None),
        FilterForm::Single => (None, Some(ReplicationRuleFilter { and: None, prefix, tag: tags.pop() })),
        FilterForm::And => {
            let and = ReplicationRuleAndOperator { prefix, tags: Some(tags).filter(|tags| !tags.is_empty()) };
            (None, Some(ReplicationRuleFilter { and: Some(and), prefix: None, tag: None }))
        }
    };
    let bucket = match &rule.destination {
        Destination::Bucket(name) => format!("arn:aws:s3:::{name}"),
        Destination::Target(name) => format!("arn:aws:s3:{region}:{}:target/{name}", AccountId::NOBODY),
    };
    let owner = OwnerOverride::from_static(OwnerOverride::DESTINATION);
    ReplicationRule {
        delete_marker_replication: rule
            .delete_markers
            .map(|on| DeleteMarkerReplication { status: Some(DeleteMarkerReplicationStatus::from(status(on))) }),
        destination: DestinationElement {
            access_control_translation: rule.owner_translated.then_some(AccessControlTranslation { owner }),
            account: rule.account.map(|account| account.to_string()),
            bucket,
            encryption_configuration: None,
            metrics: None,
            replication_time: None,
            storage_class: None,
        },
        existing_object_replication: rule
            .excludes_existing
            .then(|| ExistingObjectReplication { status: ExistingObjectReplicationStatus::from(status(false)) }),
        filter,
        id: Some(rule.id.clone()),
        prefix: old_prefix,
        priority: rule.priority,
        source_selection_criteria: None,
        status: ReplicationRuleStatus::from(status(rule.enabled)),
    }
}

/// As reads show it.
pub(super) fn shown_status(head: &backend::ObjectHead) -> Option<ReplicationStatus> {
    head.meta.replication.map(|status| ReplicationStatus::from_static(status.name()))
}
