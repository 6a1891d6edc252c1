//! Events as messages.
//!
//! Source: "Event message structure" of the S3 user guide.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use terroir_types::{AccountId, Error};

use crate::backend::Entry;

/// What keys keep in messages; a space becomes a plus sign.
const IN_KEYS: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'*').remove(b'_').remove(b'/').remove(b' ');
/// Stands for an event that says that events will come.
const TEST: &str = "TestEvent";

/// What the writer knows of an event; the rest stands in its [`Entry`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Without `s3:`.
    #[serde(rename = "e")]
    pub event: String,
    /// Id of the rule.
    #[serde(rename = "i")]
    pub rule: String,
    #[serde(rename = "b")]
    pub bucket: String,
    #[serde(rename = "o")]
    pub owner: AccountId,
    #[serde(rename = "p")]
    pub principal: String,
    /// An address, or the name of a service.
    #[serde(rename = "s")]
    pub source: String,
    #[serde(rename = "r")]
    pub request_id: String,
}

/// Where a message is from.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub region: &'a str,
    /// What stands for the bucket's owner.
    pub owner_id: &'a str,
}

impl Told {
    pub(super) fn test(bucket: &str, owner: AccountId, request_id: &str) -> Self {
        Self {
            event: TEST.to_owned(),
            rule: String::new(),
            bucket: bucket.to_owned(),
            owner,
            principal: String::new(),
            source: String::new(),
            request_id: request_id.to_owned(),
        }
    }

    pub(super) fn pack(&self) -> Result<Vec<u8>, Error> {
        rmp_serde::to_vec_named(self).map_err(|error| Error::internal(format_args!("an event: {error}")))
    }

    pub(super) fn unpack(body: &[u8]) -> Result<Self, Error> {
        rmp_serde::from_slice(body).map_err(|error| Error::internal(format_args!("an event: {error}")))
    }

    /// The document that is sent.
    pub fn message(&self, entry: &Entry, subject: Subject<'_>) -> Value {
        let request_id =
            if self.request_id.is_empty() { format!("{:016X}", entry.number) } else { self.request_id.clone() };
        if self.event == TEST {
            return json!({
                "Service": "Amazon S3",
                "Event": "s3:TestEvent",
                "Time": entry.at.to_rfc3339(),
                "Bucket": self.bucket,
                "RequestId": request_id,
                "HostId": request_id,
            });
        }
        json!({ "Records": [{
            "eventVersion": self.version(),
            "eventSource": "aws:s3",
            "awsRegion": subject.region,
            "eventTime": entry.at.to_rfc3339(),
            "eventName": self.event,
            "userIdentity": { "principalId": self.principal },
            "requestParameters": { "sourceIPAddress": self.source },
            "responseElements": { "x-amz-request-id": request_id, "x-amz-id-2": request_id },
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": self.rule,
                "bucket": {
                    "name": self.bucket,
                    "ownerIdentity": { "principalId": subject.owner_id },
                    "arn": format!("arn:aws:s3:::{}", self.bucket),
                },
                "object": self.object(entry),
            },
        }]})
    }

    /// Lifecycle, tags and lists came with a later version of the structure.
    fn version(&self) -> &'static str {
        if self.event.starts_with("ObjectCreated") || self.event.starts_with("ObjectRemoved") { "2.1" } else { "2.3" }
    }

    fn object(&self, entry: &Entry) -> Value {
        let key = utf8_percent_encode(&entry.place.key, IN_KEYS).to_string().replace(' ', "+");
        let mut object = json!({ "key": key, "sequencer": format!("{:018X}", entry.number) });
        if self.event.starts_with("ObjectCreated") {
            object["size"] = json!(entry.size);
        }
        if let Some(etag) = &entry.etag {
            object["eTag"] = json!(etag);
        }
        if !entry.version.is_null() {
            object["versionId"] = json!(entry.version.as_str());
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{BucketId, Place, VersionId};
    use terroir_types::Timestamp;

    fn entry(key: &str, version: &str, etag: Option<&str>) -> Entry {
        Entry {
            number: 0xabc,
            place: Place::new(BucketId::from_random(1), key),
            version: VersionId::parse(version).unwrap(),
            size: 7,
            etag: etag.map(str::to_owned),
            at: Timestamp::parse_rfc3339("2026-11-24T05:00:00.123Z").unwrap(),
            body: Vec::new(),
        }
    }

    #[test]
    fn messages_as_aws_writes_them() {
        let told = |event: &str| Told {
            event: event.to_owned(),
            rule: "rule".to_owned(),
            bucket: "bucket".to_owned(),
            owner: AccountId::from_number(7).unwrap(),
            principal: "AIDA1".to_owned(),
            source: "192.0.2.1".to_owned(),
            request_id: "0123".to_owned(),
        };
        let subject = Subject { region: "eu-1", owner_id: "owner" };
        let created = told("ObjectCreated:Put");
        assert_eq!(Told::unpack(&created.pack().unwrap()).unwrap(), created);
        let message = created.message(&entry("a b/ü+c&.txt", "00000000000000ff", Some("e")), subject);
        let record = &message["Records"][0];
        assert_eq!(record["eventTime"], "2026-11-24T05:00:00.123Z");
        assert_eq!(
            (&record["eventVersion"], &record["s3"]["bucket"]["arn"]),
            (&json!("2.1"), &json!("arn:aws:s3:::bucket"))
        );
        let object = json!({
            "key": "a+b/%C3%BC%2Bc%26.txt", "size": 7, "eTag": "e", "versionId": "00000000000000ff",
            "sequencer": "000000000000000ABC",
        });
        assert_eq!(record["s3"]["object"], object);
        let removed = told("ObjectRemoved:Delete").message(&entry("k", "null", None), subject);
        assert_eq!(removed["Records"][0]["s3"]["object"], json!({ "key": "k", "sequencer": "000000000000000ABC" }));
        assert_eq!(
            told("ObjectTagging:Put").message(&entry("k", "null", None), subject)["Records"][0]["eventVersion"],
            "2.3"
        );
        let test = Told::test("bucket", AccountId::NOBODY, "r").message(&entry("", "null", None), subject);
        assert_eq!((&test["Event"], &test["Bucket"]), (&json!("s3:TestEvent"), &json!("bucket")));
    }
}
