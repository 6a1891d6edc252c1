//! The IAM and STS APIs: what they answer, what they refuse, and what policies then allow.

mod world;

use std::time::Duration;
use terroir_api_server::in_process::{Answer, Client};
use terroir_aws_model::Service::{Ec2, Iam, Sts};
use world::World;

const ALLOW_ALL: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#;
const ALLOW_VPCS: &str =
    r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"ec2:DescribeVpcs","Resource":"*"}]}"#;
const ALLOW_ASSUME: &str =
    r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:AssumeRole","Resource":"*"}]}"#;

/// Calls of IAM and the code each must answer with.
async fn script(world: &World, client: &Client, calls: &[world::Step<'_>]) {
    world.script(client, Iam, calls).await;
}

#[tokio::test]
async fn users_groups_keys_and_policies() {
    let world = World::new().await;
    let own_policy = format!("arn:aws:iam::{}:policy/vpcs", world.account);
    let admin = "arn:aws:iam::aws:policy/AdministratorAccess";
    let (ann, team) = (("UserName", "ann"), ("GroupName", "team"));
    let big = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":"a:B","Resource":"arn:aws:s3:::{}"}}]}}"#,
        "x".repeat(2048)
    );
    script(
        &world,
        &world.root,
        &[
            ("CreateUser", &[ann, ("Path", "/dev/"), ("Tags.member.1.Key", "k"), ("Tags.member.1.Value", "v")], ""),
            ("CreateUser", &[("UserName", "ANN")], "EntityAlreadyExists"),
            ("CreateUser", &[("UserName", "a b")], "ValidationError"),
            ("CreateUser", &[("UserName", "bob"), ("Path", "dev")], "ValidationError"),
            (
                "CreateUser",
                &[("UserName", "bob"), ("PermissionsBoundary", "arn:aws:iam::aws:policy/No")],
                "NoSuchEntity",
            ),
            ("GetUser", &[("UserName", "bob")], "NoSuchEntity"),
            ("CreateGroup", &[team], ""),
            ("AddUserToGroup", &[team, ann], ""),
            ("AddUserToGroup", &[team, ann], ""),
            ("AddUserToGroup", &[team, ("UserName", "bob")], "NoSuchEntity"),
            ("DeleteGroup", &[team], "DeleteConflict"),
            ("PutUserPolicy", &[ann, ("PolicyName", "p"), ("PolicyDocument", ALLOW_VPCS)], ""),
            ("PutUserPolicy", &[ann, ("PolicyName", "p"), ("PolicyDocument", ALLOW_ALL)], ""),
            ("PutUserPolicy", &[ann, ("PolicyName", "q"), ("PolicyDocument", "{}")], "MalformedPolicyDocument"),
            ("PutUserPolicy", &[ann, ("PolicyName", "q"), ("PolicyDocument", &big)], "LimitExceeded"),
            ("GetUserPolicy", &[ann, ("PolicyName", "q")], "NoSuchEntity"),
            ("CreatePolicy", &[("PolicyName", "vpcs"), ("PolicyDocument", ALLOW_VPCS)], ""),
            ("CreatePolicy", &[("PolicyName", "vpcs"), ("PolicyDocument", ALLOW_VPCS)], "EntityAlreadyExists"),
            ("AttachUserPolicy", &[ann, ("PolicyArn", &own_policy)], ""),
            ("AttachGroupPolicy", &[team, ("PolicyArn", admin)], ""),
            ("AttachUserPolicy", &[ann, ("PolicyArn", "arn:aws:iam::aws:policy/Nothing")], "NoSuchEntity"),
            ("AttachUserPolicy", &[ann, ("PolicyArn", "nonsense")], "ValidationError"),
            ("DeletePolicy", &[("PolicyArn", &own_policy)], "DeleteConflict"),
            ("CreateAccessKey", &[ann], ""),
            ("CreateAccessKey", &[ann], ""),
            ("CreateAccessKey", &[ann], "LimitExceeded"),
            ("DeleteUser", &[ann], "DeleteConflict"),
            ("UpdateUser", &[ann, ("NewUserName", "anna"), ("NewPath", "/ops/")], ""),
            ("GetUser", &[ann], "NoSuchEntity"),
            ("CreateUser", &[ann], ""),
            ("UpdateUser", &[ann, ("NewUserName", "anna")], "EntityAlreadyExists"),
            ("DeleteUser", &[ann], ""),
        ],
    )
    .await;
    let root = &world.root;
    let anna = ("UserName", "anna");
    let user = world.ok(root, Iam, "GetUser", &[anna]).await;
    assert_eq!(user.element("Arn").unwrap(), format!("arn:aws:iam::{}:user/ops/anna", world.account));
    assert_eq!((user.element("Key"), user.element("Value")), (Some("k"), Some("v")));
    let policy = world.ok(root, Iam, "GetUserPolicy", &[anna, ("PolicyName", "p")]).await;
    assert_eq!(policy.element("PolicyDocument").unwrap(), terroir_iam::sigv4::encode(ALLOW_ALL.as_bytes()));
    assert_eq!(
        world.ok(root, Iam, "GetPolicy", &[("PolicyArn", &own_policy)]).await.element("AttachmentCount"),
        Some("1")
    );
    assert_eq!(world.ok(root, Iam, "GetPolicy", &[("PolicyArn", admin)]).await.element("AttachmentCount"), Some("1"));
    let groups = world.ok(root, Iam, "ListGroupsForUser", &[anna]).await;
    assert_eq!(groups.element("GroupName"), Some("team"));
    assert_eq!(world.ok(root, Iam, "GetGroup", &[team]).await.element("UserName"), Some("anna"));

    let keys = world.ok(root, Iam, "ListAccessKeys", &[anna]).await;
    let ids: Vec<&str> = keys.body.split("<AccessKeyId>").skip(1).map(|rest| &rest[..20]).collect();
    assert!(ids.len() == 2 && ids.iter().all(|id| id.starts_with("AKIA")), "{ids:?}");
    script(
        &world,
        root,
        &[
            ("DeleteAccessKey", &[anna, ("AccessKeyId", &root.access_key_id)], "NoSuchEntity"),
            ("DeleteAccessKey", &[("AccessKeyId", &root.access_key_id)], "DeleteConflict"),
            ("UpdateAccessKey", &[anna, ("AccessKeyId", ids[0]), ("Status", "Resting")], "ValidationError"),
            ("UpdateAccessKey", &[anna, ("AccessKeyId", ids[0]), ("Status", "Inactive")], ""),
            ("DeleteAccessKey", &[anna, ("AccessKeyId", ids[0])], ""),
            ("DeleteAccessKey", &[anna, ("AccessKeyId", ids[1])], ""),
            ("DeleteUserPolicy", &[anna, ("PolicyName", "p")], ""),
            ("DetachUserPolicy", &[anna, ("PolicyArn", admin)], "NoSuchEntity"),
            ("DetachUserPolicy", &[anna, ("PolicyArn", &own_policy)], ""),
            ("DeleteUser", &[anna], "DeleteConflict"),
            ("RemoveUserFromGroup", &[team, anna], ""),
            ("DeleteUser", &[anna], ""),
            ("DeleteGroup", &[team], "DeleteConflict"),
            ("DetachGroupPolicy", &[team, ("PolicyArn", admin)], ""),
            ("DeleteGroup", &[team], ""),
            ("DeletePolicy", &[("PolicyArn", &own_policy)], ""),
        ],
    )
    .await;
    let left =
        world.store.range_direct::<terroir_iam::model::PolicyDocument>(&"~policy".into(), None, 10).await.unwrap();
    assert_eq!(left.len(), 0, "no document is left behind");
    let txn = world.store.read().await.unwrap();
    assert_eq!(txn.count(&"guard".into()) + txn.count(&"user".into()), 0);
}

