use super::naive::{self, PlainKeys};
use super::*;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

fn keys(pairs: &[(&str, &[&str])]) -> Keys {
    let mut keys = Keys::default();
    for (name, values) in pairs {
        keys.set(name, values.iter().copied());
    }
    keys
}

fn ask(statement: &str, action: &str, resource: &str, pairs: &[(&str, &[&str])]) -> Decision {
    let text = format!(r#"{{"Version":"2012-10-17","Statement":[{statement}]}}"#);
    let document = Document::parse(&text, DocumentKind::Identity).unwrap_or_else(|error| panic!("{error}: {text}"));
    decide([&document], Question { action, resource, keys: &keys(pairs) })
}

const ALLOW: Decision = Decision::Allow;
const IMPLICIT: Decision = Decision::ImplicitDeny;
const EXPLICIT: Decision = Decision::ExplicitDeny;

/// Cases of AWS's "Policy evaluation logic" and "IAM JSON policy elements reference".
#[test]
fn documented_cases() {
    let everything = r#"{"Effect":"Allow","Action":"*","Resource":"*"}"#;
    let bucket = r#"{"Effect":"Allow","Action":"s3:*","Resource":["arn:aws:s3:::mine","arn:aws:s3:::mine/*"]}"#;
    let no_iam = r#"{"Effect":"Allow","NotAction":"iam:*","Resource":"*"}"#;
    let not_mine = r#"{"Effect":"Deny","Action":"s3:*","NotResource":["arn:aws:s3:::mine/*"]},{"Effect":"Allow","Action":"s3:*","Resource":"*"}"#;
    let home = r#"{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/home/${aws:username}/*"}"#;
    let default = r#"{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/${aws:PrincipalTag/team, 'nobody'}/*"}"#;
    let star = r#"{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/${*}"}"#;
    let office = r#"{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"IpAddress":{"aws:SourceIp":["203.0.113.0/24","2001:db8::/32"]}}}"#;
    let both = r#"{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"StringEquals":{"aws:username":["a","b"],"aws:RequestedRegion":"x"},"Bool":{"aws:SecureTransport":"true"}}}"#;
    let not_equal =
        r#"{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"StringNotEquals":{"aws:username":["a","b"]}}}"#;
    let if_exists = r#"{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"StringEqualsIfExists":{"ec2:InstanceType":"t3.nano"}}}"#;
    let null = r#"{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"Null":{"aws:TokenIssueTime":"true"}}}"#;
    let all = r#"{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"ForAllValues:StringEquals":{"aws:TagKeys":["env","team"]}}}"#;
    let any = r#"{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"ForAnyValue:StringEquals":{"aws:TagKeys":["env","team"]}}}"#;
    let tag = r#"{"Effect":"Allow","Action":"ec2:StopInstances","Resource":"*","Condition":{"StringEquals":{"aws:ResourceTag/Owner":"${aws:username}"}}}"#;
    let before = r#"{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"DateLessThan":{"aws:CurrentTime":"2026-01-01T00:00:00Z"}}}"#;
    let number =
        r#"{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"NumericLessThanEquals":{"s3:max-keys":10}}}"#;
    let arn_like = r#"{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"ArnLike":{"aws:PrincipalArn":"arn:aws:iam::*:role/*"}}}"#;
    let instance = r#"{"Effect":"Allow","Action":"ec2:*","Resource":"arn:aws:ec2:*:1:instance/*"}"#;
    type Row<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, &'a [&'a str])], Decision);
    let rows: &[Row<'_>] = &[
        (everything, "ec2:RunInstances", "*", &[], ALLOW),
        (bucket, "s3:GetObject", "arn:aws:s3:::mine/a/b", &[], ALLOW),
        (bucket, "s3:ListBucket", "arn:aws:s3:::mine", &[], ALLOW),
        (bucket, "s3:ListBucket", "arn:aws:s3:::mine2", &[], IMPLICIT),
        (bucket, "s3:GetObject", "arn:aws:s3:::mine2/a", &[], IMPLICIT),
        (bucket, "s3:ListAllMyBuckets", "*", &[], IMPLICIT),
        (bucket, "S3:getobject", "arn:aws:s3:::mine/a", &[], ALLOW),
        (bucket, "s3:GetObject", "arn:aws:s3:::Mine/a", &[], IMPLICIT),
        (no_iam, "ec2:StopInstances", "*", &[], ALLOW),
        (no_iam, "iam:CreateUser", "*", &[], IMPLICIT),
        (not_mine, "s3:GetObject", "arn:aws:s3:::mine/a", &[], ALLOW),
        (not_mine, "s3:GetObject", "arn:aws:s3:::yours/a", &[], EXPLICIT),
        (home, "s3:GetObject", "arn:aws:s3:::b/home/ann/x", &[("aws:username", &["ann"])], ALLOW),
        (home, "s3:GetObject", "arn:aws:s3:::b/home/bob/x", &[("aws:username", &["ann"])], IMPLICIT),
        (home, "s3:GetObject", "arn:aws:s3:::b/home//x", &[], IMPLICIT),
        (home, "s3:GetObject", "arn:aws:s3:::b/home/bob/x", &[("aws:username", &["*"])], IMPLICIT),
        (default, "s3:GetObject", "arn:aws:s3:::b/nobody/x", &[], ALLOW),
        (default, "s3:GetObject", "arn:aws:s3:::b/red/x", &[("aws:PrincipalTag/team", &["red"])], ALLOW),
        (star, "s3:GetObject", "arn:aws:s3:::b/*", &[], ALLOW),
        (star, "s3:GetObject", "arn:aws:s3:::b/x", &[], IMPLICIT),
        (office, "a:B", "*", &[("aws:SourceIp", &["203.0.113.9"])], ALLOW),
        (office, "a:B", "*", &[("aws:SourceIp", &["2001:db8::1"])], ALLOW),
        (office, "a:B", "*", &[("aws:SourceIp", &["203.0.114.9"])], IMPLICIT),
        (office, "a:B", "*", &[("aws:SourceIp", &["not an address"])], IMPLICIT),
        (office, "a:B", "*", &[], IMPLICIT),
        (
            both,
            "a:B",
            "*",
            &[("aws:username", &["b"]), ("aws:RequestedRegion", &["x"]), ("aws:SecureTransport", &["true"])],
            ALLOW,
        ),
        (
            both,
            "a:B",
            "*",
            &[("aws:username", &["c"]), ("aws:RequestedRegion", &["x"]), ("aws:SecureTransport", &["true"])],
            IMPLICIT,
        ),
        (
            both,
            "a:B",
            "*",
            &[("aws:username", &["a"]), ("aws:RequestedRegion", &["x"]), ("aws:SecureTransport", &["false"])],
            IMPLICIT,
        ),
        (not_equal, "a:B", "*", &[("aws:username", &["b"])], IMPLICIT),
        (not_equal, "a:B", "*", &[("aws:username", &["c"])], ALLOW),
        (not_equal, "a:B", "*", &[], ALLOW),
        (if_exists, "a:B", "*", &[], ALLOW),
        (if_exists, "a:B", "*", &[("ec2:InstanceType", &["t3.nano"])], ALLOW),
        (if_exists, "a:B", "*", &[("EC2:instancetype", &["m5.large"])], IMPLICIT),
        (null, "a:B", "*", &[], ALLOW),
        (null, "a:B", "*", &[("aws:TokenIssueTime", &["x"])], IMPLICIT),
        (all, "a:B", "*", &[("aws:TagKeys", &["env"])], ALLOW),
        (all, "a:B", "*", &[("aws:TagKeys", &["env", "cost"])], IMPLICIT),
        (all, "a:B", "*", &[], ALLOW),
        (any, "a:B", "*", &[("aws:TagKeys", &["env", "cost"])], ALLOW),
        (any, "a:B", "*", &[("aws:TagKeys", &["cost"])], IMPLICIT),
        (any, "a:B", "*", &[], IMPLICIT),
        (
            tag,
            "ec2:StopInstances",
            "arn:aws:ec2:r:1:instance/i",
            &[("aws:username", &["ann"]), ("aws:ResourceTag/Owner", &["ann"])],
            ALLOW,
        ),
        (
            tag,
            "ec2:StopInstances",
            "arn:aws:ec2:r:1:instance/i",
            &[("aws:username", &["ann"]), ("aws:ResourceTag/Owner", &["bob"])],
            IMPLICIT,
        ),
        (tag, "ec2:StopInstances", "arn:aws:ec2:r:1:instance/i", &[("aws:username", &["ann"])], IMPLICIT),
        (before, "a:B", "*", &[("aws:CurrentTime", &["2025-12-31T23:59:59Z"])], ALLOW),
        (before, "a:B", "*", &[("aws:CurrentTime", &["2026-01-01T00:00:00Z"])], IMPLICIT),
        (number, "a:B", "*", &[("s3:max-keys", &["10"])], ALLOW),
        (number, "a:B", "*", &[("s3:max-keys", &["9"])], ALLOW),
        (number, "a:B", "*", &[("s3:max-keys", &["11"])], IMPLICIT),
        (number, "a:B", "*", &[("s3:max-keys", &["many"])], IMPLICIT),
        (arn_like, "a:B", "*", &[("aws:PrincipalArn", &["arn:aws:iam::1:role/x"])], ALLOW),
        (arn_like, "a:B", "*", &[("aws:PrincipalArn", &["arn:aws:iam::1:user/x"])], IMPLICIT),
        (instance, "ec2:X", "arn:aws:ec2:r:1:instance/i-1", &[], ALLOW),
        (instance, "ec2:X", "arn:aws:ec2:r:2:instance/i-1", &[], IMPLICIT),
        (instance, "ec2:X", "arn:aws:ec2:r:2:x:1:instance/i-1", &[], IMPLICIT),
    ];
    for (statement, action, resource, pairs, expected) in rows {
        let got = ask(statement, action, resource, pairs);
        assert_eq!(got, *expected, "{statement} asked for {action} on {resource} with {pairs:?}");
    }
}

