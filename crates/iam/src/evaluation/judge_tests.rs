//! The whole decision: the cases of AWS's "Policy evaluation logic", and a comparison with the naive evaluator.

use super::naive::{self, Everything, Who};
use super::tests::{document, request_keys, some, statement};
use super::*;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use terroir_types::AccountId;

const ACCOUNT: &str = "123456789012";
const USER: &str = "arn:aws:iam::123456789012:user/ann";
const ROLE: &str = "arn:aws:iam::123456789012:role/r";
const SESSION: &str = "arn:aws:sts::123456789012:assumed-role/r/s";
const FEDERATED: &str = "arn:aws:sts::123456789012:federated-user/fay";
const PROVIDER: &str = "arn:aws:iam::123456789012:oidc-provider/idp.example";

const CALLERS: [Who; 7] = [
    Who { kind: "root", account: ACCOUNT, own: "arn:aws:iam::123456789012:root", behind: None },
    Who { kind: "user", account: ACCOUNT, own: USER, behind: None },
    Who { kind: "role", account: ACCOUNT, own: SESSION, behind: Some(ROLE) },
    Who { kind: "federated", account: ACCOUNT, own: FEDERATED, behind: Some(USER) },
    Who { kind: "web", account: "-", own: PROVIDER, behind: None },
    Who { kind: "service", account: "-", own: "cloudtrail.amazonaws.com", behind: None },
    Who { kind: "anonymous", account: "-", own: "-", behind: None },
];

fn principal(who: Who) -> Principal<'static> {
    let account = ACCOUNT.parse::<AccountId>().unwrap();
    match who.kind {
        "root" => Principal::Root(account),
        "user" => Principal::User { account, arn: who.own, id: "AIDAANN" },
        "role" => Principal::Role { account, arn: ROLE, id: "AROAR", session: who.own },
        "federated" => Principal::Federated { account, arn: who.own, user: Some((USER, "AIDAANN")) },
        "web" => Principal::Web(who.own),
        "service" => Principal::Service(who.own),
        "anonymous" => Principal::Anonymous,
        other => panic!("{other}"),
    }
}

struct Parsed {
    identity: Vec<Arc<Document>>,
    boundary: Option<Arc<Document>>,
    session: Option<Vec<Arc<Document>>>,
    resource: Option<Document>,
}

impl Parsed {
    fn of(all: &Everything) -> Self {
        let identity = |json: &Value| {
            let parsed = Document::parse(&json.to_string(), DocumentKind::Identity);
            Arc::new(parsed.unwrap_or_else(|error| panic!("{error}: {json}")))
        };
        let resource = |json: &Value| {
            Document::parse(&json.to_string(), DocumentKind::Resource).unwrap_or_else(|error| panic!("{error}: {json}"))
        };
        Self {
            identity: all.identity.iter().map(identity).collect(),
            boundary: all.boundary.as_ref().map(identity),
            session: all.session.as_ref().map(|list| list.iter().map(identity).collect()),
            resource: all.resource.as_ref().map(resource),
        }
    }

    fn judge(
        &self,
        who: Who,
        known: &BTreeMap<String, String>,
        place: Place,
        question: Question<'_>,
    ) -> Result<(), Reason> {
        let policies = Policies {
            identity: Some(self.identity.as_slice()).filter(|_| who.kind != "root"),
            boundary: self.boundary.as_ref().map(std::slice::from_ref),
            session: self.session.as_deref(),
            resource: self.resource.as_ref().map(|document| (document, known)),
        };
        judge(principal(who), policies, place, question)
    }
}

fn get(effect: &str, principal: Option<Value>) -> Value {
    let mut statement = json!({ "Effect": effect, "Action": "s3:GetObject", "Resource": "*" });
    if let Some(principal) = principal {
        statement["Principal"] = principal;
    }
    json!({ "Version": "2012-10-17", "Statement": [statement] })
}

