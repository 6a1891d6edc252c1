use async_trait::async_trait;
use axum::body::Body;
use http::{Request, Response, StatusCode};
use terroir_action::Caller;

/// The number that a request has in answers, logs and audit records; an extension of every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(pub String);

/// What an object request turned out to be, for the audit log; an extension of its response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectOutcome {
    /// For example `PutObject`.
    pub operation: Option<String>,
    /// Who signed, if that is proven.
    pub caller: Option<Caller>,
    pub bucket: Option<String>,
    pub key: Option<String>,
    /// S3's code of the error.
    pub error: Option<String>,
}

/// Object storage, as this server sees it. It checks signatures and permissions itself, through the same
/// [`terroir_iam::Iam`]. Requests carry [`RequestId`] and [`terroir_iam::RequestFacts`] among their extensions.
#[async_trait]
pub trait S3Front: Send + Sync + 'static {
    async fn handle(&self, request: Request<Body>) -> Response<Body>;
}

/// For a server without object storage: every request is answered `503`.
#[derive(Debug, Clone, Copy)]
pub struct NoObjects;

#[async_trait]
impl S3Front for NoObjects {
    async fn handle(&self, _request: Request<Body>) -> Response<Body> {
        const BODY: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>ServiceUnavailable</Code><Message>Object storage does not run here.</Message></Error>";
        let mut response = Response::new(Body::from(BODY));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    }
}

/// What the operator's endpoints say.
pub trait OperatorStatus: Send + Sync + 'static {
    /// `Err` with the reason while requests cannot be served.
    fn ready(&self) -> Result<(), String>;

    /// Further metrics in Prometheus's text form, each line ended.
    fn metrics(&self, _out: &mut String) {}
}