#[test]
fn before_2012_a_variable_is_text() {
    let text = r#"{"Version":"2008-10-17","Statement":{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/${aws:username}"}}"#;
    let document = Document::parse(text, DocumentKind::Identity).unwrap();
    let keys = keys(&[("aws:username", &["ann"])]);
    let ask = |resource| decide([&document], Question { action: "s3:GetObject", resource, keys: &keys });
    assert_eq!(ask("arn:aws:s3:::b/ann"), IMPLICIT);
    assert_eq!(ask("arn:aws:s3:::b/${aws:username}"), ALLOW);
}

#[test]
fn malformed_documents_are_refused() {
    let statement = |body: &str| format!(r#"{{"Version":"2012-10-17","Statement":[{{{body}}}]}}"#);
    let ok = r#""Effect":"Allow","Action":"a:B","Resource":"*""#;
    assert!(Document::parse(&statement(ok), DocumentKind::Identity).is_ok());
    let identity: Vec<String> = vec![
        String::new(),
        "[]".into(),
        "{".into(),
        "\"x\"".into(),
        "{}".into(),
        r#"{"Version":"2012-10-17"}"#.into(),
        r#"{"Version":"2012-10-17","Statement":[]}"#.into(),
        r#"{"Version":"2020-01-01","Statement":[{"Effect":"Allow","Action":"a:B","Resource":"*"}]}"#.into(),
        r#"{"Version":"2012-10-17","Statements":[{"Effect":"Allow","Action":"a:B","Resource":"*"}]}"#.into(),
        r#"{"Version":"2012-10-17","Version":"2008-10-17","Statement":[{"Effect":"Allow","Action":"a:B","Resource":"*"}]}"#.into(),
        statement(r#""Effect":"Allow","Action":"a:B","Effect":"Deny","Resource":"*""#),
        statement(r#""Action":"a:B","Resource":"*""#),
        statement(r#""Effect":"allow","Action":"a:B","Resource":"*""#),
        statement(r#""Effect":"Allow","Resource":"*""#),
        statement(r#""Effect":"Allow","Action":"a:B""#),
        statement(r#""Effect":"Allow","Action":[],"Resource":"*""#),
        statement(r#""Effect":"Allow","Action":"RunInstances","Resource":"*""#),
        statement(r#""Effect":"Allow","Action":"a:B","NotAction":"a:C","Resource":"*""#),
        statement(r#""Effect":"Allow","Action":"a:B","Resource":"bucket/*""#),
        statement(r#""Effect":"Allow","Action":"a:B","Resource":"arn:aws:s3:::${aws:username""#),
        statement(r#""Effect":"Allow","Action":"a:B","Resource":"arn:aws:s3:::${username}""#),
        statement(r#""Effect":"Allow","Action":"a:B","Resource":7"#),
        statement(r#""Effect":"Allow","Principal":"*","Action":"a:B","Resource":"*""#),
        statement(&format!(r#"{ok},"Sid":"a b""#)),
        statement(&format!(r#"{ok},"Condition":{{"StringSounds":{{"aws:username":"x"}}}}"#)),
        statement(&format!(r#"{ok},"Condition":{{"ForSome:StringLike":{{"aws:username":"x"}}}}"#)),
        statement(&format!(r#"{ok},"Condition":{{"NullIfExists":{{"aws:username":"true"}}}}"#)),
        statement(&format!(r#"{ok},"Condition":{{"StringLike":{{"username":"x"}}}}"#)),
        statement(&format!(r#"{ok},"Condition":{{"StringLike":"x"}}"#)),
        statement(&format!(r#"{ok},"Condition":{{"IpAddress":{{"aws:SourceIp":"10.0.0.0/33"}}}}"#)),
        statement(&format!(r#"{ok},"Condition":{{"DateLessThan":{{"aws:CurrentTime":"tomorrow"}}}}"#)),
        statement(&format!(r#"{ok},"Condition":{{"Bool":{{"aws:SecureTransport":"maybe"}}}}"#)),
        statement(&format!(r#"{ok},"Condition":{{"NumericEquals":{{"s3:max-keys":"inf"}}}}"#)),
        statement(&format!(r#"{ok},"Condition":{{"BinaryEquals":{{"a:b":"not base64"}}}}"#)),
        statement(&format!(r#"{ok},"Extra":1"#)),
        format!(r#"{{"Version":"2012-10-17","Statement":[{{"Sid":"a",{ok}}},{{"Sid":"a",{ok}}}]}}"#),
    ];
    for text in identity {
        assert!(Document::parse(&text, DocumentKind::Identity).is_err(), "{text}");
    }
    let principal = r#""Principal":{"AWS":"123456789012"}"#;
    let assume = r#""Effect":"Allow","Action":"sts:AssumeRole""#;
    assert!(Document::parse(&statement(&format!("{assume},{principal}")), DocumentKind::Trust).is_ok());
    let trust = vec![
        statement(assume),
        statement(&format!(r#"{assume},{principal},"Resource":"*""#)),
        statement(&format!(r#""Effect":"Allow","Action":"s3:GetObject",{principal}"#)),
        statement(&format!(r#"{assume},"NotPrincipal":{{"AWS":"123456789012"}}"#)),
        statement(&format!(r#"{assume},"Principal":{{"AWS":"arn:aws:iam::123456789012:user/*"}}"#)),
        statement(&format!(r#"{assume},"Principal":{{"AWS":"ann"}}"#)),
        statement(&format!(r#"{assume},"Principal":{{"Nation":"x"}}"#)),
        statement(&format!(r#"{assume},"Principal":{{}}"#)),
    ];
    for text in trust {
        assert!(Document::parse(&text, DocumentKind::Trust).is_err(), "{text}");
    }
    let get = r#""Effect":"Allow","Action":"s3:GetObject""#;
    let resource = r#""Resource":"arn:aws:s3:::b/*""#;
    assert!(Document::parse(&statement(&format!("{get},{principal},{resource}")), DocumentKind::Resource).is_ok());
    for text in [
        statement(&format!("{get},{resource}")),
        statement(&format!("{get},{principal}")),
        statement(&format!(r#"{get},{resource},"Principal":{{"CanonicalUser":"0123"}}"#)),
        statement(&format!(r#"{get},{resource},"Principal":{{"AWS":"123456789012"}},"NotPrincipal":"*""#)),
    ] {
        assert!(Document::parse(&text, DocumentKind::Resource).is_err(), "{text}");
    }
}

pub(super) fn some(of: &'static [&'static str], at_most: usize) -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(of, 1..=at_most)
}

/// An operator with values that it takes.
fn operator() -> impl Strategy<Value = (String, Vec<&'static str>)> {
    const TEXT: &[&str] = &["ann", "b*b", "a?n", "ANN", "*", "${aws:username}", "x${?}", "${aws:userid}"];
    const ARNS: &[&str] =
        &["arn:aws:iam::1:user/*", "arn:*", "arn:aws:iam::*:role/r", "arn:aws:iam::1:user/${aws:username}", "*"];
    const NUMBERS: &[&str] = &["1", "2.5", "-3"];
    const DATES: &[&str] = &["2026-01-01T00:00:00Z", "2026-06-01T12:00:00Z"];
    const NETS: &[&str] = &["10.0.0.0/8", "10.1.2.3", "0.0.0.0/0", "2001:db8::/32"];
    let names = |names: &'static [&'static str]| select(names);
    let text = (
        names(&[
            "StringEquals",
            "StringNotEquals",
            "StringEqualsIgnoreCase",
            "StringNotEqualsIgnoreCase",
            "StringLike",
            "StringNotLike",
        ]),
        some(TEXT, 3),
    );
    let arns = (names(&["ArnEquals", "ArnLike", "ArnNotEquals", "ArnNotLike"]), some(ARNS, 2));
    let numbers = (
        names(&[
            "NumericEquals",
            "NumericNotEquals",
            "NumericLessThan",
            "NumericLessThanEquals",
            "NumericGreaterThan",
            "NumericGreaterThanEquals",
        ]),
        some(NUMBERS, 2),
    );
    let dates = (names(&["DateEquals", "DateNotEquals", "DateLessThan", "DateGreaterThanEquals"]), some(DATES, 2));
    let bytes = (names(&["BinaryEquals"]), some(&["YW5u", "AA==", ""], 2));
    let flags = (names(&["Bool"]), some(&["true", "false"], 2));
    let nets = (names(&["IpAddress", "NotIpAddress"]), some(NETS, 2));
    let base = prop_oneof![text, arns, numbers, dates, bytes, flags, nets];
    let variant = (base, select(&["", "ForAllValues:", "ForAnyValue:"][..]), select(&["", "IfExists"][..]))
        .prop_map(|((name, values), set, suffix)| (format!("{set}{name}{suffix}"), values));
    prop_oneof![9 => variant, 1 => some(&["true", "false"], 2).prop_map(|values| ("Null".to_owned(), values))]
}

const KEY_NAMES: &[&str] =
    &["aws:username", "aws:userid", "aws:SourceIp", "aws:CurrentTime", "s3:max-keys", "aws:TagKeys"];

pub(super) fn statement() -> impl Strategy<Value = Value> {
    const ACTIONS: &[&str] =
        &["*", "ec2:*", "ec2:Run*", "EC2:stopinstances", "s3:Get?bject", "s3:*Object*", "iam:GetUser"];
    const RESOURCES: &[&str] = &[
        "*",
        "arn:*",
        "arn:aws:s3:::b/*",
        "arn:aws:s3:::b/${aws:username}",
        "arn:aws:ec2:*:1:instance/*",
        "arn:aws:ec2:r:1:instance/i-?",
        "arn:aws:s3:::*/x",
        "arn:aws:s3*",
    ];
    let element = |name: &'static str, inverted: &'static str, of: &'static [&'static str]| {
        (select(vec![name, name, inverted]), some(of, 3))
    };
    let conditions = prop::collection::vec((operator(), select(KEY_NAMES)), 0..3);
    (
        select(&["Allow", "Allow", "Deny"][..]),
        element("Action", "NotAction", ACTIONS),
        element("Resource", "NotResource", RESOURCES),
        conditions,
    )
        .prop_map(|(effect, (action, actions), (resource, resources), conditions)| {
            let mut statement = json!({ "Effect": effect, action: actions, resource: resources });
            for ((operator, values), key) in conditions {
                statement["Condition"][operator][key] = json!(values);
            }
            statement
        })
}

pub(super) fn document() -> impl Strategy<Value = Value> {
    (select(&["2012-10-17", "2008-10-17"][..]), prop::collection::vec(statement(), 1..4))
        .prop_map(|(version, statements)| json!({ "Version": version, "Statement": statements }))
}

pub(super) fn request_keys() -> impl Strategy<Value = PlainKeys> {
    const VALUES: &[&str] = &[
        "ann",
        "ANN",
        "bob",
        "b*b",
        "*",
        "x?",
        "a:b",
        "1",
        "2.5",
        "-3",
        "7",
        "true",
        "false",
        "10.1.2.3",
        "192.168.0.1",
        "2001:db8::7",
        "2026-01-01T00:00:00Z",
        "2026-03-01T00:00:00Z",
        "arn:aws:iam::1:user/ann",
        "arn:aws:iam::1:role/r",
        "${aws:username}",
        "YW5u",
        "AA==",
    ];
    let values = prop::collection::vec(select(VALUES).prop_map(str::to_owned), 0..3);
    prop::collection::btree_map(select(KEY_NAMES).prop_map(str::to_lowercase), values, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_evaluators_agree(
        documents in prop::collection::vec(document(), 1..3),
        action in select(&["ec2:RunInstances", "ec2:StopInstances", "s3:GetObject", "s3:PutObjectAcl", "iam:GetUser"][..]),
        resource in select(&[
            "*", "arn:aws:s3:::b", "arn:aws:s3:::b/ann", "arn:aws:s3:::b/*", "arn:aws:s3:::c/x",
            "arn:aws:ec2:r:1:instance/i-1", "arn:aws:ec2:r:2:instance/i-1", "arn:aws:ec2:r:2:x:1:instance/i-1",
        ][..]),
        plain in request_keys(),
    ) {
        let parsed: Vec<Document> = documents
            .iter()
            .map(|json| Document::parse(&json.to_string(), DocumentKind::Identity).map_err(|e| TestCaseError::fail(format!("{e}: {json}"))))
            .collect::<Result<_, _>>()?;
        let mut keys = Keys::default();
        for (name, values) in &plain {
            keys.set(name, values.iter().cloned());
        }
        let ours = decide(&parsed, Question { action, resource, keys: &keys });
        let theirs = naive::decide(&documents, action, resource, &plain);
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[\\PC]{0,200}", kind in select(&[DocumentKind::Identity, DocumentKind::Trust][..])) {
        let _ = Document::parse(&text, kind);
        let wrapped = json!({ "Version": "2012-10-17", "Statement": { "Effect": "Allow", "Action": "*", "Resource": text } });
        let _ = Document::parse(&wrapped.to_string(), kind);
    }
}
