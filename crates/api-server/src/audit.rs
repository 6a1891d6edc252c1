//! What is known of a call for its audit record, gathered on its way.

use http::StatusCode;
use serde_json::{Value, json};
use terroir_action::{Caller, Target};
use terroir_types::Arn;

use crate::front::ObjectOutcome;

/// The part of an audit record that only those know who answer the call.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub caller: Option<Caller>,
    pub claimed_key: Option<String>,
    pub resources: Vec<Arn>,
    pub parameters: Option<Value>,
    /// A better name than that of the trace.
    pub operation: Option<String>,
    /// A better code than that of the trace.
    pub code: Option<String>,
    pub message: String,
    pub failed: bool,
    pub read_only: bool,
    pub is_data: bool,
    /// It was written with the change that the call made.
    pub recorded: bool,
}

pub(crate) fn resources(targets: &[Target]) -> Vec<Arn> {
    let named = targets.iter().filter_map(|target| target.shown.as_ref().or(target.resource.as_ref()));
    let mut resources: Vec<Arn> = Vec::new();
    for arn in named {
        if !resources.contains(arn) {
            resources.push(arn.clone());
        }
    }
    resources
}

impl Draft {
    /// Of a request to S3. `claimed`: the access key that it presented.
    pub(crate) fn of_object(
        outcome: ObjectOutcome,
        read_only: bool,
        status: StatusCode,
        claimed: Option<String>,
    ) -> Self {
        let ObjectOutcome { operation, caller, bucket, key, error } = outcome;
        let mut resources = Vec::new();
        if let (Some(bucket), Some(key)) = (&bucket, &key) {
            resources.push(Arn::s3(format_args!("{bucket}/{key}")));
        }
        resources.extend(bucket.as_ref().map(Arn::s3));
        let parameters = bucket.as_ref().map(|bucket| match &key {
            Some(key) => json!({ "bucketName": bucket, "key": key }),
            None => json!({ "bucketName": bucket }),
        });
        // AWS counts these among the events of objects although they name none.
        let about_objects =
            ["ListObjects", "ListObjectsV2", "ListObjectVersions", "DeleteObjects", "ListMultipartUploads"];
        let is_data = key.is_some() || operation.as_deref().is_some_and(|name| about_objects.contains(&name));
        Self {
            caller,
            claimed_key: claimed,
            resources,
            parameters,
            operation,
            code: error,
            failed: !(status.is_success() || status.is_redirection()),
            read_only,
            is_data,
            ..Self::default()
        }
    }
}
