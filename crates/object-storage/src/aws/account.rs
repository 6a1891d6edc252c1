//! The public access block of a whole account: the one part of S3 Control (API version 2018-08-20) that is served.

use bytes::Bytes;
use futures::TryStreamExt;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use hyper::body::Body as HttpBody;
use s3s::dto::PublicAccessBlockConfiguration;
use s3s::xml::{Deserialize, Deserializer, Serialize, Serializer};
use s3s::{Body, S3Error, S3Result};
use std::sync::Arc;
use terroir_action::Target;
use terroir_store::Txn;
use terroir_types::AccountId;

use super::body::{BodyState, CheckedBody, Claims};
use super::error::{access_denied, from_domain, invalid, malformed_xml, method_not_allowed, s3};
use super::front::{S3Front, S3Outcome, error_response};
use super::policy::{read_block, shown_block};
use crate::backend::BoxError;
use crate::guard;

const PATH: &str = "/v20180820/configuration/publicAccessBlock";
const ACCOUNT_HEADER: &str = "x-amz-account-id";
const MAX_DOCUMENT: usize = 16 << 10;

/// Whether a request is about an account. Its path could be an object's; no client of S3 itself sends the header.
pub(super) fn is_about_account(parts: &Parts) -> bool {
    parts.uri.path() == PATH && parts.headers.contains_key(ACCOUNT_HEADER)
}

impl S3Front {
    pub(super) async fn account<B>(&self, parts: Parts, body: B, outcome: &mut S3Outcome) -> Response<Body>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Box::pin(self.public_access_block(parts, body, outcome)).await.unwrap_or_else(error_response)
    }

    async fn public_access_block<B>(&self, parts: Parts, body: B, outcome: &mut S3Outcome) -> S3Result<Response<Body>>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (operation, permission) = match parts.method {
            Method::GET => ("GetPublicAccessBlock", "s3:GetAccountPublicAccessBlock"),
            Method::PUT => ("PutPublicAccessBlock", "s3:PutAccountPublicAccessBlock"),
            Method::DELETE => ("DeletePublicAccessBlock", "s3:PutAccountPublicAccessBlock"),
            _ => return Err(method_not_allowed()),
        };
        outcome.operation = Some(operation.to_owned());
        let admitted = self.admit(&parts).await?;
        outcome.caller = Some(admitted.caller.clone());
        let named = parts.headers.get(ACCOUNT_HEADER).and_then(|value| value.to_str().ok());
        let account: AccountId = named
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| invalid("InvalidRequest", "The account id is not valid"))?;
        if account != admitted.caller.account {
            return Err(access_denied());
        }
        let iam = self.api().iam();
        iam.authorize(&admitted.caller, &[Target::any(permission)], &admitted.facts).await.map_err(from_domain)?;
        match parts.method {
            Method::GET => {
                let txn = iam.store().read().await.map_err(|error| from_domain(error.into()))?;
                let block = guard::of_account(&txn, account).map_err(from_domain)?.ok_or_else(|| {
                    let message = "The public access block configuration was not found";
                    s3("NoSuchPublicAccessBlockConfiguration", StatusCode::NOT_FOUND, message)
                })?;
                document(&shown_block(block))
            }
            Method::PUT => {
                let state = Arc::new(BodyState::default());
                let checked =
                    CheckedBody::new(body, admitted.proof, Claims::default(), admitted.length, Arc::clone(&state));
                let bytes = collect(checked).await?;
                let mut reader = Deserializer::new(&bytes);
                let given = PublicAccessBlockConfiguration::deserialize(&mut reader).map_err(|_| malformed_xml())?;
                let block = Some(read_block(&given));
                let set = |txn: &mut Txn| guard::set_for_account(txn, account, block);
                iam.store().transact(&[], set).await.map_err(from_domain)?;
                Ok(Response::new(Body::empty()))
            }
            _ => {
                let forget = |txn: &mut Txn| guard::set_for_account(txn, account, None);
                iam.store().transact(&[], forget).await.map_err(from_domain)?;
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NO_CONTENT;
                Ok(response)
            }
        }
    }
}

async fn collect(mut body: CheckedBody) -> S3Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = body.try_next().await.map_err(|failure| failure.to_s3())? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > MAX_DOCUMENT {
            return Err(malformed_xml());
        }
    }
    Ok(bytes)
}

fn document(value: &impl Serialize) -> S3Result<Response<Body>> {
    let mut text = Vec::new();
    let mut writer = Serializer::new(&mut text);
    let written = writer.decl().and_then(|()| value.serialize(&mut writer));
    written.map_err(|error| S3Error::with_source(s3s::S3ErrorCode::InternalError, Box::new(error)))?;
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    Ok(response)
}