/// What each row has: identity policies, boundary, session policies, resource policy (`-` none, `0` one that says nothing
/// of the request, `A` allow, `D` deny).
fn everything(marks: [&str; 3], resource: Option<Value>) -> Everything {
    let document = |mark: &str| match mark {
        "A" => get("Allow", None),
        "D" => get("Deny", None),
        "0" => {
            json!({ "Version": "2012-10-17", "Statement": [{ "Effect": "Allow", "Action": "sts:GetCallerIdentity", "Resource": "*" }] })
        }
        other => panic!("{other}"),
    };
    let one = |mark: &str| Some(mark).filter(|mark| *mark != "-").map(document);
    Everything {
        identity: one(marks[0]).into_iter().collect(),
        boundary: one(marks[1]),
        session: one(marks[2]).map(|document| vec![document]),
        resource,
    }
}

/// Sources: "Policy evaluation logic", its pages "Policy evaluation for requests within a single account" (with the
/// table of principals) and "Cross-account policy evaluation logic", "AWS JSON policy elements: Principal" and
/// "NotPrincipal", "Permissions boundaries for IAM entities", "Session policies".
#[test]
fn documented_cases() {
    let aws = |arn: &str| Some(get("Allow", Some(json!({ "AWS": arn }))));
    let deny = |arn: &str| Some(get("Deny", Some(json!({ "AWS": arn }))));
    let service = |name: &str| Some(get("Allow", Some(json!({ "Service": name }))));
    let [root, user, role, federated, web, cloudtrail, anonymous] = CALLERS;
    let ok = Ok(());
    let explicit = |layer| Err(Reason::Explicit(layer));
    let missing = |layer| Err(Reason::Missing(layer));
    use Layer::{Boundary, Identity, Resource, Session};
    const OTHER: Place = Place {
        same_account: false,
        policy_decides: false,
        policy_only_denies: false,
        granted: false,
        grantee: Reach::Nobody,
    };
    const OWN: Place = Place { same_account: true, ..OTHER };
    const DECIDES: Place = Place { policy_decides: true, ..OWN };
    type Row = (&'static str, Who, [&'static str; 3], Option<Value>, Place, Result<(), Reason>);
    let rows: Vec<Row> = vec![
        // What the principal's own policies say.
        ("the root of the account", root, ["-", "-", "-"], None, OWN, ok),
        ("no policy: implicit deny", user, ["-", "-", "-"], None, OWN, missing(Identity)),
        ("an allow", user, ["A", "-", "-"], None, OWN, ok),
        ("a deny", user, ["D", "-", "-"], None, OWN, explicit(Identity)),
        ("identity and boundary: the intersection", user, ["A", "A", "-"], None, OWN, ok),
        ("the boundary does not allow", user, ["A", "0", "-"], None, OWN, missing(Boundary)),
        ("a boundary grants nothing by itself", user, ["0", "A", "-"], None, OWN, missing(Identity)),
        ("a deny in the boundary", user, ["A", "D", "-"], None, OWN, explicit(Boundary)),
        ("identity and session: the intersection", role, ["A", "-", "A"], None, OWN, ok),
        ("the session policy does not allow", role, ["A", "-", "0"], None, OWN, missing(Session)),
        ("a session policy grants nothing by itself", role, ["0", "-", "A"], None, OWN, missing(Identity)),
        ("all three", role, ["A", "A", "A"], None, OWN, ok),
        ("a deny in the session policy", role, ["A", "A", "D"], None, OWN, explicit(Session)),
        // Within one account: identity or resource policy.
        ("resource policy names the user", user, ["0", "-", "-"], aws(USER), OWN, ok),
        ("and no boundary limits that", user, ["0", "0", "-"], aws(USER), OWN, ok),
        ("but a deny does", user, ["0", "D", "-"], aws(USER), OWN, explicit(Boundary)),
        ("a deny of the resource wins", user, ["A", "A", "-"], deny(USER), OWN, explicit(Resource)),
        ("a deny of the account meets its users", user, ["A", "-", "-"], deny(ACCOUNT), OWN, explicit(Resource)),
        ("and its root", root, ["-", "-", "-"], deny(ACCOUNT), OWN, explicit(Resource)),
        ("the account alone only delegates", user, ["0", "-", "-"], aws(ACCOUNT), OWN, missing(Identity)),
        ("resource policy names the role", role, ["0", "-", "-"], aws(ROLE), OWN, ok),
        ("the boundary limits that", role, ["0", "0", "-"], aws(ROLE), OWN, missing(Boundary)),
        ("the session policy too", role, ["0", "-", "0"], aws(ROLE), OWN, missing(Session)),
        ("both allow", role, ["0", "A", "A"], aws(ROLE), OWN, ok),
        ("names the session: nothing limits it", role, ["0", "0", "0"], aws(SESSION), OWN, ok),
        ("everyone: nothing limits it either", role, ["0", "0", "0"], aws("*"), OWN, ok),
        ("names the federated user", federated, ["0", "0", "0"], aws(FEDERATED), OWN, ok),
        ("names the user behind it", federated, ["0", "-", "0"], aws(USER), OWN, missing(Session)),
        ("and the session allows", federated, ["0", "-", "A"], aws(USER), OWN, ok),
        ("another resource policy", user, ["A", "-", "-"], aws("210987654321"), OWN, ok),
        // Between accounts: both.
        ("trusted and allowed", user, ["A", "-", "-"], aws(ACCOUNT), OTHER, ok),
        ("trusted by name and allowed", user, ["A", "-", "-"], aws(USER), OTHER, ok),
        ("trusted, not allowed", user, ["0", "-", "-"], aws(USER), OTHER, missing(Identity)),
        ("trusted as everyone, not allowed", user, ["0", "-", "-"], aws("*"), OTHER, missing(Identity)),
        ("allowed, not trusted", user, ["A", "-", "-"], None, OTHER, missing(Resource)),
        ("allowed, another is trusted", user, ["A", "-", "-"], aws("210987654321"), OTHER, missing(Resource)),
        ("outside its boundary", user, ["A", "0", "-"], aws(USER), OTHER, missing(Boundary)),
        ("outside its session", role, ["A", "-", "0"], aws(SESSION), OTHER, missing(Session)),
        ("denied there", user, ["A", "-", "-"], deny(USER), OTHER, explicit(Resource)),
        ("the root, trusted", root, ["-", "-", "-"], aws(ACCOUNT), OTHER, ok),
        ("the root, not trusted", root, ["-", "-", "-"], None, OTHER, missing(Resource)),
        // Where the resource's policy decides: roles, keys.
        ("allowed by itself only", user, ["A", "-", "-"], None, DECIDES, missing(Resource)),
        ("the account is named", user, ["A", "-", "-"], aws(ACCOUNT), DECIDES, ok),
        ("the account is named, not allowed", user, ["0", "-", "-"], aws(ACCOUNT), DECIDES, missing(Identity)),
        ("the user is named", user, ["0", "-", "-"], aws(USER), DECIDES, ok),
        ("the root is not above it", root, ["-", "-", "-"], None, DECIDES, missing(Resource)),
        // Without an account.
        ("nobody, nothing", anonymous, ["-", "-", "-"], None, OTHER, missing(Resource)),
        ("nobody, everyone", anonymous, ["-", "-", "-"], aws("*"), OTHER, ok),
        ("nobody, an account", anonymous, ["-", "-", "-"], aws(ACCOUNT), OTHER, missing(Resource)),
        ("nobody, denied", anonymous, ["-", "-", "-"], deny("*"), OTHER, explicit(Resource)),
        ("a service", cloudtrail, ["-", "-", "-"], service("cloudtrail.amazonaws.com"), OTHER, ok),
        ("another service", cloudtrail, ["-", "-", "-"], service("ec2.amazonaws.com"), OTHER, missing(Resource)),
        ("a service, everyone", cloudtrail, ["-", "-", "-"], aws("*"), OTHER, ok),
        ("everyone does not mean a third party's", web, ["-", "-", "-"], aws("*"), DECIDES, missing(Resource)),
        (
            "a third party's, named",
            web,
            ["-", "-", "-"],
            Some(get("Allow", Some(json!({ "Federated": PROVIDER })))),
            DECIDES,
            ok,
        ),
    ];
    let keys = Keys::default();
    let question = Question { action: "s3:GetObject", resource: "arn:aws:s3:::b/k", keys: &keys };
    for (what, who, marks, resource, place, expected) in rows {
        let all = everything(marks, resource);
        assert_eq!(Parsed::of(&all).judge(who, &BTreeMap::new(), place, question), expected, "{what}");
        let plain = ("s3:GetObject", "arn:aws:s3:::b/k", &BTreeMap::new());
        let naive = naive::may(who, &all, place, plain);
        assert_eq!(naive, expected.is_ok(), "the naive evaluator: {what}");
    }
}

