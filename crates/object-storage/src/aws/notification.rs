//! What a bucket tells of, as clients write it.

use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Response, S3Result};
use std::collections::BTreeSet;
use terroir_store::Txn;

use super::error::{from_backend, from_domain, invalid_argument, malformed_xml, not_implemented};
use super::front::RequestScope;
use super::service::{S3Api, Scoped};
use crate::backend::{Note, Place};
use crate::model::Bucket as BucketRecord;
use crate::notification::{self as told, Cause, Form, NotificationRules, Rule};
use crate::{settings, target};

const MAX_RULES: usize = 100;
const MAX_ID: usize = 255;
const MAX_FILTER: usize = 1024;

/// As AWS says it of a topic or queue that is not there, or that the bucket's owner may not use.
fn unknown_destination() -> S3Error {
    invalid_argument("Unable to validate the following destination configurations")
}

impl S3Api {
    /// What is to be written with a change of a key that may turn out to be one of `events`.
    pub(super) fn notes(
        &self,
        scope: &RequestScope,
        bucket: &BucketRecord,
        key: &str,
        events: &[told::Event],
    ) -> S3Result<Vec<Note>> {
        // At least as new as what the access hook has read.
        let txn = self.iam().store().stale();
        let Some(rules) = settings::peek_shared::<NotificationRules>(&txn, bucket.id).map_err(from_domain)? else {
            return Ok(Vec::new());
        };
        let cause =
            Cause { principal: &scope.caller.user_id, source_ip: scope.facts.source_ip, request_id: &scope.request_id };
        rules.notes(&txn, key, events, cause).map_err(from_domain)
    }

    pub(super) async fn get_bucket_notification_configuration(
        &self,
        request: S3Request<GetBucketNotificationConfigurationInput>,
    ) -> S3Result<S3Response<GetBucketNotificationConfigurationOutput>> {
        let mut output = GetBucketNotificationConfigurationOutput::default();
        let found = self.setting::<NotificationRules>(request.bucket()?).await?;
        for rule in found.map(|found| found.rules).unwrap_or_default() {
            let arn = arn(rule.form, self.region(), &rule.target);
            let events = rule.events.iter().cloned().map(Event::from).collect();
            let (filter, id) = (shown_filter(&rule), Some(rule.id));
            match rule.form {
                Form::Topic => {
                    let shown = TopicConfiguration { events, filter, id, topic_arn: arn };
                    output.topic_configurations.get_or_insert_default().push(shown);
                }
                Form::Queue => {
                    let shown = QueueConfiguration { events, filter, id, queue_arn: arn };
                    output.queue_configurations.get_or_insert_default().push(shown);
                }
            }
        }
        Ok(S3Response::new(output))
    }

    pub(super) async fn put_bucket_notification_configuration(
        &self,
        request: S3Request<PutBucketNotificationConfigurationInput>,
    ) -> S3Result<S3Response<PutBucketNotificationConfigurationOutput>> {
        let bucket = request.bucket()?.clone();
        let document = &request.input.notification_configuration;
        let rules = read_rules(document, self.region(), || format!("{:032x}", self.ids().next_u128()))?;
        let rules = NotificationRules { bucket: bucket.name().to_owned(), owner: bucket.account, rules };
        rules.check_overlaps().map_err(from_domain)?;
        let txn = self.iam().store().read().await.map_err(|error| from_domain(error.into()))?;
        for rule in &rules.rules {
            if !told::may_tell(&txn, &rule.target, bucket.account).map_err(from_domain)? {
                return Err(unknown_destination());
            }
        }
        let put = |txn: &mut Txn, bucket: &BucketRecord| {
            if rules.rules.is_empty() {
                return settings::remove::<NotificationRules>(txn, bucket.id).map(drop);
            }
            settings::put(txn, bucket, &rules)
        };
        self.change_bucket(&bucket, put).await?;
        if request.input.skip_destination_validation != Some(true) {
            let notes = rules.test_notes(&txn, &request.scope()?.request_id).map_err(from_domain)?;
            if !notes.is_empty() {
                self.backend().tell(&Place::new(bucket.id, ""), None, notes).await.map_err(from_backend)?;
            }
        }
        Ok(S3Response::new(PutBucketNotificationConfigurationOutput::default()))
    }
}

fn arn(form: Form, region: &str, name: &str) -> String {
    terroir_types::Arn::new(form.service(), region, Some(terroir_types::AccountId::NOBODY), name).to_string()
}