#[tokio::test]
async fn lists_come_in_pages_that_survive_changes() {
    let world = World::new().await;
    for name in ["Dora", "ann", "bob", "Cara", "eve"] {
        world.ok(&world.root, Iam, "CreateUser", &[("UserName", name)]).await;
    }
    let names = |answer: &Answer| -> Vec<String> {
        let parts = answer.body.split("<UserName>").skip(1);
        parts.map(|rest| rest.split('<').next().unwrap().to_owned()).collect()
    };
    let first = world.ok(&world.root, Iam, "ListUsers", &[("MaxItems", "2")]).await;
    assert_eq!((names(&first), first.element("IsTruncated")), (vec!["ann".to_owned(), "bob".to_owned()], Some("true")));
    world.ok(&world.root, Iam, "DeleteUser", &[("UserName", "bob")]).await;
    world.ok(&world.root, Iam, "CreateUser", &[("UserName", "abe")]).await;
    let marker = first.element("Marker").unwrap();
    let rest = world.ok(&world.root, Iam, "ListUsers", &[("Marker", marker)]).await;
    assert_eq!(
        (names(&rest), rest.element("IsTruncated")),
        (vec!["Cara".into(), "Dora".into(), "eve".into()], Some("false"))
    );
    for (parameters, what) in [
        (&[("Marker", "AAAA")][..], "a marker that is not ours"),
        (&[("Marker", marker), ("PathPrefix", "/x/")][..], "a marker of another list"),
        (&[("MaxItems", "0")][..], "too few"),
        (&[("MaxItems", "1001")][..], "too many"),
    ] {
        let answer = world.root.call(&world.server, Iam, "ListUsers", parameters).await;
        assert_eq!(answer.code, "ValidationError", "{what}: {}", answer.body);
    }
}