/// Lists of grants beside the policy: they stand for a policy that names the caller's account, or everyone; and what lies
/// in a place is not always of whom the place is.
#[test]
fn lists_and_policies_that_only_deny() {
    let [root, user, .., anonymous] = CALLERS;
    let aws = |arn: &str| Some(get("Allow", Some(json!({ "AWS": arn }))));
    let deny = |arn: &str| Some(get("Deny", Some(json!({ "AWS": arn }))));
    let missing = |layer| Err(Reason::Missing(layer));
    let explicit = Err(Reason::Explicit(Layer::Resource));
    use Layer::{Identity, Resource};
    let granted = Place { granted: true, ..Place::default() };
    let own = Place { same_account: true, ..Place::default() };
    let only_denies = Place { policy_only_denies: true, ..Place::default() };
    let rows = [
        ("granted and allowed", user, "A", None, granted, Ok(())),
        ("granted, not allowed", user, "0", None, granted, missing(Identity)),
        ("granted, the root", root, "-", None, granted, Ok(())),
        ("granted, denied", root, "-", deny("*"), granted, explicit),
        ("granted to everyone", anonymous, "-", None, granted, Ok(())),
        ("granted to everyone, denied", anonymous, "-", deny("*"), granted, explicit),
        (
            "no grant makes up for a policy of one's own",
            user,
            "0",
            None,
            Place { granted: true, ..own },
            missing(Identity),
        ),
        ("named by a grant, its own policies silent", user, "0", None, Place { grantee: Reach::Caller, ..own }, Ok(())),
        (
            "named by a grant where the policy decides",
            user,
            "0",
            None,
            Place { grantee: Reach::Caller, policy_decides: true, ..own },
            Ok(()),
        ),
        ("named by a grant, but denied", user, "0", deny(USER), Place { grantee: Reach::Caller, ..own }, explicit),
        (
            "another account's grant needs the caller's own policies too",
            user,
            "0",
            None,
            Place { grantee: Reach::Caller, ..Place::default() },
            missing(Identity),
        ),
        ("only denies: allowed there", user, "A", aws(USER), only_denies, missing(Resource)),
        ("only denies: everyone", anonymous, "-", aws("*"), only_denies, missing(Resource)),
        ("only denies: granted", user, "A", aws(USER), Place { granted: true, ..only_denies }, Ok(())),
        ("only denies: it does", root, "-", deny(ACCOUNT), Place { policy_only_denies: true, ..own }, explicit),
        ("only denies: one's own", user, "A", None, Place { policy_only_denies: true, ..own }, Ok(())),
    ];
    let keys = Keys::default();
    let question = Question { action: "s3:GetObject", resource: "arn:aws:s3:::b/k", keys: &keys };
    for (what, who, mark, resource, place, expected) in rows {
        let all = everything([mark, "-", "-"], resource);
        assert_eq!(Parsed::of(&all).judge(who, &BTreeMap::new(), place, question), expected, "{what}");
    }
}

