//! One line of a log.
//!
//! Source: "Amazon S3 server access log format" of the S3 user guide.

use http::{HeaderMap, Method, Uri, Version};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::fmt::Write;
use terroir_types::{AccountId, Timestamp};

use crate::acl::canonical_id;

/// What keys keep; all else is encoded.
const IN_KEYS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
/// The longest line; what clients say is cut.
const MAX_TEXT: usize = 2048;

/// What a request said, kept until its answer was sent.
#[derive(Debug, Clone)]
pub struct Request {
    pub at: Timestamp,
    pub method: Method,
    pub uri: Uri,
    pub version: Version,
    pub remote_ip: Option<std::net::IpAddr>,
    pub referer: Option<String>,
    pub user_agent: Option<String>,
    pub host: Option<String>,
    /// `AuthHeader`, `QueryString`, or none.
    pub auth: Option<&'static str>,
    pub body_bytes: Option<u64>,
}

impl Request {
    pub fn read(method: &Method, uri: &Uri, version: Version, headers: &HeaderMap, at: Timestamp) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let signed_in_query = uri.query().is_some_and(|query| query.contains("X-Amz-Signature="));
        let length = text("x-amz-decoded-content-length").or_else(|| text("content-length"));
        Self {
            at,
            method: method.clone(),
            uri: uri.clone(),
            version,
            remote_ip: None,
            referer: text("referer"),
            user_agent: text("user-agent"),
            host: text("host"),
            auth: match () {
                () if headers.contains_key("authorization") => Some("AuthHeader"),
                () if signed_in_query => Some("QueryString"),
                () => None,
            },
            body_bytes: length.and_then(|text| text.parse().ok()),
        }
    }
}

/// A request and its answer.
#[derive(Debug, Clone)]
pub struct Line {
    pub request: Request,
    pub bucket_owner: AccountId,
    pub bucket: String,
    pub key: Option<String>,
    /// ARN, or a canonical id for an account's root; none: nobody signed.
    pub requester: Option<String>,
    pub request_id: String,
    /// As S3's API calls it, for example `PutObject`.
    pub operation: String,
    pub status: u16,
    pub error: Option<String>,
    pub bytes_sent: u64,
    pub object_size: Option<u64>,
    pub total_millis: u64,
    /// Until the answer began.
    pub turnaround_millis: u64,
    pub version: Option<String>,
}

/// What the path and the query of a request are about, as the log calls it.
fn resource(operation: &str, key: bool) -> &'static str {
    const NAMES: [(&str, &str); 24] = [
        ("Acl", "ACL"),
        ("ObjectTagging", "OBJECT_TAGGING"),
        ("BucketTagging", "TAGGING"),
        ("Retention", "OBJECT_LOCK_RETENTION"),
        ("LegalHold", "OBJECT_LOCK_LEGALHOLD"),
        ("ObjectLockConfiguration", "OBJECT_LOCK"),
        ("MultipartUploads", "UPLOADS"),
        ("CreateMultipartUpload", "UPLOADS"),
        ("MultipartUpload", "UPLOAD"),
        ("ListParts", "UPLOAD"),
        ("UploadPart", "PART"),
        ("DeleteObjects", "MULTI_OBJECT_DELETE"),
        ("ListObjectVersions", "BUCKETVERSIONS"),
        ("Versioning", "VERSIONING"),
        ("Lifecycle", "LIFECYCLE"),
        ("Logging", "LOGGING_STATUS"),
        ("Notification", "NOTIFICATION"),
        ("PolicyStatus", "POLICY_STATUS"),
        ("Policy", "BUCKETPOLICY"),
        ("Replication", "REPLICATION"),
        ("Website", "WEBSITE"),
        ("Cors", "CORS"),
        ("Location", "LOCATION"),
        ("Encryption", "ENCRYPTION"),
    ];
    let named = NAMES.iter().find(|(part, _)| operation.contains(part)).map(|(_, name)| *name);
    match (named, key) {
        (Some(name), _) => name,
        (None, true) => "OBJECT",
        (None, false) => "BUCKET",
    }
}

fn or_dash<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// What clients say may hold anything; it must not end its field, or the line.
fn quoted(text: Option<&str>) -> String {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return "\"-\"".to_owned() };
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("\"{}\"", text[..end].replace(['"', '\r', '\n'], "%"))
}

