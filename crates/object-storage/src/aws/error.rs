//! Every failure in S3's words.

use http::StatusCode;
use s3s::{S3Error, S3ErrorCode};
use terroir_iam::AuthenticationError;
use terroir_iam::sigv4::SignatureError;
use terroir_types::{Error, ErrorClass};

use crate::backend::BackendError;

/// An error with S3's code; `status` where s3s knows none for the code or another one.
pub(super) fn s3(code: &str, status: StatusCode, message: impl Into<String>) -> S3Error {
    let code = S3ErrorCode::from_bytes(code.as_bytes()).unwrap_or(S3ErrorCode::InternalError);
    let mut error = S3Error::with_message(code, message.into());
    error.set_status_code(status);
    error
}

pub(super) fn invalid(code: &str, message: impl Into<String>) -> S3Error {
    s3(code, StatusCode::BAD_REQUEST, message)
}

pub(super) fn invalid_argument(message: impl Into<String>) -> S3Error {
    invalid("InvalidArgument", message)
}

pub(super) fn access_denied() -> S3Error {
    s3("AccessDenied", StatusCode::FORBIDDEN, "Access Denied")
}

pub(super) fn not_implemented(what: &str) -> S3Error {
    let message = format!("A header or parameter you provided implies functionality that is not implemented: {what}");
    s3("NotImplemented", StatusCode::NOT_IMPLEMENTED, message)
}

pub(super) fn method_not_allowed() -> S3Error {
    let message = "The specified method is not allowed against this resource.";
    s3("MethodNotAllowed", StatusCode::METHOD_NOT_ALLOWED, message)
}

pub(super) fn no_such_bucket() -> S3Error {
    s3("NoSuchBucket", StatusCode::NOT_FOUND, "The specified bucket does not exist")
}

pub(super) fn no_such_key() -> S3Error {
    s3("NoSuchKey", StatusCode::NOT_FOUND, "The specified key does not exist.")
}

pub(super) fn precondition_failed() -> S3Error {
    let message = "At least one of the pre-conditions you specified did not hold";
    s3("PreconditionFailed", StatusCode::PRECONDITION_FAILED, message)
}

pub(super) fn malformed_xml() -> S3Error {
    let message = "The XML you provided was not well-formed or did not validate against our published schema";
    invalid("MalformedXML", message)
}

pub(super) fn from_domain(error: Error) -> S3Error {
    let status = match error.class() {
        ErrorClass::Invalid | ErrorClass::Limit | ErrorClass::DryRun => StatusCode::BAD_REQUEST,
        ErrorClass::NotFound => StatusCode::NOT_FOUND,
        ErrorClass::Conflict => StatusCode::CONFLICT,
        ErrorClass::Unauthenticated | ErrorClass::Denied => StatusCode::FORBIDDEN,
        ErrorClass::Throttled => return s3("SlowDown", StatusCode::SERVICE_UNAVAILABLE, error.message()),
        ErrorClass::Unsupported => return s3("NotImplemented", StatusCode::NOT_IMPLEMENTED, error.message()),
        ErrorClass::Capacity | ErrorClass::Unavailable => {
            tracing::warn!(%error, detail = error.internal_detail(), "a request could not be served for now");
            return s3("ServiceUnavailable", StatusCode::SERVICE_UNAVAILABLE, error.message());
        }
        ErrorClass::Internal => return internal(&error, error.internal_detail()),
    };
    s3(error.code(), status, error.message())
}

fn internal(error: &dyn std::fmt::Display, detail: Option<&str>) -> S3Error {
    tracing::error!(%error, detail, "an S3 request failed");
    let message = "We encountered an internal error. Please try again.";
    s3("InternalError", StatusCode::INTERNAL_SERVER_ERROR, message)
}