#[test]
fn which_keys_a_document_asks_for() {
    let parse = |condition: Value, resource: &str| {
        let statement = json!({ "Effect": "Deny", "Action": "*", "Resource": resource, "Condition": condition });
        let text = json!({ "Version": "2012-10-17", "Statement": statement }).to_string();
        Document::parse(&text, DocumentKind::Identity).unwrap()
    };
    let rows = [
        (json!({ "StringEquals": { "s3:ExistingObjectTag/a": "b" } }), "*", true),
        (json!({ "StringLike": { "aws:userid": "${s3:existingobjecttag/a}" } }), "*", true),
        (json!({}), "arn:aws:s3:::b/${s3:ExistingObjectTag/a, 'x'}", true),
        (json!({ "StringEquals": { "s3:RequestObjectTag/a": "b" } }), "arn:aws:s3:::b/${aws:userid}", false),
        (json!({}), "*", false),
    ];
    for (condition, resource, expected) in rows {
        let document = parse(condition.clone(), resource);
        assert_eq!(document.asks_for("s3:existingobjecttag/"), expected, "{condition} {resource}");
    }
}

/// "NotPrincipal": an exception from a deny must name who asks, not its account or role alone.
#[test]
fn not_principal() {
    let [root, user, role, _, _, _, anonymous] = CALLERS;
    let own = Place { same_account: true, ..Place::default() };
    let other = Place::default();
    let statement = |effect: &str, listed: Value| json!({ "Effect": effect, "Action": "*", "Resource": "*", "NotPrincipal": { "AWS": listed } });
    let bob_and_root = json!(["arn:aws:iam::123456789012:user/bob", "arn:aws:iam::123456789012:root"]);
    let denied = Err(Reason::Explicit(Layer::Resource));
    let rows = [
        (user, statement("Deny", json!(USER)), own, Ok(())),
        (user, statement("Deny", json!([USER, "arn:aws:iam::123456789012:root"])), own, Ok(())),
        (user, statement("Deny", bob_and_root.clone()), own, denied),
        (root, statement("Deny", bob_and_root), own, Ok(())),
        (role, statement("Deny", json!([ROLE, ACCOUNT])), own, denied),
        (role, statement("Deny", json!([SESSION, ROLE, ACCOUNT])), own, Ok(())),
        (anonymous, statement("Deny", json!(USER)), other, denied),
        (anonymous, statement("Allow", json!(USER)), other, Ok(())),
        (user, statement("Allow", json!(ACCOUNT)), other, Err(Reason::Missing(Layer::Resource))),
    ];
    let keys = Keys::default();
    let question = Question { action: "s3:GetObject", resource: "arn:aws:s3:::b/k", keys: &keys };
    for (who, statement, place, expected) in rows {
        let document = json!({ "Version": "2012-10-17", "Statement": [statement] });
        let all = everything(["A", "-", "-"], Some(document.clone()));
        assert_eq!(Parsed::of(&all).judge(who, &BTreeMap::new(), place, question), expected, "{who:?} {document}");
    }
}