impl Line {
    /// Ends with a line end.
    pub fn text(&self) -> String {
        let request = &self.request;
        let operation = match self.operation.as_str() {
            "CopyObject" => "REST.COPY.OBJECT".to_owned(),
            "UploadPartCopy" => "REST.COPY.PART".to_owned(),
            operation => format!("REST.{}.{}", request.method, resource(operation, self.key.is_some())),
        };
        let version = if request.version == Version::HTTP_2 { "HTTP/2.0" } else { "HTTP/1.1" };
        let path = request.uri.path_and_query().map_or("/", |path| path.as_str());
        let uri = format!("{} {path} {version}", request.method);
        let key = self.key.as_deref().filter(|key| !key.is_empty());
        let key = key.map(|key| utf8_percent_encode(key, IN_KEYS).to_string());
        let bytes = (self.bytes_sent > 0).then_some(self.bytes_sent);
        let signature = request.auth.map(|_| "SigV4");
        let mut text = String::with_capacity(512);
        // A string takes all that is written to it.
        let _ = writeln!(
            text,
            "{} {} {} {} {} {} {operation} {} {} {} {} {} {} {} {} {} {} {} {} {} - {} {} - - -",
            canonical_id(self.bucket_owner),
            self.bucket,
            time(request.at),
            or_dash(request.remote_ip),
            or_dash(self.requester.as_deref()),
            self.request_id,
            or_dash(key),
            quoted(Some(&uri)),
            self.status,
            or_dash(self.error.as_deref()),
            or_dash(bytes),
            or_dash(self.object_size),
            self.total_millis,
            self.turnaround_millis,
            quoted(request.referer.as_deref()),
            quoted(request.user_agent.as_deref()),
            or_dash(self.version.as_deref()),
            self.request_id,
            or_dash(signature),
            or_dash(request.auth),
            or_dash(request.host.as_deref()),
        );
        text
    }
}

/// `[06/Feb/2019:00:00:38 +0000]`
fn time(at: Timestamp) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let text = at.to_rfc3339_seconds();
    let month = text[5..7].parse::<usize>().ok().and_then(|month| MONTHS.get(month - 1)).unwrap_or(&"Jan");
    format!("[{}/{month}/{}:{} +0000]", &text[8..10], &text[..4], &text[11..19])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_aws_writes_them() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("user-agent", "client \"1\""), ("host", "s3.test"), ("authorization", "AWS4"), ("content-length", "7")]
        {
            headers.insert(name, value.parse().unwrap());
        }
        let uri: Uri = "/photos/a%20b.jpg?versionId=x".parse().unwrap();
        let at = Timestamp::parse_rfc3339("2019-02-06T00:00:38Z").unwrap();
        let mut request = Request::read(&Method::GET, &uri, Version::HTTP_11, &headers, at);
        request.remote_ip = Some("192.0.2.3".parse().unwrap());
        let owner = AccountId::from_number(7).unwrap();
        let line = Line {
            request,
            bucket_owner: owner,
            bucket: "photos".to_owned(),
            key: Some("a b.jpg".to_owned()),
            requester: Some("arn:aws:iam::000000000007:user/a".to_owned()),
            request_id: "3E57427F3EXAMPLE".to_owned(),
            operation: "GetObject".to_owned(),
            status: 200,
            error: None,
            bytes_sent: 113,
            object_size: Some(113),
            total_millis: 7,
            turnaround_millis: 5,
            version: Some("x".to_owned()),
        };
        let expected = format!(
            "{} photos [06/Feb/2019:00:00:38 +0000] 192.0.2.3 arn:aws:iam::000000000007:user/a 3E57427F3EXAMPLE REST.GET.OBJECT a%20b.jpg \"GET /photos/a%20b.jpg?versionId=x HTTP/1.1\" 200 - 113 113 7 5 \"-\" \"client %1%\" x 3E57427F3EXAMPLE SigV4 - AuthHeader s3.test - - -\n",
            canonical_id(owner)
        );
        assert_eq!(line.text(), expected);
        for (operation, key, expected) in [
            ("ListObjectsV2", false, "BUCKET"),
            ("PutBucketVersioning", false, "VERSIONING"),
            ("PutObjectTagging", true, "OBJECT_TAGGING"),
            ("PutBucketTagging", false, "TAGGING"),
            ("CompleteMultipartUpload", true, "UPLOAD"),
            ("CreateMultipartUpload", true, "UPLOADS"),
            ("UploadPart", true, "PART"),
            ("GetObjectAcl", true, "ACL"),
            ("GetBucketPolicyStatus", false, "POLICY_STATUS"),
        ] {
            assert_eq!(resource(operation, key), expected, "{operation}");
        }
    }
}
