//! What clients send to the APIs.

use http::request::{Builder, Parts};
use s3s::dto;
use s3s::xml::{Deserialize, Deserializer};
use terroir_aws_model::{Params, Structure, ec2, iam, kms, sts};
use terroir_iam::sigv4::{PathRule, Presented, Scope, SigningKey, canonical_request, encode};
use terroir_object_storage::post_policy::PostPolicy;

/// A query string or form in the query protocols.
pub fn query(bytes: &[u8]) {
    let Ok(params) = Params::parse("", bytes) else { return };
    let content = params.content();
    // Written again and read again, it is the same.
    let form: Vec<String> = content
        .iter()
        .map(|(name, value)| format!("{}={}", encode(name.as_bytes()), encode(value.as_bytes())))
        .collect();
    let again = Params::parse("", form.join("&").as_bytes()).expect("what was read can be written");
    assert_eq!(again.content(), content);
    both::<ec2::RunInstancesRequest>(&params);
    both::<ec2::DescribeInstancesRequest>(&params);
    both::<ec2::AuthorizeSecurityGroupIngressRequest>(&params);
    both::<ec2::CreateTagsRequest>(&params);
    both::<iam::CreatePolicyRequest>(&params);
    both::<sts::AssumeRoleRequest>(&params);
}

/// What is taken strictly is taken leniently.
fn both<T: Structure>(params: &Params) {
    if params.read_strict::<T>().is_ok() {
        assert!(params.read_lenient::<T>().is_ok());
    }
}

/// A body in the JSON protocols.
pub fn json(bytes: &[u8]) {
    let Ok(params) = Params::parse_json("CreateKey", bytes) else { return };
    assert_eq!(params.action(), Some("CreateKey"));
    let _ = params.content();
    let _ = params.read_lenient::<kms::CreateKeyRequest>();
    let _ = params.read_lenient::<kms::CreateGrantRequest>();
    let _ = params.read_lenient::<kms::EncryptRequest>();
    let _ = params.read_lenient::<kms::CreateCustomKeyStoreRequest>();
}

/// A body of S3.
pub fn xml(bytes: &[u8]) {
    read_xml::<dto::Delete>(bytes);
    read_xml::<dto::Tagging>(bytes);
    read_xml::<dto::CompletedMultipartUpload>(bytes);
    read_xml::<dto::BucketLifecycleConfiguration>(bytes);
    read_xml::<dto::AccessControlPolicy>(bytes);
    read_xml::<dto::ReplicationConfiguration>(bytes);
    read_xml::<dto::NotificationConfiguration>(bytes);
    read_xml::<dto::WebsiteConfiguration>(bytes);
}

fn read_xml<'x, T: Deserialize<'x>>(bytes: &'x [u8]) {
    let mut reader = Deserializer::new(bytes);
    let _ = T::deserialize(&mut reader).and_then(|_| reader.expect_eof());
}

/// The head of a request: a method and a URI on the first line, then headers.
pub fn sigv4(bytes: &[u8]) {
    let Some(parts) = head(bytes) else { return };
    let key = SigningKey::derive(
        "a secret that no input knows",
        &Scope { date: "20261124".to_owned(), region: "eu-test-1".to_owned(), service: "s3".to_owned() },
    );
    let host = ["host".to_owned()];
    for rule in [PathRule::Single, PathRule::Double] {
        let _ = canonical_request(&parts, &host, "UNSIGNED-PAYLOAD", rule);
        if let Ok(presented) = Presented::read(&parts) {
            assert!(!presented.access_key_id.is_empty());
            assert!(presented.verify(&parts, "UNSIGNED-PAYLOAD", rule, &key).is_err(), "a forged signature");
        }
    }
}

fn head(bytes: &[u8]) -> Option<Parts> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut first = lines.next()?.splitn(2, |byte| *byte == b' ');
    let (method, uri) = (first.next()?, first.next()?);
    let mut request: Builder = http::Request::builder().method(method).uri(uri);
    for line in lines {
        let at = line.iter().position(|byte| *byte == b':')?;
        request = request.header(&line[..at], &line[at + 1..]);
    }
    Some(request.body(()).ok()?.into_parts().0)
}

/// The policy of an upload by a form.
pub fn form_policy(bytes: &[u8]) {
    let Ok(policy) = PostPolicy::parse(bytes) else { return };
    let nothing = std::collections::BTreeMap::new();
    let late = policy.expires_at;
    let _ = policy.check(&nothing, late);
}
