//! What requests mean, and that no request can cost more than its bytes.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use terroir_aws_model::{Decode, DecodeError, MAX_NAME_BYTES, MAX_PARAMETERS, Params, Service, ec2, iam, sts};

fn decode<T: Decode>(query: &str, body: &[u8]) -> Result<T, DecodeError> {
    Params::parse(query, body).and_then(|params| T::decode(&params))
}

/// The error of a request as AWS words it: code and message.
fn refusal<T: Decode>(service: Service, body: &str) -> String {
    decode::<T>("", body.as_bytes()).err().map_or("accepted".to_owned(), |error| error.into_error(service).to_string())
}

#[test]
fn ec2_refusals() {
    let long_name = "x".repeat(MAX_NAME_BYTES + 1);
    let too_many = "a=&".repeat(MAX_PARAMETERS + 1);
    for (body, expected) in [
        ("MinCount=1&MaxCount=1", "accepted"),
        (
            "MinCount=1&MaxCount=1&Action=RunInstances&Version=2016-11-15&X-Amz-Security-Token=t&x-amz-date=d",
            "accepted",
        ),
        ("MaxCount=1", "MissingParameter: The request must contain the parameter MinCount"),
        ("MinCount=1&MaxCount=1&Bogus=2", "UnknownParameter: The parameter Bogus is not recognized"),
        ("MinCount=1&MaxCount=1&Placement=x", "UnknownParameter: The parameter Placement is not recognized"),
        ("MinCount=1&MaxCount=1&ImageId.1=x", "UnknownParameter: The parameter ImageId.1 is not recognized"),
        (
            "MinCount=1&MaxCount=1&SecurityGroup.one=x",
            "UnknownParameter: The parameter SecurityGroup.one is not recognized",
        ),
        (
            "MinCount=1&MaxCount=1&SecurityGroup.1234567890=x",
            "UnknownParameter: The parameter SecurityGroup.1234567890 is not recognized",
        ),
        (
            "MinCount=1&MaxCount=1&SecurityGroup.1.x=x",
            "UnknownParameter: The parameter SecurityGroup.1.x is not recognized",
        ),
        (
            "MinCount=1&MinCount=1&MaxCount=1",
            "InvalidParameterCombination: The parameter MinCount may be given only once",
        ),
        (
            "MinCount=1&MaxCount=1&SecurityGroup.1=a&SecurityGroup.01=b",
            "InvalidParameterCombination: The parameter SecurityGroup.1 may be given only once",
        ),
        (
            "MinCount=one&MaxCount=1",
            "InvalidParameterValue: Value (one) for parameter MinCount is invalid: expected an integer",
        ),
        (
            "MinCount=2147483648&MaxCount=1",
            "InvalidParameterValue: Value (2147483648) for parameter MinCount is invalid: expected an integer",
        ),
        ("MinCount=&MaxCount=1", "InvalidParameterValue: Invalid value for parameter MinCount: expected an integer"),
        (
            "MinCount=1&MaxCount=1&DryRun=yes",
            "InvalidParameterValue: Value (yes) for parameter DryRun is invalid: expected true or false",
        ),
        (
            "MinCount=1&MaxCount=1&BlockDeviceMapping.3.Ebs.VolumeSize=big",
            "InvalidParameterValue: Value (big) for parameter BlockDeviceMapping.3.Ebs.VolumeSize is invalid: expected an integer",
        ),
        ("MinCount=%zz", "MalformedQueryString: The request cannot be read: a percent escape is not hexadecimal"),
        ("MinCount=%1", "MalformedQueryString: The request cannot be read: incomplete percent escape"),
        ("MinCount=%ff", "MalformedQueryString: The request cannot be read: text is not UTF-8"),
        (
            &long_name,
            "MalformedQueryString: The request cannot be read: the name of a parameter is longer than 512 bytes",
        ),
        (&too_many, "MalformedQueryString: The request cannot be read: more than 10000 parameters"),
    ] {
        assert_eq!(
            refusal::<ec2::RunInstancesRequest>(Service::Ec2, body),
            expected,
            "{}",
            &body[..body.len().min(99)]
        );
    }
    let no_list = refusal::<ec2::StartInstancesRequest>(Service::Ec2, "");
    assert_eq!(no_list, "MissingParameter: The request must contain the parameter InstanceId");
    let secret = refusal::<ec2::ImportKeyPairRequest>(Service::Ec2, "KeyName=k&PublicKeyMaterial=not+base64");
    assert_eq!(secret, "InvalidParameterValue: Invalid value for parameter PublicKeyMaterial: expected base64");
}

#[test]
fn iam_refusals() {
    for (body, expected) in [
        ("UserName=u&Bogus=1&Tags=", "accepted"),
        ("Path=%2F", "ValidationError: The request must contain the parameter UserName"),
    ] {
        assert_eq!(refusal::<iam::CreateUserRequest>(Service::Iam, body), expected, "{body}");
    }
    let number = refusal::<sts::GetSessionTokenRequest>(Service::Sts, "DurationSeconds=1h");
    assert_eq!(number, "ValidationError: Value (1h) for parameter DurationSeconds is invalid: expected an integer");
}

#[test]
fn lists_start_anywhere_and_have_gaps() {
    let body = b"ResourceId.7=b&ResourceId.0=a&Tag.10.Key=k10&Tag.2.Key=k+2&Tag.2.Value=%C3%A9&Tag.10.Value=";
    let request: ec2::CreateTagsRequest = decode("Action=CreateTags&DryRun=TRUE", body).unwrap();
    assert_eq!(request.resources, ["a", "b"]);
    let tag = |key: &str, value: &str| ec2::Tag { key: Some(key.to_owned()), value: Some(value.to_owned()) };
    assert_eq!(request.tags, [tag("k 2", "é"), tag("k10", "")]);
    assert!(request.dry_run());

    let user: iam::CreateUserRequest = decode("", b"UserName=u&Tags.member.5.Key=a&Tags.member.5.Value=b").unwrap();
    assert_eq!(user.tags, [iam::Tag { key: "a".to_owned().into(), value: "b".to_owned().into() }]);
}

