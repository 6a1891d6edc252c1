//! From errors to what a client sees, per service.

use axum::body::Body;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use terroir_aws_model::{Protocol, Service, encode_error};
use terroir_iam::AuthenticationError;
use terroir_iam::sigv4::SignatureError;
use terroir_types::{Error, ErrorClass};

const ERROR_TYPE_HEADER: HeaderName = HeaderName::from_static("x-amzn-errortype");
pub(crate) const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-amzn-requestid");

/// Status, code and message of a refused request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub status: StatusCode,
    pub code: String,
    pub message: String,
}

impl Failure {
    fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into() }
    }

    /// A domain's error under the service's own codes.
    pub(crate) fn of(service: Service, error: &Error) -> Self {
        if service.speaks_json() {
            return Self::of_json(service, error);
        }
        let (code, message) = match (error.class(), service) {
            (ErrorClass::Denied, Service::Ec2) if error.code() == "AccessDenied" => (
                "UnauthorizedOperation",
                format!("You are not authorized to perform this operation. {}", error.message()),
            ),
            (ErrorClass::Internal, Service::Iam) => ("ServiceFailure", error.message().to_owned()),
            (ErrorClass::Internal, Service::Sts) => ("InternalFailure", error.message().to_owned()),
            (ErrorClass::Unavailable, Service::Iam | Service::Sts) if error.code() == "Unavailable" => {
                ("ServiceUnavailable", error.message().to_owned())
            }
            _ => (error.code(), error.message().to_owned()),
        };
        let status = match (service, code) {
            (Service::Iam, "ReportNotPresent" | "ReportExpired") => StatusCode::GONE,
            _ => status(service, error.class()),
        };
        Self { status, code: code.to_owned(), message }
    }

    /// Where JSON is spoken codes are names of exceptions, and the status tells only whose fault it is.
    fn of_json(service: Service, error: &Error) -> Self {
        let code = match (error.class(), error.code()) {
            (ErrorClass::Internal, _) if service == Service::Kms => "KMSInternalException",
            (ErrorClass::Internal, _) => "InternalFailure",
            (_, "Unavailable") => "ServiceUnavailableException",
            (_, "AccessDenied") => "AccessDeniedException",
            (_, "DryRunOperation") => "DryRunOperationException",
            (_, "InvalidClientTokenId") => "UnrecognizedClientException",
            (_, "RequestEntityTooLarge") => "RequestEntityTooLargeException",
            (_, code) => code,
        };
        let status = match error.class() {
            ErrorClass::Internal | ErrorClass::Capacity => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorClass::Unavailable if code == "ServiceUnavailableException" => StatusCode::SERVICE_UNAVAILABLE,
            ErrorClass::Unavailable => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(status, code, error.message())
    }

    pub(crate) fn of_signature(service: Service, error: &SignatureError) -> Self {
        let text = error.to_string();
        if service.speaks_json() {
            let (code, text) = match error {
                SignatureError::Missing => {
                    ("MissingAuthenticationTokenException", "Missing Authentication Token".to_owned())
                }
                SignatureError::Malformed(_) => ("IncompleteSignatureException", text),
                _ => ("InvalidSignatureException", text),
            };
            return Self::new(StatusCode::BAD_REQUEST, code, text);
        }
        match (error, service) {
            (SignatureError::Missing, _) => Self::new(
                StatusCode::FORBIDDEN,
                "MissingAuthenticationToken",
                "Request is missing Authentication Token",
            ),
            (SignatureError::Malformed(_), Service::Ec2) => {
                Self::new(StatusCode::BAD_REQUEST, "IncompleteSignature", text)
            }
            (SignatureError::Malformed(_), _) => Self::new(StatusCode::FORBIDDEN, "IncompleteSignature", text),
            (SignatureError::Expired(_) | SignatureError::NotYet(_), Service::Ec2) => {
                Self::new(StatusCode::BAD_REQUEST, "RequestExpired", format!("Request has expired. {text}"))
            }
            (SignatureError::Scope(_) | SignatureError::Mismatch, Service::Ec2) => Self::auth_failure(),
            (_, _) => Self::new(StatusCode::FORBIDDEN, "SignatureDoesNotMatch", text),
        }
    }

    pub(crate) fn of_authentication(service: Service, error: &AuthenticationError) -> Self {
        match (error, service) {
            (AuthenticationError::Failed(error), _) => Self::of(service, error),
            (AuthenticationError::ExpiredToken, _) if service.speaks_json() => {
                Self::new(StatusCode::BAD_REQUEST, "ExpiredTokenException", error.to_string())
            }
            (_, _) if service.speaks_json() => {
                Self::new(StatusCode::BAD_REQUEST, "UnrecognizedClientException", error.to_string())
            }
            (AuthenticationError::ExpiredToken, Service::Ec2) => {
                Self::new(StatusCode::BAD_REQUEST, "RequestExpired", "Request has expired.")
            }
            (_, Service::Ec2) => Self::auth_failure(),
            (AuthenticationError::ExpiredToken, _) => {
                Self::new(StatusCode::FORBIDDEN, "ExpiredToken", error.to_string())
            }
            (_, _) => Self::new(StatusCode::FORBIDDEN, "InvalidClientTokenId", error.to_string()),
        }
    }

    fn auth_failure() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "AuthFailure",
            "AWS was not able to validate the provided access credentials",
        )
    }

    pub(crate) fn throttled(service: Service) -> Self {
        match service.protocol() {
            Protocol::Ec2 => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "RequestLimitExceeded", "Request limit exceeded.")
            }
            Protocol::Json { .. } => Self::new(StatusCode::BAD_REQUEST, "ThrottlingException", "Rate exceeded"),
            Protocol::Query => Self::new(StatusCode::BAD_REQUEST, "Throttling", "Rate exceeded"),
        }
    }

    pub(crate) fn into_response(self, service: Service, request_id: &str) -> Response<Body> {
        let body = encode_error(service, &self.code, &self.message, request_id);
        let mut response = response(service, self.status, body, request_id);
        if matches!(self.code.as_str(), "RequestLimitExceeded" | "Throttling" | "ThrottlingException") {
            response.headers_mut().insert(header::RETRY_AFTER, crate::throttle::RETRY_AFTER);
        }
        if service.speaks_json()
            && let Ok(code) = HeaderValue::from_str(&self.code)
        {
            response.headers_mut().insert(ERROR_TYPE_HEADER, code);
        }
        response
    }
}