pub(super) fn from_backend(error: BackendError) -> S3Error {
    match error {
        BackendError::NoSuchBucket => no_such_bucket(),
        BackendError::BucketNotEmpty => {
            s3("BucketNotEmpty", StatusCode::CONFLICT, "The bucket you tried to delete is not empty")
        }
        BackendError::NoSuchKey => no_such_key(),
        BackendError::NoSuchVersion => {
            s3("NoSuchVersion", StatusCode::NOT_FOUND, "The specified version does not exist.")
        }
        BackendError::Locked => super::lock::locked(),
        BackendError::IsDeleteMarker(marker) => super::versions::is_delete_marker(&marker),
        BackendError::NoSuchUpload => s3(
            "NoSuchUpload",
            StatusCode::NOT_FOUND,
            "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.",
        ),
        BackendError::PreconditionFailed(_) => precondition_failed(),
        BackendError::SourceChanged => s3(
            "ConditionalRequestConflict",
            StatusCode::CONFLICT,
            "A conflicting operation occurred during the processing of the request. Try again.",
        ),
        BackendError::InvalidPartOrder => invalid(
            "InvalidPartOrder",
            "The list of parts was not in ascending order. The parts list must be specified in order by part number.",
        ),
        BackendError::InvalidPart(number) => invalid(
            "InvalidPart",
            format!(
                "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified entity tag may not match the part's entity tag. (part {number})"
            ),
        ),
        BackendError::PartTooSmall { number, size, .. } => invalid(
            "EntityTooSmall",
            format!("Your proposed upload is smaller than the minimum allowed size: part {number} has {size} bytes"),
        ),
        BackendError::TooLarge => invalid("EntityTooLarge", "Your proposed upload exceeds the maximum allowed size"),
        BackendError::Refused(error) => from_domain(error),
        // The body of a copy comes from the store itself.
        BackendError::Body(error) if error.is::<BackendError>() => internal(&error, None),
        BackendError::Body(_) => invalid(
            "IncompleteBody",
            "You did not provide the number of bytes specified by the Content-Length HTTP header",
        ),
        BackendError::DiskFull => {
            tracing::warn!("an object was refused: no disk space is left for objects");
            // Not 503, which every SDK would try again at once.
            let message = "No disk space is left for objects. Delete some, or ask the operator for more.";
            s3("InsufficientStorage", StatusCode::INSUFFICIENT_STORAGE, message)
        }
        BackendError::Away { slow, detail } => {
            tracing::error!(detail, "the foreign store of objects does not serve");
            if slow {
                return s3("SlowDown", StatusCode::SERVICE_UNAVAILABLE, "Please reduce your request rate.");
            }
            let message = "The store of the objects' bytes cannot be reached for now. Try again.";
            s3("ServiceUnavailable", StatusCode::SERVICE_UNAVAILABLE, message)
        }
        BackendError::ReadOnly => {
            tracing::error!("an object was refused: the file system of the objects cannot be written");
            let message = "Objects cannot be written for now: the operator has to look at the disk.";
            s3("ServiceUnavailable", StatusCode::SERVICE_UNAVAILABLE, message)
        }
        BackendError::Closed => {
            s3("ServiceUnavailable", StatusCode::SERVICE_UNAVAILABLE, "The service is shutting down. Try again.")
        }
        error
        @ (BackendError::Io(_) | BackendError::Index(_) | BackendError::Damaged(_) | BackendError::Foreign(_)) => {
            internal(&error, None)
        }
    }
}

pub(super) fn from_authentication(error: AuthenticationError) -> S3Error {
    match error {
        AuthenticationError::UnknownKey => s3(
            "InvalidAccessKeyId",
            StatusCode::FORBIDDEN,
            "The AWS Access Key Id you provided does not exist in our records.",
        ),
        AuthenticationError::InvalidToken => {
            invalid("InvalidToken", "The provided token is malformed or otherwise invalid.")
        }
        AuthenticationError::ExpiredToken => invalid("ExpiredToken", "The provided token has expired."),
        AuthenticationError::Failed(error) => from_domain(error),
    }
}

/// `presigned`: whether the signature stands in the URL.
pub(super) fn from_signature(error: SignatureError, presigned: bool) -> S3Error {
    let malformed = if presigned { "AuthorizationQueryParametersError" } else { "AuthorizationHeaderMalformed" };
    match error {
        SignatureError::Missing => access_denied(),
        SignatureError::Malformed(message) | SignatureError::Scope(message) => invalid(malformed, message),
        SignatureError::Expired(_) if presigned => s3("AccessDenied", StatusCode::FORBIDDEN, "Request has expired"),
        SignatureError::NotYet(_) if presigned => s3("AccessDenied", StatusCode::FORBIDDEN, "Request is not valid yet"),
        SignatureError::Expired(_) | SignatureError::NotYet(_) => s3(
            "RequestTimeTooSkewed",
            StatusCode::FORBIDDEN,
            "The difference between the request time and the current time is too large.",
        ),
        error @ SignatureError::Mismatch => s3("SignatureDoesNotMatch", StatusCode::FORBIDDEN, error.to_string()),
    }
}