#[tokio::test]
async fn policies_decide_and_changes_count_at_once() {
    let world = World::new().await;
    let root = &world.root;
    let ann = world.user("ann", None).await;
    let may = |client: &Client, action: &'static str| {
        let client = client.clone();
        let server = &world.server;
        async move {
            client
                .call(server, Ec2, action, &[("CidrBlock", "10.0.0.0/16")][..usize::from(action == "CreateVpc")])
                .await
                .code
        }
    };
    const NO: &str = "UnauthorizedOperation";
    assert_eq!(may(&ann, "DescribeVpcs").await, NO);
    let user = ("UserName", "ann");
    world.ok(root, Iam, "PutUserPolicy", &[user, ("PolicyName", "p"), ("PolicyDocument", ALLOW_VPCS)]).await;
    assert_eq!((may(&ann, "DescribeVpcs").await.as_str(), may(&ann, "CreateVpc").await.as_str()), ("", NO));
    world.ok(root, Iam, "CreateGroup", &[("GroupName", "team")]).await;
    world
        .ok(
            root,
            Iam,
            "AttachGroupPolicy",
            &[("GroupName", "team"), ("PolicyArn", "arn:aws:iam::aws:policy/AmazonEC2FullAccess")],
        )
        .await;
    assert_eq!(may(&ann, "CreateVpc").await, NO);
    world.ok(root, Iam, "AddUserToGroup", &[("GroupName", "team"), user]).await;
    assert_eq!(may(&ann, "CreateVpc").await, "");
    let deny = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"ec2:Create*","Resource":"arn:aws:ec2:*:*:vpc/*","Condition":{"IpAddress":{"aws:SourceIp":"127.0.0.0/8"}}}]}"#;
    world
        .ok(root, Iam, "PutGroupPolicy", &[("GroupName", "team"), ("PolicyName", "d"), ("PolicyDocument", deny)])
        .await;
    let answer = ann.call(&world.server, Ec2, "CreateVpc", &[("CidrBlock", "10.0.0.0/16")]).await;
    let account = world.account;
    let message = format!(
        "You are not authorized to perform this operation. User: arn:aws:iam::{account}:user/ann is not authorized to perform: ec2:CreateVpc on resource: arn:aws:ec2:terroir-1:{account}:vpc/* with an explicit deny in an identity-based policy"
    );
    let (said, encoded) = answer.element("Message").unwrap().split_once(". Encoded authorization failure ").unwrap();
    assert_eq!((answer.status.as_u16(), said), (403, message.as_str()));
    assert!(encoded.starts_with("message: ") && !encoded.contains("ann"));
    let elsewhere = Client { peer: ([192, 0, 2, 1], 1).into(), ..ann.clone() };
    assert_eq!(may(&elsewhere, "CreateVpc").await, "", "the condition does not hold");
    world.ok(root, Iam, "RemoveUserFromGroup", &[("GroupName", "team"), user]).await;
    assert_eq!(may(&elsewhere, "CreateVpc").await, NO);
    // A name does not carry permissions over to who has it next.
    world.ok(root, Iam, "UpdateUser", &[user, ("NewUserName", "anna")]).await;
    assert_eq!(may(&ann, "DescribeVpcs").await, "");
    let next = world.user("ann", None).await;
    assert_eq!(may(&next, "DescribeVpcs").await, NO);
    let answer = ann.call(&world.server, Iam, "GetUser", &[("UserName", "ann")]).await;
    assert_eq!((answer.status.as_u16(), answer.code.as_str()), (403, "AccessDenied"));
    world
        .ok(
            root,
            Iam,
            "UpdateAccessKey",
            &[("UserName", "anna"), ("AccessKeyId", &ann.access_key_id), ("Status", "Inactive")],
        )
        .await;
    assert_eq!(may(&ann, "DescribeVpcs").await, "AuthFailure");
}