/// A name that was freed and taken again is not the principal that the policy was written for.
#[test]
fn ids_count_not_names() {
    let [_, user, role, federated, ..] = CALLERS;
    let keys = Keys::default();
    let question = Question { action: "s3:GetObject", resource: "arn:aws:s3:::b/k", keys: &keys };
    let own = Place { same_account: true, ..Place::default() };
    for (who, named, id) in
        [(user, USER, "AIDAANN"), (role, ROLE, "AROAR"), (role, SESSION, "AROAR"), (federated, USER, "AIDAANN")]
    {
        let mut all = everything(["0", "-", "-"], Some(get("Allow", Some(json!({ "AWS": named })))));
        if who.kind == "federated" {
            all.session = Some(vec![get("Allow", None)]);
        }
        let parsed = Parsed::of(&all);
        let with = |id: &str| parsed.judge(who, &BTreeMap::from([(named.to_owned(), id.to_owned())]), own, question);
        assert_eq!((with(id), with("AIDAOTHER").is_ok()), (Ok(()), false), "{named}");
    }
}

#[test]
fn what_is_public() {
    let rows = [
        (json!("*"), json!({}), true),
        (json!({ "AWS": "*" }), json!({}), true),
        (json!({ "AWS": ACCOUNT }), json!({}), false),
        (json!({ "Service": "cloudtrail.amazonaws.com" }), json!({}), false),
        (json!("*"), json!({ "StringEquals": { "aws:PrincipalAccount": ACCOUNT } }), false),
        (json!("*"), json!({ "StringLike": { "aws:PrincipalAccount": "*" } }), true),
        (json!("*"), json!({ "StringEqualsIfExists": { "aws:PrincipalAccount": ACCOUNT } }), true),
        (json!("*"), json!({ "StringNotEquals": { "aws:PrincipalAccount": ACCOUNT } }), true),
        (json!("*"), json!({ "StringEquals": { "aws:UserAgent": "curl" } }), true),
        (json!("*"), json!({ "IpAddress": { "aws:SourceIp": "203.0.113.0/24" } }), false),
        (json!("*"), json!({ "IpAddress": { "aws:SourceIp": ["203.0.113.0/24", "0.0.0.0/1"] } }), true),
        (json!("*"), json!({ "IpAddress": { "aws:SourceIp": "2000::/3" } }), true),
        (json!("*"), json!({ "ArnLike": { "aws:SourceArn": "arn:aws:cloudtrail:*:123456789012:trail/*" } }), false),
        (json!("*"), json!({ "ArnLike": { "aws:SourceArn": "arn:aws:cloudtrail:*:*:trail/*" } }), true),
    ];
    for (principal, condition, expected) in rows {
        let mut document = get("Allow", Some(principal));
        document["Statement"][0]["Condition"] = condition;
        let parsed = Document::parse(&document.to_string(), DocumentKind::Resource).unwrap();
        assert_eq!(parsed.is_public(), expected, "{document}");
        document["Statement"][0]["Effect"] = json!("Deny");
        assert!(!Document::parse(&document.to_string(), DocumentKind::Resource).unwrap().is_public());
    }
}