fn shown_filter(rule: &Rule) -> Option<NotificationConfigurationFilter> {
    let named = [(FilterRuleName::PREFIX, &rule.prefix), (FilterRuleName::SUFFIX, &rule.suffix)];
    let filter_rules: Vec<_> = named
        .into_iter()
        .filter_map(|(name, value)| {
            Some(FilterRule { name: Some(FilterRuleName::from_static(name)), value: Some(value.clone()?) })
        })
        .collect();
    (!filter_rules.is_empty())
        .then_some(NotificationConfigurationFilter { key: Some(S3KeyFilter { filter_rules: Some(filter_rules) }) })
}

/// Source: "PutBucketNotificationConfiguration" of the S3 API reference, and what AWS answers.
fn read_rules(document: &NotificationConfiguration, region: &str, new_id: impl Fn() -> String) -> S3Result<Vec<Rule>> {
    if document.event_bridge_configuration.is_some() {
        return Err(not_implemented("events for EventBridge"));
    }
    if document.lambda_function_configurations.as_ref().is_some_and(|list| !list.is_empty()) {
        return Err(unknown_destination());
    }
    let topics = document.topic_configurations.iter().flatten();
    let topics = topics.map(|c| (Form::Topic, &c.topic_arn, &c.id, &c.events, &c.filter));
    let queues = document.queue_configurations.iter().flatten();
    let queues = queues.map(|c| (Form::Queue, &c.queue_arn, &c.id, &c.events, &c.filter));
    let (mut rules, mut ids) = (Vec::new(), BTreeSet::new());
    for (form, arn, id, events, filter) in topics.chain(queues) {
        let id = id.clone().filter(|id| !id.is_empty()).unwrap_or_else(&new_id);
        if id.chars().count() > MAX_ID {
            return Err(invalid_argument("ID length should not exceed allowed limit of 255"));
        }
        if !ids.insert(id.clone()) {
            return Err(invalid_argument("Same ID used for multiple configurations. IDs must be unique."));
        }
        let (prefix, suffix) = read_filter(filter.as_ref())?;
        let events = read_events(events)?;
        let target = target::name_in_arn(arn, form.service(), region).ok_or_else(|| {
            if arn.starts_with("arn:") {
                unknown_destination()
            } else {
                invalid_argument("The ARN could not be parsed")
            }
        })?;
        rules.push(Rule { id, form, target: target.to_owned(), events, prefix, suffix });
    }
    if rules.len() > MAX_RULES {
        return Err(invalid_argument("A bucket may have at most 100 notification configurations"));
    }
    Ok(rules)
}

fn read_events(events: &[Event]) -> S3Result<Vec<String>> {
    if events.is_empty() {
        return Err(malformed_xml());
    }
    let mut read: Vec<String> = Vec::with_capacity(events.len());
    for event in events.iter().map(AsRef::as_ref) {
        if !told::is_known(event) {
            let message = format!("The event '{event}' is not supported for notifications");
            return Err(invalid_argument(message));
        }
        if !read.iter().any(|before| before == event) {
            read.push(event.to_owned());
        }
    }
    Ok(read)
}

fn read_filter(filter: Option<&NotificationConfigurationFilter>) -> S3Result<(Option<String>, Option<String>)> {
    let (mut prefix, mut suffix) = (None, None);
    let rules = filter.and_then(|filter| filter.key.as_ref()).and_then(|key| key.filter_rules.as_deref());
    for rule in rules.unwrap_or_default() {
        let (Some(name), Some(value)) = (&rule.name, &rule.value) else { return Err(malformed_xml()) };
        let place = match name.as_str().to_ascii_lowercase().as_str() {
            FilterRuleName::PREFIX => &mut prefix,
            FilterRuleName::SUFFIX => &mut suffix,
            _ => return Err(invalid_argument("filter rule name must be either prefix or suffix")),
        };
        if value.len() > MAX_FILTER {
            let message = "Size of filter rule value cannot exceed 1024 bytes in UTF-8 representation";
            return Err(invalid_argument(message));
        }
        if place.replace(value.clone()).is_some() {
            let name = name.as_str().to_ascii_lowercase();
            return Err(invalid_argument(format!("Cannot specify more than one {name} rule in a filter.")));
        }
    }
    Ok((prefix, suffix))
}