/// EC2 answers nearly everything with 400; IAM and STS tell more.
fn status(service: Service, class: ErrorClass) -> StatusCode {
    let is_ec2 = service == Service::Ec2;
    match class {
        ErrorClass::Internal | ErrorClass::Capacity => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorClass::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorClass::Throttled if is_ec2 => StatusCode::SERVICE_UNAVAILABLE,
        ErrorClass::DryRun => StatusCode::PRECONDITION_FAILED,
        ErrorClass::Denied => StatusCode::FORBIDDEN,
        ErrorClass::Unauthenticated if is_ec2 => StatusCode::UNAUTHORIZED,
        ErrorClass::Unauthenticated => StatusCode::FORBIDDEN,
        ErrorClass::NotFound if !is_ec2 => StatusCode::NOT_FOUND,
        ErrorClass::Conflict | ErrorClass::Limit if !is_ec2 => StatusCode::CONFLICT,
        ErrorClass::Invalid
        | ErrorClass::NotFound
        | ErrorClass::Conflict
        | ErrorClass::Limit
        | ErrorClass::Throttled
        | ErrorClass::Unsupported => StatusCode::BAD_REQUEST,
    }
}

/// An answer in the form of the service's protocol.
pub(crate) fn response(service: Service, status: StatusCode, body: String, request_id: &str) -> Response<Body> {
    let kind = match service.protocol() {
        Protocol::Ec2 | Protocol::Query => return xml_response(status, body, request_id),
        Protocol::Json { version: "1.0" } => "application/x-amz-json-1.0",
        Protocol::Json { .. } => "application/x-amz-json-1.1",
    };
    let mut response = xml_response(status, body, request_id);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

pub(crate) fn xml_response(status: StatusCode, body: String, request_id: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/xml;charset=UTF-8"));
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID_HEADER, value);
    }
    response
}
