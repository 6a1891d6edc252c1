//! Logging of requests, as clients configure it, and what the front notes of each request.

use hyper::body::{Body as HttpBody, Frame, SizeHint};
use s3s::dto::*;
use s3s::{Body, S3Error, S3Request, S3Response, S3Result};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;
use terroir_action::CallerKind;

use super::error::{from_domain, invalid, malformed_xml, not_implemented};
use super::front::S3Outcome;
use super::service::{S3Api, Scoped};
use crate::access_log::{self, KeyFormat, Line, Logging, Request};
use crate::backend::BucketId;
use crate::{ops, settings};

fn refused(message: &str) -> S3Error {
    invalid("InvalidTargetBucketForLogging", message)
}

impl S3Api {
    pub(super) async fn get_bucket_logging(
        &self,
        request: S3Request<GetBucketLoggingInput>,
    ) -> S3Result<S3Response<GetBucketLoggingOutput>> {
        let found = self.setting::<Logging>(request.bucket()?).await?;
        let logging_enabled = found.map(|logging| LoggingEnabled {
            target_object_key_format: shown_format(logging.format),
            target_bucket: logging.target,
            target_grants: None,
            target_prefix: logging.prefix,
        });
        Ok(S3Response::new(GetBucketLoggingOutput { logging_enabled }))
    }

    pub(super) async fn put_bucket_logging(
        &self,
        request: S3Request<PutBucketLoggingInput>,
    ) -> S3Result<S3Response<PutBucketLoggingOutput>> {
        let bucket = request.bucket()?.clone();
        let Some(asked) = &request.input.bucket_logging_status.logging_enabled else {
            self.change_bucket(&bucket, |txn, bucket| settings::remove::<Logging>(txn, bucket.id).map(drop)).await?;
            return Ok(S3Response::new(PutBucketLoggingOutput::default()));
        };
        if asked.target_grants.as_ref().is_some_and(|grants| !grants.is_empty()) {
            return Err(not_implemented("grants on access logs"));
        }
        let format = read_format(asked.target_object_key_format.as_ref())?;
        let logging = Logging { target: asked.target_bucket.clone(), prefix: asked.target_prefix.clone(), format };
        let txn = self.iam().store().read().await.map_err(|error| from_domain(error.into()))?;
        let target = ops::find_bucket(&txn, &logging.target).map_err(from_domain)?;
        let target = target.ok_or_else(|| refused("The target bucket for logging does not exist"))?;
        if target.account != bucket.account {
            let message = "The owner for the bucket to be logged and the target bucket must be the same.";
            return Err(refused(message));
        }
        let facts = &request.scope()?.facts;
        let allowed = access_log::may_deliver(self.iam(), &txn, &bucket, &target, &logging.prefix, facts).await;
        allowed.map_err(|_| {
            refused(
                "The logging service (logging.s3.amazonaws.com) needs s3:PutObject by the policy of the target bucket, or the log-delivery group WRITE by its list.",
            )
        })?;
        self.change_bucket(&bucket, |txn, bucket| settings::put(txn, bucket, &logging)).await?;
        Ok(S3Response::new(PutBucketLoggingOutput::default()))
    }
}

fn read_format(format: Option<&TargetObjectKeyFormat>) -> S3Result<KeyFormat> {
    let Some(format) = format else { return Ok(KeyFormat::Unsaid) };
    match (&format.partitioned_prefix, &format.simple_prefix) {
        (None, Some(_)) => Ok(KeyFormat::Simple),
        (Some(partitioned), None) => {
            match partitioned.partition_date_source.as_ref().map(PartitionDateSource::as_str) {
                Some(PartitionDateSource::EVENT_TIME) => Ok(KeyFormat::ByEvent),
                Some(PartitionDateSource::DELIVERY_TIME) | None => Ok(KeyFormat::ByDelivery),
                Some(_) => Err(malformed_xml()),
            }
        }
        _ => Err(malformed_xml()),
    }
}

fn shown_format(format: KeyFormat) -> Option<TargetObjectKeyFormat> {
    let partitioned = |source| TargetObjectKeyFormat {
        partitioned_prefix: Some(PartitionedPrefix {
            partition_date_source: Some(PartitionDateSource::from_static(source)),
        }),
        simple_prefix: None,
    };
    match format {
        KeyFormat::Unsaid => None,
        KeyFormat::Simple => {
            Some(TargetObjectKeyFormat { partitioned_prefix: None, simple_prefix: Some(SimplePrefix {}) })
        }
        KeyFormat::ByEvent => Some(partitioned(PartitionDateSource::EVENT_TIME)),
        KeyFormat::ByDelivery => Some(partitioned(PartitionDateSource::DELIVERY_TIME)),
    }
}

/// A request whose answer is being sent.
struct Pending {
    api: S3Api,
    bucket: BucketId,
    line: Line,
    started: Instant,
}

impl Drop for Pending {
    /// Also where the client has gone away.
    fn drop(&mut self) {
        self.line.total_millis = millis(self.started);
        self.api.access_logs().add(self.bucket, &self.line);
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Counts what is sent.
struct Counted {
    body: Body,
    pending: Pending,
}

impl HttpBody for Counted {
    type Data = bytes::Bytes;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.pending.line.bytes_sent += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl S3Api {
    /// Has the answer noted once it was sent, if its bucket's requests are logged.
    pub(super) fn log_access(
        &self,
        request: Request,
        started: Instant,
        request_id: &str,
        outcome: &S3Outcome,
        response: http::Response<Body>,
    ) -> http::Response<Body> {
        let Some(name) = &outcome.bucket else { return response };
        let txn = self.iam().store().stale();
        let Ok(Some(bucket)) = ops::find_bucket(&txn, name) else { return response };
        if !matches!(settings::peek_shared::<Logging>(&txn, bucket.id), Ok(Some(_))) {
            return response;
        }
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let requester = outcome.caller.as_ref().and_then(|caller| match caller.kind {
            CallerKind::Anonymous => None,
            CallerKind::Root => Some(crate::acl::canonical_id(caller.account)),
            _ => Some(caller.arn.to_string()),
        });
        let is_read = request.method == http::Method::GET || request.method == http::Method::HEAD;
        let whole =
            header("content-range").and_then(|range| range.rsplit('/').next()).or_else(|| header("content-length"));
        let size = if is_read { whole.and_then(|text| text.parse().ok()) } else { request.body_bytes };
        let line = Line {
            bucket_owner: bucket.account,
            bucket: name.clone(),
            key: outcome.key.clone(),
            requester,
            request_id: request_id.to_owned(),
            operation: outcome.operation.clone().unwrap_or_default(),
            status: response.status().as_u16(),
            error: outcome.error.clone(),
            bytes_sent: 0,
            object_size: size.filter(|_| outcome.key.is_some() && response.status().is_success()),
            total_millis: 0,
            turnaround_millis: millis(started),
            version: header("x-amz-version-id").map(str::to_owned),
            request,
        };
        let pending = Pending { api: self.clone(), bucket: bucket.id, line, started };
        response.map(|body| Body::http_body_unsync(Counted { body, pending }))
    }
}