#[test]
fn content_leaves_out_the_envelope() {
    let params = Params::parse("X-Amz-Date=1&Version=2", b"B=%20&Action=Do&A.1=x").unwrap();
    assert_eq!(params.content(), [("A.1", "x".into()), ("B", " ".into())]);
    assert_eq!((params.action(), params.version(), params.get("A.1")), (Some("Do"), Some("2"), Some("x")));
}

#[test]
fn a_request_is_small_whatever_its_names_say() {
    // The most elements that the limit allows, at the highest indices, each with as deep a name as there is.
    let body: String = (0..MAX_PARAMETERS).map(|n| format!("Filter.{}.Value.999999999=v&", 990_000_000 + n)).collect();
    let request: ec2::DescribeInstancesRequest = decode("", body.as_bytes()).unwrap();
    assert_eq!(request.filters.len(), MAX_PARAMETERS);
    assert!(request.filters.iter().all(|filter| filter.values == ["v"] && filter.values.capacity() <= 4));
}

/// `DescribeInstances` read the slow and obvious way: every name is compared with every pattern.
#[derive(Debug, Default, PartialEq)]
struct Expected {
    instance_ids: Vec<String>,
    filters: Vec<ec2::Filter>,
    first_unknown: Option<String>,
}

fn expected(parameters: &BTreeMap<String, String>) -> Expected {
    let mut taken = BTreeSet::new();
    let mut list = |prefix: &str| -> Vec<String> {
        let mut found = BTreeMap::new();
        for (name, value) in parameters {
            if let Some(index) = name.strip_prefix(prefix).and_then(index) {
                found.insert(index, value.clone());
                taken.insert(name.clone());
            }
        }
        found.into_values().collect()
    };
    let instance_ids = list("InstanceId.");
    let mut filters = BTreeMap::new();
    for name in parameters.keys() {
        let Some((segment, _)) = name.strip_prefix("Filter.").and_then(|rest| rest.split_once('.')) else { continue };
        if let Some(number) = index(segment) {
            let values = list(&format!("Filter.{segment}.Value."));
            let name = parameters.get(&format!("Filter.{segment}.Name")).cloned();
            filters.insert(number, (segment.to_owned(), ec2::Filter { name, values }));
        }
    }
    for (segment, _) in filters.values() {
        taken.insert(format!("Filter.{segment}.Name"));
    }
    let first_unknown = parameters.keys().find(|name| !taken.contains(*name)).cloned();
    Expected { instance_ids, filters: filters.into_values().map(|(_, filter)| filter).collect(), first_unknown }
}

fn index(segment: &str) -> Option<u32> {
    let digits = (1..=9).contains(&segment.len()) && segment.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| segment.parse().ok()).flatten()
}

/// Names close to those that mean something. `-` and `/` sort just before and just after the dot.
fn name() -> impl Strategy<Value = String> {
    let number = || prop::sample::select(vec!["1", "1", "2", "10", "0", "999999999"]);
    let odd = prop::sample::select(vec!["Filter", "Value", "InstanceId", "1", "9999999999", "1-", "1/", "", "x"]);
    let dot = || prop::sample::select(vec![".", ".", ".", ".", ".", "-", "/"]);
    let odd = prop::collection::vec((odd, dot()), 1..6)
        .prop_map(|parts| parts.iter().map(|(segment, dot)| format!("{segment}{dot}")).collect());
    prop_oneof![
        1 => odd,
        3 => (number(), dot(), dot()).prop_map(|(n, a, b)| format!("Filter{a}{n}{b}Name")),
        3 => (number(), number(), dot(), dot()).prop_map(|(n, m, a, b)| format!("Filter.{n}{a}Value{b}{m}")),
        1 => (number(), dot()).prop_map(|(n, a)| format!("Filter.{n}{a}")),
        1 => number().prop_map(|n| format!("Filter.{n}")),
        2 => (number(), dot()).prop_map(|(n, a)| format!("InstanceId{a}{n}")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn agrees_with_the_obvious_reading(parameters in prop::collection::btree_map(name(), "[a-z]{0,3}", 0..16)) {
        let body: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={value}")).rev().collect();
        let params = Params::parse("", body.join("&").as_bytes()).unwrap();
        let lenient: ec2::DescribeInstancesRequest = params.read_lenient().unwrap();
        let strict = match params.read_strict::<ec2::DescribeInstancesRequest>() {
            Ok(_) => None,
            Err(DecodeError::Unknown { name }) => Some(name),
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        };
        let read = Expected { instance_ids: lenient.instance_ids, filters: lenient.filters, first_unknown: strict };
        prop_assert_eq!(read, expected(&parameters));
    }

    #[test]
    fn no_bytes_make_it_panic(query in "\\PC{0,40}", body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode::<ec2::RunInstancesRequest>(&query, &body);
        let _ = decode::<iam::CreateUserRequest>(&query, &body);
    }

    #[test]
    fn no_names_make_it_panic(names in prop::collection::vec("(Tag|Tags|Filter|member|Key|[0-9.&=%+]|é){1,8}", 0..20)) {
        let body = names.join("&");
        let _ = decode::<ec2::DescribeInstancesRequest>("", body.as_bytes());
        let _ = decode::<iam::CreateUserRequest>("", body.as_bytes());
    }
}
