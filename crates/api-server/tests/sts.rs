//! STS: what a session has, and who may begin one.

mod world;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use terroir_api_server::in_process::{Answer, Client};
use terroir_aws_model::Service::{Ec2, Iam, Sts};
use world::World;

fn policy(statements: Value) -> String {
    json!({ "Version": "2012-10-17", "Statement": statements }).to_string()
}

fn allow(actions: Value) -> String {
    policy(json!({ "Effect": "Allow", "Action": actions, "Resource": "*" }))
}

/// What it is, who asks, for which role, with which further parameters, and the code of the answer.
type Asked<'a> = (&'a str, &'a Client, &'a str, Vec<(&'a str, &'a str)>, &'a str);

impl World {
    /// A role whose trust policy is one statement, and that may do everything. Gives its ARN.
    async fn role(&self, name: &str, actions: Value, principal: Value, condition: Value) -> String {
        let trust =
            policy(json!({ "Effect": "Allow", "Action": actions, "Principal": principal, "Condition": condition }));
        let parameters =
            [("RoleName", name), ("AssumeRolePolicyDocument", trust.as_str()), ("MaxSessionDuration", "7200")];
        self.ok(&self.root, Iam, "CreateRole", &parameters).await;
        let everything = allow(json!("*"));
        let own = [("RoleName", name), ("PolicyName", "p"), ("PolicyDocument", everything.as_str())];
        self.ok(&self.root, Iam, "PutRolePolicy", &own).await;
        format!("arn:aws:iam::{}:role/{name}", self.account)
    }

    async fn assume(&self, client: &Client, role: &str, more: &[(&str, &str)]) -> Answer {
        let parameters = [&[("RoleArn", role), ("RoleSessionName", "s1")], more].concat();
        client.call(&self.server, Sts, "AssumeRole", &parameters).await
    }
}