#[tokio::test]
async fn roles_are_assumed_by_whom_they_trust() {
    let world = World::new().await;
    let account = world.account;
    let other = world.other_account("other").await;
    let ann = world.user("ann", None).await;
    let bob = world.user("bob", Some(ALLOW_ASSUME)).await;
    let trust = |principal: &str, rest: &str| {
        format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":"sts:AssumeRole","Principal":{principal}{rest}}}]}}"#
        )
    };
    let by_account = trust(&format!(r#"{{"AWS":"{account}"}}"#), "");
    let by_name = trust(&format!(r#"{{"AWS":"arn:aws:iam::{account}:user/ann"}}"#), "");
    let external =
        trust(&format!(r#"{{"AWS":"{}"}}"#, other.0), r#","Condition":{"StringEquals":{"sts:ExternalId":"77"}}"#);
    let service = trust(r#"{"Service":"ec2.amazonaws.com"}"#, "");
    for (name, trust) in
        [("by-account", &by_account), ("by-name", &by_name), ("external", &external), ("service", &service)]
    {
        let parameters = [("RoleName", name), ("AssumeRolePolicyDocument", trust.as_str()), ("Path", "/p/")];
        world.ok(&world.root, Iam, "CreateRole", &parameters).await;
    }
    let foreigner = &other.1;
    type Row<'a> = (&'a str, &'a Client, &'a str, &'a [(&'a str, &'a str)], &'a str);
    let rows: &[Row<'_>] = &[
        ("account named, own policy allows", &bob, "by-account", &[], ""),
        ("account named, own policy does not", &ann, "by-account", &[], "AccessDenied"),
        ("named itself", &ann, "by-name", &[], ""),
        ("somebody else is named", &bob, "by-name", &[], "AccessDenied"),
        ("only a service is trusted", &bob, "service", &[], "AccessDenied"),
        ("another account, with its external id", foreigner, "external", &[("ExternalId", "77")], ""),
        ("another account, with a wrong one", foreigner, "external", &[("ExternalId", "78")], "AccessDenied"),
        ("another account, without", foreigner, "external", &[], "AccessDenied"),
        ("another account that is not trusted", foreigner, "by-account", &[], "AccessDenied"),
        ("no such role", &bob, "nothing", &[], "AccessDenied"),
        ("an account's root", &world.root, "by-account", &[], "AccessDenied"),
        ("too short", &bob, "by-account", &[("DurationSeconds", "899")], "ValidationError"),
        ("longer than the role allows", &bob, "by-account", &[("DurationSeconds", "3601")], "ValidationError"),
        ("a bad session policy", &bob, "by-account", &[("Policy", "{}")], "MalformedPolicyDocument"),
        ("multi-factor", &bob, "by-account", &[("SerialNumber", "123456789"), ("TokenCode", "123456")], "AccessDenied"),
    ];
    for (what, client, role, more, code) in rows {
        let arn = format!("arn:aws:iam::{account}:role/p/{role}");
        let parameters = [&[("RoleArn", arn.as_str()), ("RoleSessionName", "s1")], *more].concat();
        let answer = client.call(&world.server, Sts, "AssumeRole", &parameters).await;
        assert_eq!(answer.code, *code, "{what}: {}", answer.body);
    }
    let name = format!("arn:aws:iam::{account}:role/p/by-account");
    for principal in [
        format!(r#"{{"AWS":"arn:aws:iam::{account}:user/nobody"}}"#),
        format!(r#"{{"AWS":"arn:aws:iam::{account}:user/wrong/path/ann"}}"#),
        r#"{"AWS":"000000000001"}"#.to_owned(),
    ] {
        let document = trust(&principal, "");
        let parameters = [("RoleName", "by-name"), ("PolicyDocument", document.as_str())];
        let answer = world.root.call(&world.server, Iam, "UpdateAssumeRolePolicy", &parameters).await;
        assert_eq!(answer.code, "MalformedPolicyDocument", "{principal} does not exist");
    }
    // Who takes a freed name is not who was trusted.
    let ann_arn = format!("arn:aws:iam::{account}:role/p/by-name");
    let assume = [("RoleArn", ann_arn.as_str()), ("RoleSessionName", "s1")];
    world.ok(&world.root, Iam, "DeleteAccessKey", &[("UserName", "ann"), ("AccessKeyId", &ann.access_key_id)]).await;
    world.ok(&world.root, Iam, "DeleteUser", &[("UserName", "ann")]).await;
    let next = world.user("ann", None).await;
    assert_eq!(next.call(&world.server, Sts, "AssumeRole", &assume).await.code, "AccessDenied");
    let bad_name = bob.call(&world.server, Sts, "AssumeRole", &[("RoleArn", &name), ("RoleSessionName", "a b")]).await;
    assert_eq!(bad_name.code, "ValidationError");
}

#[tokio::test]
async fn a_session_has_its_roles_permissions_within_its_own_policy() {
    let world = World::new().await;
    let account = world.account;
    let bob = world.user("bob", Some(ALLOW_ASSUME)).await;
    let trust = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":"sts:AssumeRole","Principal":{{"AWS":"{account}"}}}}]}}"#
    );
    let role = ("RoleName", "r");
    world
        .ok(
            &world.root,
            Iam,
            "CreateRole",
            &[role, ("AssumeRolePolicyDocument", &trust), ("MaxSessionDuration", "7200")],
        )
        .await;
    world
        .ok(&world.root, Iam, "AttachRolePolicy", &[role, ("PolicyArn", "arn:aws:iam::aws:policy/AmazonEC2FullAccess")])
        .await;
    let arn = format!("arn:aws:iam::{account}:role/r");
    let assume = |more: &[(&'static str, &'static str)]| {
        let (bob, arn, more) = (bob.clone(), arn.clone(), more.to_vec());
        let world = &world;
        async move {
            let parameters = [&[("RoleArn", arn.as_str()), ("RoleSessionName", "s1")], &more[..]].concat();
            world.session(&world.ok(&bob, Sts, "AssumeRole", &parameters).await)
        }
    };
    let full = assume(&[("DurationSeconds", "7200")]).await;
    let narrow = assume(&[("Policy", ALLOW_VPCS)]).await;
    let wide = assume(&[("Policy", ALLOW_ALL)]).await;
    let managed = assume(&[
        ("PolicyArns.member.1.arn", "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"),
        ("PolicyArns.member.2.arn", "arn:aws:iam::aws:policy/AmazonEC2ReadOnlyAccess"),
    ])
    .await;
    let make = [("CidrBlock", "10.0.0.0/16")];
    for (what, client, read, write, users) in [
        ("the role alone", &full, true, true, false),
        ("a narrow session policy", &narrow, true, false, false),
        ("a session policy adds nothing", &wide, true, true, false),
        ("managed session policies", &managed, true, false, false),
    ] {
        let ok = |answer: Answer| answer.status.is_success();
        assert_eq!(ok(client.call(&world.server, Ec2, "DescribeVpcs", &[]).await), read, "{what}: read");
        assert_eq!(ok(client.call(&world.server, Ec2, "CreateVpc", &make).await), write, "{what}: write");
        assert_eq!(ok(client.call(&world.server, Iam, "ListUsers", &[]).await), users, "{what}: users");
        let identity = world.ok(client, Sts, "GetCallerIdentity", &[]).await;
        assert_eq!(identity.element("Arn").unwrap(), format!("arn:aws:sts::{account}:assumed-role/r/s1"));
        assert!(identity.element("UserId").is_some_and(|id| id.starts_with("AROA") && id.ends_with(":s1")));
    }
    let denied = narrow.call(&world.server, Ec2, "CreateVpc", &make).await;
    assert!(denied.body.contains("because no session policy allows the ec2:CreateVpc action"), "{}", denied.body);

    let profile = ("InstanceProfileName", "p");
    script(
        &world,
        &world.root,
        &[
            ("CreateInstanceProfile", &[profile], ""),
            ("AddRoleToInstanceProfile", &[profile, role], ""),
            ("AddRoleToInstanceProfile", &[profile, role], "LimitExceeded"),
            ("DeleteInstanceProfile", &[profile], "DeleteConflict"),
            ("DeleteRole", &[role], "DeleteConflict"),
            ("UpdateAssumeRolePolicy", &[role, ("PolicyDocument", ALLOW_ALL)], "MalformedPolicyDocument"),
        ],
    )
    .await;
    let shown = world.ok(&world.root, Iam, "ListInstanceProfilesForRole", &[role]).await;
    assert_eq!(shown.element("InstanceProfileName"), Some("p"));
    assert_eq!(shown.element("AssumeRolePolicyDocument").unwrap(), terroir_iam::sigv4::encode(trust.as_bytes()));

    // An instance's credentials come from its profile, if the role trusts EC2.
    let iam =
        terroir_iam::Iam::new(world.store.clone(), world.clock.clone(), std::sync::Arc::new(terroir_types::OsRandom));
    let id = shown.element("InstanceProfileId").unwrap();
    assert!(iam.role_credentials(account, id, "i-1").await.unwrap().is_none(), "EC2 is not trusted yet");
    let ec2 = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:AssumeRole","Principal":{"Service":"ec2.amazonaws.com"}}]}"#;
    world.ok(&world.root, Iam, "UpdateAssumeRolePolicy", &[role, ("PolicyDocument", ec2)]).await;
    let credentials = iam.role_credentials(account, id, "i-1").await.unwrap().unwrap();
    assert_eq!(credentials.role_name, "r");
    let instance = Client {
        access_key_id: credentials.session.access_key_id.clone(),
        secret: credentials.session.secret.clone(),
        token: Some(credentials.session.token.expose().clone()),
        ..world.root.clone()
    };
    world.ok(&instance, Ec2, "DescribeVpcs", &[]).await;
    world.clock.advance(Duration::from_secs(12 * 3600));
    let late = Client { now: world.now(), ..instance };
    assert_eq!(late.call(&world.server, Ec2, "DescribeVpcs", &[]).await.code, "RequestExpired");

    let root = Client { now: world.now(), ..world.root.clone() };
    script(
        &world,
        &root,
        &[
            ("RemoveRoleFromInstanceProfile", &[profile, role], ""),
            ("RemoveRoleFromInstanceProfile", &[profile, role], "NoSuchEntity"),
            ("DeleteInstanceProfile", &[profile], ""),
            ("DetachRolePolicy", &[role, ("PolicyArn", "arn:aws:iam::aws:policy/AmazonEC2FullAccess")], ""),
            ("DeleteRole", &[role], ""),
        ],
    )
    .await;
}