fn principals() -> impl Strategy<Value = Value> {
    const NAMED: &[&str] = &[
        "*",
        ACCOUNT,
        "arn:aws:iam::123456789012:root",
        USER,
        ROLE,
        SESSION,
        FEDERATED,
        "210987654321",
        "arn:aws:iam::123456789012:user/bob",
    ];
    prop_oneof![
        1 => Just(json!("*")),
        8 => some(NAMED, 3).prop_map(|named| json!({ "AWS": named })),
        1 => some(&["cloudtrail.amazonaws.com", "ec2.amazonaws.com"], 2).prop_map(|named| json!({ "Service": named })),
        1 => some(&[PROVIDER, "accounts.example"], 2).prop_map(|named| json!({ "Federated": named })),
        1 => (some(NAMED, 2), select(&["cloudtrail.amazonaws.com", "ec2.amazonaws.com"][..]))
            .prop_map(|(named, service)| json!({ "AWS": named, "Service": service })),
    ]
}

fn resource_document() -> impl Strategy<Value = Value> {
    let one = (statement(), principals(), select(&["Principal", "Principal", "Principal", "NotPrincipal"][..]))
        .prop_map(|(mut statement, principals, element)| {
            statement[element] = principals;
            statement
        });
    (select(&["2012-10-17", "2008-10-17"][..]), prop::collection::vec(one, 1..4))
        .prop_map(|(version, statements)| json!({ "Version": version, "Statement": statements }))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_evaluators_agree_on_everything(
        who in select(&CALLERS[..]),
        identity in prop::collection::vec(document(), 0..3),
        boundary in prop::option::weighted(0.3, document()),
        session in prop::option::weighted(0.3, prop::collection::vec(document(), 0..3)),
        resource in prop::option::weighted(0.8, resource_document()),
        (same_account, decides) in (any::<bool>(), prop::bool::weighted(0.2)),
        (only_denies, granted) in (prop::bool::weighted(0.2), prop::bool::weighted(0.2)),
        grantee in select(&[Reach::Nobody, Reach::Nobody, Reach::Nobody, Reach::Role, Reach::Caller][..]),
        action in select(&["ec2:RunInstances", "s3:GetObject", "iam:GetUser"][..]),
        arn in select(&["*", "arn:aws:s3:::b/ann", "arn:aws:s3:::c/x", "arn:aws:ec2:r:1:instance/i-1"][..]),
        plain in request_keys(),
    ) {
        // The others have no policies of their own.
        let has_own = matches!(who.kind, "user" | "role" | "federated");
        let identity = if has_own { identity } else { Vec::new() };
        let (boundary, session) = (boundary.filter(|_| has_own), session.filter(|_| has_own));
        let all = Everything { identity, boundary, session, resource };
        let mut keys = Keys::default();
        for (name, values) in &plain {
            keys.set(name, values.iter().cloned());
        }
        let question = Question { action, resource: arn, keys: &keys };
        let place = Place { same_account, policy_decides: decides, policy_only_denies: only_denies, granted, grantee };
        let ours = Parsed::of(&all).judge(who, &BTreeMap::new(), place, question);
        let theirs = naive::may(who, &all, place, (action, arn, &plain));
        prop_assert_eq!(ours.is_ok(), theirs, "{:?}", ours);
    }
}