#[tokio::test]
async fn sessions_carry_tags_and_a_source_identity() {
    let world = World::new().await;
    let account = json!({ "AWS": world.account.to_string() });
    let trusted = json!(["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]);
    let all = world.role("all", trusted.clone(), account.clone(), json!({})).await;
    let second = world.role("second", trusted.clone(), account.clone(), json!({})).await;
    let plain = world.role("plain", json!("sts:AssumeRole"), account.clone(), json!({})).await;
    let team = json!({ "StringEquals": { "aws:RequestTag/team": ["red", "blue"], "sts:SourceIdentity": "ann" } });
    let strict = world.role("strict", trusted.clone(), account.clone(), team).await;
    let ann = world.user("ann", Some(&allow(json!("sts:*")))).await;
    let no_tags = world.user("bob", Some(&allow(json!("sts:AssumeRole")))).await;
    let tag = |key: &'static str, value: &'static str| [("Tags.member.1.Key", key), ("Tags.member.1.Value", value)];
    let identity = ("SourceIdentity", "ann");
    let with = |tags: &[(&'static str, &'static str)], more: &[(&'static str, &'static str)]| [tags, more].concat();
    let rows: &[Asked<'_>] = &[
        ("tags", &ann, &all, with(&tag("team", "red"), &[]), ""),
        (
            "tags, but the role does not let itself be tagged",
            &ann,
            &plain,
            with(&tag("team", "red"), &[]),
            "AccessDenied",
        ),
        ("tags, but the user may not", &no_tags, &all, with(&tag("team", "red"), &[]), "AccessDenied"),
        ("the role wants tags", &ann, &strict, vec![], "AccessDenied"),
        ("the role wants others", &ann, &strict, with(&tag("team", "green"), &[identity]), "AccessDenied"),
        ("the role wants an identity", &ann, &strict, with(&tag("team", "red"), &[]), "AccessDenied"),
        ("the role gets both", &ann, &strict, with(&tag("team", "red"), &[identity]), ""),
        ("identity, but the role does not let it be set", &ann, &plain, vec![identity], "AccessDenied"),
        ("an identity of ours", &ann, &all, vec![("SourceIdentity", "aws:x")], "ValidationError"),
        ("a tag of ours", &ann, &all, with(&tag("aws:x", "y"), &[]), "ValidationError"),
        (
            "a key twice",
            &ann,
            &all,
            with(&tag("team", "a"), &[("Tags.member.2.Key", "TEAM"), ("Tags.member.2.Value", "b")]),
            "InvalidParameterValue",
        ),
        (
            "transitive, but not there",
            &ann,
            &all,
            vec![("TransitiveTagKeys.member.1", "team")],
            "InvalidParameterValue",
        ),
        (
            "a context",
            &ann,
            &all,
            vec![("ProvidedContexts.member.1.ProviderArn", "arn:aws:iam::aws:x")],
            "ValidationError",
        ),
        ("an external id of bad characters", &ann, &all, vec![("ExternalId", "a b")], "ValidationError"),
        ("too long", &ann, &all, vec![("DurationSeconds", "7201")], "ValidationError"),
    ];
    for (what, client, role, more, code) in rows {
        let answer = world.assume(client, role, more).await;
        assert_eq!(answer.code, *code, "{what}: {}", answer.body);
    }

    // The tags are the session's, the transitive ones also those of the session that it begins.
    let gate = |key: &str| {
        policy(
            json!({ "Effect": "Allow", "Action": "ec2:DescribeVpcs", "Resource": "*", "Condition": { "StringEquals": { key: "red" } } }),
        )
    };
    let tags = [
        ("Tags.member.1.Key", "team"),
        ("Tags.member.1.Value", "red"),
        ("Tags.member.2.Key", "job"),
        ("Tags.member.2.Value", "red"),
        ("TransitiveTagKeys.member.1", "team"),
        identity,
    ];
    let first = world.assume(&ann, &all, &tags).await;
    assert_eq!(first.element("SourceIdentity"), Some("ann"));
    assert!(first.element("PackedPolicySize").is_some());
    let first = world.session(&first);
    let chained = world.assume(&first, &second, &[]).await;
    assert_eq!(chained.element("SourceIdentity"), Some("ann"), "it stays");
    let chained = world.session(&chained);
    for (key, of_first, of_chained) in [
        ("aws:PrincipalTag/team", true, true),
        ("aws:PrincipalTag/job", true, false),
        ("aws:PrincipalTag/other", false, false),
    ] {
        let document = gate(key);
        for role in ["all", "second"] {
            // In place of the policy that allows everything, for EC2.
            let deny = policy(json!([
                { "Effect": "Allow", "Action": "sts:*", "Resource": "*" },
                serde_json::from_str::<Value>(&document).unwrap()["Statement"],
            ]));
            world
                .ok(
                    &world.root,
                    Iam,
                    "PutRolePolicy",
                    &[("RoleName", role), ("PolicyName", "p"), ("PolicyDocument", &deny)],
                )
                .await;
        }
        let may =
            async |client: &Client| client.call(&world.server, Ec2, "DescribeVpcs", &[]).await.status.is_success();
        assert_eq!((may(&first).await, may(&chained).await), (of_first, of_chained), "{key}");
    }
    for (more, code) in [
        (vec![("Tags.member.1.Key", "TEAM"), ("Tags.member.1.Value", "blue")], "InvalidParameterValue"),
        (vec![("SourceIdentity", "bob")], "AccessDenied"),
        (vec![("DurationSeconds", "3601")], "ValidationError"),
        (vec![("DurationSeconds", "3600")], ""),
    ] {
        let answer = world.assume(&first, &second, &more).await;
        assert_eq!(answer.code, code, "chained with {more:?}: {}", answer.body);
    }
    // What is passed on is set anew, so the second role has to let itself be tagged and named, too.
    for (name, actions, code) in [
        ("untagged", json!(["sts:AssumeRole", "sts:SetSourceIdentity"]), "AccessDenied"),
        ("unnamed", json!(["sts:AssumeRole", "sts:TagSession"]), "AccessDenied"),
        ("both", trusted, ""),
    ] {
        let role = world.role(name, actions, account.clone(), json!({})).await;
        assert_eq!(world.assume(&first, &role, &[]).await.code, code, "chained to {name}");
    }
}

#[tokio::test]
async fn federated_users() {
    let world = World::new().await;
    let giver =
        world.user("giver", Some(&allow(json!(["sts:GetFederationToken", "sts:TagSession", "ec2:*", "iam:*"])))).await;
    let vpcs = allow(json!("ec2:DescribeVpcs"));
    let token = async |more: &[(&str, &str)]| {
        giver.call(&world.server, Sts, "GetFederationToken", &[&[("Name", "fay")], more].concat()).await
    };
    let answer = token(&[("Policy", &vpcs), ("Tags.member.1.Key", "a"), ("Tags.member.1.Value", "b")]).await;
    let arn = format!("arn:aws:sts::{}:federated-user/fay", world.account);
    assert_eq!(answer.element("Arn"), Some(arn.as_str()), "{}", answer.body);
    let fay = world.session(&answer);
    let identity = world.ok(&fay, Sts, "GetCallerIdentity", &[]).await;
    assert_eq!(identity.element("Arn"), Some(arn.as_str()));
    assert_eq!(identity.element("UserId").unwrap(), format!("{}:fay", world.account));
    let make = [("CidrBlock", "10.0.0.0/16")];
    world.ok(&fay, Ec2, "DescribeVpcs", &[]).await;
    assert_eq!(fay.call(&world.server, Ec2, "CreateVpc", &make).await.code, "UnauthorizedOperation");
    // Without policies of its own the session may do nothing.
    let bare = world.session(&token(&[]).await);
    assert_eq!(bare.call(&world.server, Ec2, "DescribeVpcs", &[]).await.code, "UnauthorizedOperation");
    let all = allow(json!("*"));
    let wide = world.session(&token(&[("Policy", &all)]).await);
    world.ok(&wide, Ec2, "CreateVpc", &make).await;
    assert_eq!(wide.call(&world.server, Iam, "ListUsers", &[]).await.code, "InvalidClientTokenId", "not IAM");
    for (action, parameters) in [("GetFederationToken", &[("Name", "x1")][..]), ("GetSessionToken", &[])] {
        assert_eq!(wide.call(&world.server, Sts, action, parameters).await.code, "AccessDenied", "{action}");
    }
    for (more, code) in [
        (vec![("DurationSeconds", "899")], "ValidationError"),
        (vec![("DurationSeconds", "129601")], "ValidationError"),
        (vec![("Policy", "{}")], "MalformedPolicyDocument"),
        (vec![("PolicyArns.member.1.arn", "arn:aws:iam::aws:policy/Nothing")], "NoSuchEntity"),
    ] {
        assert_eq!(token(&more).await.code, code, "{more:?}");
    }
    let short = giver.call(&world.server, Sts, "GetFederationToken", &[("Name", "x")]).await;
    assert_eq!(short.code, "ValidationError");
    // The session ends with whoever gave it.
    let user = ("UserName", "giver");
    world
        .script(
            &world.root,
            Iam,
            &[
                ("DeleteUserPolicy", &[user, ("PolicyName", "p")], ""),
                ("DeleteAccessKey", &[user, ("AccessKeyId", &giver.access_key_id)], ""),
                ("DeleteUser", &[user], ""),
            ],
        )
        .await;
    assert_eq!(fay.call(&world.server, Sts, "GetCallerIdentity", &[]).await.code, "InvalidClientTokenId");
}

struct Issuer {
    pair: EcdsaKeyPair,
}

impl Issuer {
    fn new() -> Self {
        let rng = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
        Self { pair: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &rng).unwrap() }
    }

    fn jwks(&self) -> String {
        let point = self.pair.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": "1", "x": x, "y": y }] }).to_string()
    }

    fn token(&self, claims: &Value) -> String {
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let message = format!("{}.{}", part(&json!({ "alg": "ES256", "kid": "1" })), part(claims));
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

#[tokio::test]
async fn web_identities() {
    let world = World::new().await;
    let (issuer, stranger) = (Issuer::new(), Issuer::new());
    let now = world.now().secs();
    let provider = format!("arn:aws:iam::{}:oidc-provider/idp.example/x", world.account);
    let new = [("Url", "https://idp.example/x"), ("ClientIDList.member.1", "app")];
    world.ok(&world.root, Iam, "CreateOpenIDConnectProvider", &new).await;
    let federated = json!({ "Federated": provider });
    let trusted = json!(["sts:AssumeRoleWithWebIdentity", "sts:TagSession"]);
    let subject = json!({ "StringEquals": { "idp.example/x:sub": "repo:a", "idp.example/x:aud": "app" } });
    let role = world.role("web", trusted.clone(), federated, subject).await;
    let everyone = world.role("everyone", trusted, json!("*"), json!({})).await;
    let claims = json!({ "iss": "https://idp.example/x", "sub": "repo:a", "aud": "app", "iat": now, "exp": now + 60 });
    let ask = async |role: &str, token: &str| {
        let parameters = [("RoleArn", role), ("RoleSessionName", "s1"), ("WebIdentityToken", token)];
        world.unsigned(Sts, "AssumeRoleWithWebIdentity", &parameters).await
    };
    let good = issuer.token(&claims);
    assert_eq!(ask(&role, &good).await.code, "IDPCommunicationError", "the operator has given no keys");
    let set = |txn: &mut terroir_store::Txn| {
        terroir_iam::ops::set_issuer_keys(txn, "https://idp.example/x", &issuer.jwks(), world.now())
    };
    world.store.transact(&[], set).await.unwrap();
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        issuer.token(&claims)
    };
    let tags = json!({ "principal_tags": { "team": ["red"] }, "transitive_tag_keys": ["team"] });
    let rows = [
        ("good", &role, good.clone(), ""),
        ("with tags", &role, with("https://aws.amazon.com/tags", tags), ""),
        ("with bad tags", &role, with("https://aws.amazon.com/tags", json!([1])), "IDPRejectedClaim"),
        (
            "with an identity that the role does not take",
            &role,
            with("https://aws.amazon.com/source_identity", json!("ann")),
            "AccessDenied",
        ),
        ("another subject", &role, with("sub", json!("repo:b")), "AccessDenied"),
        ("for another application", &role, with("aud", json!("other")), "InvalidIdentityToken"),
        ("issued to another party", &role, with("azp", json!("other")), "InvalidIdentityToken"),
        ("expired", &role, with("exp", json!(now)), "ExpiredTokenException"),
        (
            "of an issuer that is no provider",
            &role,
            with("iss", json!("https://other.example")),
            "InvalidIdentityToken",
        ),
        ("signed by somebody else", &role, stranger.token(&claims), "InvalidIdentityToken"),
        ("everyone is not a provider", &everyone, good.clone(), "AccessDenied"),
    ];
    for (what, role, token, code) in rows {
        let answer = ask(role, &token).await;
        assert_eq!(answer.code, code, "{what}: {}", answer.body);
    }
    let missing = format!("arn:aws:iam::{}:role/none", world.account);
    let unknown = ask(&missing, &good).await;
    let untrusting = ask(&everyone, &good).await;
    assert_eq!((&unknown.code, unknown.element("Message")), (&untrusting.code, untrusting.element("Message")));
    let answer = ask(&role, &good).await;
    assert_eq!(answer.element("SubjectFromWebIdentityToken"), Some("repo:a"));
    assert_eq!((answer.element("Audience"), answer.element("Provider")), (Some("app"), Some("https://idp.example/x")));
    let session = world.session(&answer);
    assert!(
        world
            .ok(&session, Sts, "GetCallerIdentity", &[])
            .await
            .element("Arn")
            .unwrap()
            .ends_with("assumed-role/web/s1")
    );
    world.ok(&session, Ec2, "DescribeVpcs", &[]).await;
    // No other action comes unsigned.
    assert_eq!(world.unsigned(Sts, "GetCallerIdentity", &[]).await.code, "MissingAuthenticationToken");
    assert_eq!(world.unsigned(Ec2, "DescribeVpcs", &[]).await.code, "MissingAuthenticationToken");
}

#[tokio::test]
async fn refusals_are_decoded_by_whoever_may() {
    let world = World::new().await;
    let (_, other) = world.other_account("other").await;
    let ann = world.user("ann", None).await;
    let refused = ann.call(&world.server, Ec2, "CreateVpc", &[("CidrBlock", "10.0.0.0/16")]).await;
    let message = refused.element("Message").unwrap();
    let encoded = message.rsplit_once("Encoded authorization failure message: ").unwrap().1.to_owned();
    let decode = async |client: &Client, text: &str| {
        client.call(&world.server, Sts, "DecodeAuthorizationMessage", &[("EncodedMessage", text)]).await
    };
    let decoded = decode(&world.root, &encoded).await;
    let text = decoded.element("DecodedMessage").unwrap().to_owned();
    let read: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(read["context"]["action"], "ec2:CreateVpc");
    assert_eq!(read["context"]["principal"]["name"], "ann");
    assert_eq!(read["explicitDeny"], false);
    let keys = read["context"]["conditions"]["items"].as_array().unwrap();
    assert!(
        keys.iter().any(|item| item["key"] == "aws:sourceip" && item["values"]["items"][0]["value"] == "127.0.0.1")
    );
    assert_eq!(decode(&ann, &encoded).await.code, "AccessDenied", "who was refused may not read it");
    for (client, text) in [(&other, encoded.as_str()), (&world.root, "AAAA"), (&world.root, &encoded[1..])] {
        assert_eq!(decode(client, text).await.code, "InvalidAuthorizationMessageException");
    }
    let own = [("AccessKeyId", ann.access_key_id.as_str())];
    assert_eq!(
        world.ok(&world.root, Sts, "GetAccessKeyInfo", &own).await.element("Account").unwrap(),
        world.account.to_string()
    );
    let foreign = other.call(&world.server, Sts, "GetAccessKeyInfo", &own).await;
    let unknown = other.call(&world.server, Sts, "GetAccessKeyInfo", &[("AccessKeyId", "AKIAAAAAAAAAAAAAAAAA")]).await;
    let masked = foreign.element("Message").unwrap().replace(&ann.access_key_id, "AKIAAAAAAAAAAAAAAAAA");
    assert_eq!((foreign.code.as_str(), masked.as_str()), (unknown.code.as_str(), unknown.element("Message").unwrap()));
}
