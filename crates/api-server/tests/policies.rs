//! Versions of policies, permissions boundaries, tags, simulations, and what an account tells of all that.

mod world;

use terroir_api_server::in_process::{Answer, Client};
use terroir_aws_model::Service::{Ec2, Iam};
use world::World;

const ALLOW_ALL: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#;
const ALLOW_VPCS: &str =
    r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"ec2:DescribeVpcs","Resource":"*"}]}"#;
const ALLOW_NOTHING_HERE: &str =
    r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sqs:*","Resource":"*"}]}"#;

/// The texts of all elements of this name.
fn all<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    answer.body.split(&open).skip(1).map(|rest| rest.split(&close).next().unwrap()).collect()
}

async fn may_describe(world: &World, client: &Client) -> bool {
    client.call(&world.server, Ec2, "DescribeVpcs", &[]).await.status.is_success()
}

#[tokio::test]
async fn versions_of_a_policy() {
    let world = World::new().await;
    let (root, ann) = (&world.root, world.user("ann", None).await);
    let arn = format!("arn:aws:iam::{}:policy/p", world.account);
    let policy = ("PolicyArn", arn.as_str());
    let (vpcs, nothing) = (("PolicyDocument", ALLOW_VPCS), ("PolicyDocument", ALLOW_NOTHING_HERE));
    let version = |number: &'static str| [policy, ("VersionId", number)];
    let admin = ("PolicyArn", "arn:aws:iam::aws:policy/AdministratorAccess");
    world
        .script(
            root,
            Iam,
            &[
                ("CreatePolicy", &[("PolicyName", "p"), nothing], ""),
                ("AttachUserPolicy", &[("UserName", "ann"), policy], ""),
                ("CreatePolicyVersion", &[policy, ("PolicyDocument", "{}")], "MalformedPolicyDocument"),
                ("CreatePolicyVersion", &[policy, vpcs], ""),
            ],
        )
        .await;
    assert!(!may_describe(&world, &ann).await, "a version that is not the default says nothing");
    world.script(root, Iam, &[("SetDefaultPolicyVersion", &version("v2"), "")]).await;
    assert!(may_describe(&world, &ann).await);
    world
        .script(
            root,
            Iam,
            &[
                ("SetDefaultPolicyVersion", &version("v3"), "NoSuchEntity"),
                ("SetDefaultPolicyVersion", &version("2"), "NoSuchEntity"),
                ("SetDefaultPolicyVersion", &version("v02"), "NoSuchEntity"),
                ("DeletePolicyVersion", &version("v2"), "DeleteConflict"),
                ("CreatePolicyVersion", &[policy, nothing, ("SetAsDefault", "true")], ""),
                ("CreatePolicyVersion", &[policy, vpcs], ""),
                ("CreatePolicyVersion", &[policy, vpcs], ""),
                ("CreatePolicyVersion", &[policy, vpcs], "LimitExceeded"),
                ("CreatePolicyVersion", &[admin, vpcs], "AccessDenied"),
                ("DeletePolicyVersion", &[admin, ("VersionId", "v1")], "AccessDenied"),
                ("UntagPolicy", &[admin, ("TagKeys.member.1", "a")], "AccessDenied"),
                ("ListPolicyTags", &[admin], ""),
            ],
        )
        .await;
    assert!(!may_describe(&world, &ann).await, "v3 is the default now");
    let listed = world.ok(root, Iam, "ListPolicyVersions", &[policy]).await;
    assert_eq!(all(&listed, "VersionId"), ["v5", "v4", "v3", "v2", "v1"]);
    assert_eq!(all(&listed, "IsDefaultVersion"), ["false", "false", "true", "false", "false"]);
    assert_eq!(world.ok(root, Iam, "GetPolicy", &[policy]).await.element("DefaultVersionId"), Some("v3"));
    // v1 and v3 have one text, as have v2, v4 and v5: each goes when the last that has it goes.
    for number in ["v1", "v2", "v4"] {
        world.ok(root, Iam, "DeletePolicyVersion", &version(number)).await;
    }
    let shown = world.ok(root, Iam, "GetPolicyVersion", &version("v5")).await;
    assert_eq!(shown.element("Document").unwrap(), terroir_iam::sigv4::encode(ALLOW_VPCS.as_bytes()));
    let shown = world.ok(root, Iam, "GetPolicyVersion", &version("v3")).await;
    assert_eq!(shown.element("Document").unwrap(), terroir_iam::sigv4::encode(ALLOW_NOTHING_HERE.as_bytes()));
    world
        .script(
            root,
            Iam,
            &[
                ("GetPolicyVersion", &version("v1"), "NoSuchEntity"),
                ("DetachUserPolicy", &[("UserName", "ann"), policy], ""),
                ("DeletePolicy", &[policy], "DeleteConflict"),
                ("CreatePolicyVersion", &[policy, vpcs], ""),
                ("DeletePolicyVersion", &version("v5"), ""),
                ("DeletePolicyVersion", &version("v6"), ""),
                ("DeletePolicy", &[policy], ""),
            ],
        )
        .await;
    let left =
        world.store.range_direct::<terroir_iam::model::PolicyDocument>(&"~policy".into(), None, 10).await.unwrap();
    assert_eq!(left.len(), 0, "no document is left behind");
}

#[tokio::test]
async fn boundaries_limit_and_are_delegated() {
    let world = World::new().await;
    let root = &world.root;
    let account = world.account;
    let limit_arn = format!("arn:aws:iam::{account}:policy/limit");
    let (ann, limit) = (("UserName", "ann"), ("PermissionsBoundary", limit_arn.as_str()));
    let client = world.user("ann", Some(ALLOW_ALL)).await;
    // Who may make users only with the boundary, and put policies only on users who have it.
    let delegate = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":["iam:CreateUser","iam:PutUserPolicy","iam:AttachUserPolicy"],"Resource":"*","Condition":{{"StringEquals":{{"iam:PermissionsBoundary":"{limit_arn}"}}}}}}]}}"#
    );
    let helper = world.user("helper", Some(&delegate)).await;
    world
        .script(
            root,
            Iam,
            &[
                ("CreatePolicy", &[("PolicyName", "limit"), ("PolicyDocument", ALLOW_NOTHING_HERE)], ""),
                ("PutUserPermissionsBoundary", &[("UserName", "nobody"), limit], "NoSuchEntity"),
                (
                    "PutUserPermissionsBoundary",
                    &[ann, ("PermissionsBoundary", "arn:aws:iam::aws:policy/None")],
                    "NoSuchEntity",
                ),
                ("DeleteUserPermissionsBoundary", &[ann], "NoSuchEntity"),
            ],
        )
        .await;
    assert!(may_describe(&world, &client).await);
    world.ok(root, Iam, "PutUserPermissionsBoundary", &[ann, limit]).await;
    let refused = client.call(&world.server, Ec2, "DescribeVpcs", &[]).await;
    assert!(refused.body.contains("because no permissions boundary allows the ec2:DescribeVpcs action"), "{refused:?}");
    let shown = world.ok(root, Iam, "GetUser", &[ann]).await;
    assert_eq!(shown.element("PermissionsBoundaryArn"), Some(limit_arn.as_str()));
    assert_eq!(shown.element("PermissionsBoundaryType"), Some("PermissionsBoundaryPolicy"));
    let policy = ("PolicyArn", limit_arn.as_str());
    let policies = world.ok(root, Iam, "ListPolicies", &[("PolicyUsageFilter", "PermissionsBoundary")]).await;
    assert_eq!(
        (all(&policies, "PolicyName"), policies.element("PermissionsBoundaryUsageCount")),
        (vec!["limit"], Some("1"))
    );
    world.script(root, Iam, &[("DeletePolicy", &[policy], "DeleteConflict")]).await;

    let own = [("PolicyName", "p"), ("PolicyDocument", ALLOW_ALL)];
    world
        .script(
            &helper,
            Iam,
            &[
                ("CreateUser", &[("UserName", "free")], "AccessDenied"),
                (
                    "CreateUser",
                    &[("UserName", "free"), ("PermissionsBoundary", "arn:aws:iam::aws:policy/AdministratorAccess")],
                    "AccessDenied",
                ),
                ("CreateUser", &[("UserName", "bound"), limit], ""),
                ("PutUserPolicy", &[&[("UserName", "bound")], &own[..]].concat(), ""),
                ("PutUserPolicy", &[&[("UserName", "helper")], &own[..]].concat(), "AccessDenied"),
                ("DeleteUserPermissionsBoundary", &[("UserName", "bound")], "AccessDenied"),
            ],
        )
        .await;
    world
        .script(
            root,
            Iam,
            &[
                ("DeleteUserPermissionsBoundary", &[ann], ""),
                ("DeleteUserPolicy", &[("UserName", "bound"), ("PolicyName", "p")], ""),
                ("DeleteUser", &[("UserName", "bound")], ""),
                ("DeletePolicy", &[policy], ""),
            ],
        )
        .await;
    assert!(may_describe(&world, &client).await);
}

#[tokio::test]
async fn roles_groups_and_tags() {
    let world = World::new().await;
    let root = &world.root;
    let account = world.account;
    let trust = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":"sts:AssumeRole","Principal":{{"AWS":"{account}"}}}}]}}"#
    );
    let (role, team) = (("RoleName", "r"), ("GroupName", "team"));
    let boundary = ("PermissionsBoundary", "arn:aws:iam::aws:policy/ReadOnlyAccess");
    let provider_arn = format!("arn:aws:iam::{account}:oidc-provider/idp.example/a");
    let provider = ("OpenIDConnectProviderArn", provider_arn.as_str());
    let tag = |key: &'static str, value: &'static str| [("Tags.member.1.Key", key), ("Tags.member.1.Value", value)];
    let with =
        |first: (&'static str, &'static str), rest: [(&'static str, &'static str); 2]| [&[first], &rest[..]].concat();
    world
        .script(
            root,
            Iam,
            &[
                ("CreateRole", &[role, ("AssumeRolePolicyDocument", &trust), boundary], ""),
                ("UpdateRole", &[role, ("Description", "text"), ("MaxSessionDuration", "43200")], ""),
                ("UpdateRole", &[role, ("MaxSessionDuration", "3599")], "ValidationError"),
                ("UpdateRole", &[("RoleName", "q")], "NoSuchEntity"),
                ("UpdateRoleDescription", &[role, ("Description", &"x".repeat(1001))], "ValidationError"),
                ("DeleteRolePermissionsBoundary", &[role], ""),
                ("PutRolePermissionsBoundary", &[role, boundary], ""),
                ("CreateGroup", &[team], ""),
                ("CreateGroup", &[("GroupName", "crew")], ""),
                ("UpdateGroup", &[team, ("NewGroupName", "crew")], "EntityAlreadyExists"),
                ("UpdateGroup", &[team, ("NewGroupName", "teams"), ("NewPath", "/x/")], ""),
                ("GetGroup", &[team], "NoSuchEntity"),
                ("TagRole", &with(role, tag("Env", "test")), ""),
                ("TagRole", &with(role, tag("aws:x", "y")), "InvalidInput"),
                ("TagRole", &with(role, tag("env", "live")), ""),
                ("TagUser", &with(("UserName", "nobody"), tag("a", "b")), "NoSuchEntity"),
                ("CreateInstanceProfile", &[("InstanceProfileName", "p")], ""),
                ("TagInstanceProfile", &with(("InstanceProfileName", "p"), tag("a", "b")), ""),
                ("CreateOpenIDConnectProvider", &[("Url", "http://idp.example")], "InvalidInput"),
                (
                    "CreateOpenIDConnectProvider",
                    &[("Url", "https://idp.example"), ("ThumbprintList.member.1", "12")],
                    "ValidationError",
                ),
                (
                    "CreateOpenIDConnectProvider",
                    &[("Url", "https://idp.example/a"), ("ClientIDList.member.1", "one")],
                    "",
                ),
                ("CreateOpenIDConnectProvider", &[("Url", "https://idp.example/a")], "EntityAlreadyExists"),
                ("AddClientIDToOpenIDConnectProvider", &[provider, ("ClientID", "two")], ""),
                ("RemoveClientIDFromOpenIDConnectProvider", &[provider, ("ClientID", "one")], ""),
                (
                    "UpdateOpenIDConnectProviderThumbprint",
                    &[provider, ("ThumbprintList.member.1", &"a".repeat(40))],
                    "",
                ),
            ],
        )
        .await;
    let shown = world.ok(root, Iam, "UpdateRoleDescription", &[role, ("Description", "other")]).await;
    assert_eq!((shown.element("Description"), shown.element("MaxSessionDuration")), (Some("other"), Some("43200")));
    assert_eq!(shown.element("PermissionsBoundaryArn"), Some("arn:aws:iam::aws:policy/ReadOnlyAccess"));
    let tags = world.ok(root, Iam, "ListRoleTags", &[role]).await;
    assert_eq!(
        (all(&tags, "Key"), all(&tags, "Value")),
        (vec!["env"], vec!["live"]),
        "keys are one whatever their case"
    );
    world.ok(root, Iam, "UntagRole", &[role, ("TagKeys.member.1", "ENV")]).await;
    assert_eq!(all(&world.ok(root, Iam, "ListRoleTags", &[role]).await, "Key"), Vec::<&str>::new());
    let shown = world.ok(root, Iam, "GetOpenIDConnectProvider", &[provider]).await;
    assert_eq!(
        (shown.element("Url"), all(&shown, "ClientIDList")),
        (Some("idp.example/a"), vec!["<member>two</member>"])
    );
    assert_eq!(all(&world.ok(root, Iam, "ListOpenIDConnectProviders", &[]).await, "Arn"), [provider_arn.as_str()]);
    world
        .script(
            root,
            Iam,
            &[
                ("DeleteOpenIDConnectProvider", &[provider], ""),
                ("DeleteOpenIDConnectProvider", &[provider], ""),
                ("GetOpenIDConnectProvider", &[provider], "NoSuchEntity"),
                ("DeleteRole", &[role], ""),
            ],
        )
        .await;

    // Tags decide, of the principal and of the resource.
    let own = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iam:GetUser","Resource":"*","Condition":{"StringEquals":{"aws:ResourceTag/team":"${aws:PrincipalTag/team}"}}}]}"#;
    let ann = world.user("ann", Some(own)).await;
    world.user("bob", None).await;
    for (user, team) in [("ann", "red"), ("bob", "blue")] {
        world.ok(root, Iam, "TagUser", &with(("UserName", user), tag("team", team))).await;
    }
    world
        .script(
            &ann,
            Iam,
            &[("GetUser", &[("UserName", "ann")], ""), ("GetUser", &[("UserName", "bob")], "AccessDenied")],
        )
        .await;
    world.ok(root, Iam, "TagUser", &with(("UserName", "bob"), tag("team", "red"))).await;
    world.ok(&ann, Iam, "GetUser", &[("UserName", "bob")]).await;
}

#[tokio::test]
async fn simulations() {
    let world = World::new().await;
    let root = &world.root;
    let account = world.account;
    world.user("ann", Some(ALLOW_VPCS)).await;
    let admin = "arn:aws:iam::aws:policy/AdministratorAccess";
    let source = format!("arn:aws:iam::{account}:user/ann");
    let source = ("PolicySourceArn", source.as_str());
    let actions = [("ActionNames.member.1", "ec2:DescribeVpcs"), ("ActionNames.member.2", "ec2:CreateVpc")];
    let simulate = async |more: &[(&str, &str)]| {
        let answer = world.ok(root, Iam, "SimulatePrincipalPolicy", &[&[source][..], &actions, more].concat()).await;
        all(&answer, "EvalDecision").join(" ")
    };
    assert_eq!(simulate(&[]).await, "allowed implicitDeny");
    assert_eq!(simulate(&[("PolicyInputList.member.1", ALLOW_ALL)]).await, "allowed allowed");
    let deny = r#"{"Statement":{"Effect":"Deny","Action":"ec2:*","Resource":"*"}}"#;
    assert_eq!(simulate(&[("PolicyInputList.member.1", deny)]).await, "explicitDeny explicitDeny");
    let boundary =
        [("PolicyInputList.member.1", ALLOW_ALL), ("PermissionsBoundaryPolicyInputList.member.1", ALLOW_VPCS)];
    assert_eq!(simulate(&boundary).await, "allowed implicitDeny");
    world
        .ok(
            root,
            Iam,
            "PutUserPermissionsBoundary",
            &[("UserName", "ann"), ("PermissionsBoundary", "arn:aws:iam::aws:policy/AmazonS3FullAccess")],
        )
        .await;
    assert_eq!(simulate(&[]).await, "implicitDeny implicitDeny", "the user's own boundary counts");
    world.ok(root, Iam, "PutUserPermissionsBoundary", &[("UserName", "ann"), ("PermissionsBoundary", admin)]).await;
    assert_eq!(simulate(&[]).await, "allowed implicitDeny");

    let asked = [&[source], &actions[..1]].concat();
    let answer = world.ok(root, Iam, "SimulatePrincipalPolicy", &asked).await;
    assert_eq!(all(&answer, "SourcePolicyId"), ["user_ann_p", "AdministratorAccess"]);
    assert_eq!(all(&answer, "SourcePolicyType"), ["user", "aws-managed"]);
    assert_eq!(answer.element("StartPosition"), Some("<Column>38</Column><Line>1</Line>"));
    assert_eq!(answer.element("AllowedByPermissionsBoundary"), Some("true"));

    let condition = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/${aws:username}","Condition":{"IpAddress":{"aws:SourceIp":"10.0.0.0/8"}}}}"#;
    let custom = async |more: &[(&str, &str)]| {
        let fixed = [
            ("PolicyInputList.member.1", condition),
            ("ActionNames.member.1", "s3:GetObject"),
            ("ResourceArns.member.1", "arn:aws:s3:::b/ann"),
        ];
        root.call(&world.server, Iam, "SimulateCustomPolicy", &[&fixed, more].concat()).await
    };
    let answer = custom(&[]).await;
    assert_eq!(answer.element("EvalDecision"), Some("implicitDeny"));
    assert_eq!(
        answer.element("MissingContextValues"),
        Some("<member>aws:SourceIp</member><member>aws:username</member>")
    );
    let caller = format!("arn:aws:iam::{account}:user/ann");
    let entry = |kind: &'static str| {
        [
            ("ContextEntries.member.1.ContextKeyName", "aws:SourceIp"),
            ("ContextEntries.member.1.ContextKeyType", kind),
            ("ContextEntries.member.1.ContextKeyValues.member.1", "10.1.2.3"),
        ]
    };
    let answer = custom(&[&[("CallerArn", caller.as_str())], &entry("ip")[..]].concat()).await;
    assert_eq!(answer.element("EvalDecision"), Some("allowed"), "{}", answer.body);
    assert_eq!(answer.element("MissingContextValues"), Some(""));
    let resource_policy = r#"{"Statement":{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"*"}}"#;
    let by_resource = [("CallerArn", caller.as_str()), ("ResourcePolicy", resource_policy)];
    assert_eq!(custom(&by_resource).await.element("EvalDecision"), Some("allowed"));
    let foreign = [&by_resource[..], &[("ResourceOwner", "210987654321")]].concat();
    assert_eq!(
        custom(&foreign).await.element("EvalDecision"),
        Some("implicitDeny"),
        "another account's: both must allow"
    );
    for (more, what) in [
        (&entry("text")[..], "an unknown type"),
        (&[("ResourcePolicy", resource_policy)][..], "a resource policy without a caller"),
        (&[("CallerArn", "ann")][..], "a caller that is no user"),
        (&[("PolicyInputList.member.2", "{}")][..], "a bad document"),
        (&[("ActionNames.member.2", "Get")][..], "an action without a prefix"),
        (&[("ResourceArns.member.2", "b")][..], "a resource that is no ARN"),
        (&[("ResourceHandlingOption", "EC2-Mars")][..], "an unknown option"),
    ] {
        assert_eq!(custom(more).await.code, "InvalidInput", "{what}");
    }
    let first = custom(&[("ActionNames.member.2", "s3:PutObject"), ("MaxItems", "1")]).await;
    assert_eq!((all(&first, "EvalActionName"), first.element("IsTruncated")), (vec!["s3:GetObject"], Some("true")));
    let marker = first.element("Marker").unwrap();
    let rest = custom(&[("ActionNames.member.2", "s3:PutObject"), ("Marker", marker)]).await;
    assert_eq!(all(&rest, "EvalActionName"), ["s3:PutObject"]);
    let keys = world.ok(root, Iam, "GetContextKeysForCustomPolicy", &[("PolicyInputList.member.1", condition)]).await;
    assert_eq!(keys.element("ContextKeyNames"), Some("<member>aws:SourceIp</member><member>aws:username</member>"));
    let keys = world.ok(root, Iam, "GetContextKeysForPrincipalPolicy", &[source]).await;
    assert_eq!(keys.element("ContextKeyNames"), Some(""));
    world
        .script(
            root,
            Iam,
            &[
                (
                    "SimulatePrincipalPolicy",
                    &[&[("PolicySourceArn", "arn:aws:iam::1:user/x")], &actions[..1]].concat(),
                    "NoSuchEntity",
                ),
                (
                    "SimulatePrincipalPolicy",
                    &[&[("PolicySourceArn", "arn:aws:s3:::b")], &actions[..1]].concat(),
                    "InvalidInput",
                ),
            ],
        )
        .await;
}

#[tokio::test]
async fn what_an_account_tells() {
    let world = World::new().await;
    let root = &world.root;
    let account = world.account;
    world.user("ann", Some(ALLOW_VPCS)).await;
    let trust = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":"sts:AssumeRole","Principal":{{"AWS":"{account}"}}}}]}}"#
    );
    let own = format!("arn:aws:iam::{account}:policy/own");
    let admin = "arn:aws:iam::aws:policy/AdministratorAccess";
    let (role, team) = (("RoleName", "r"), ("GroupName", "team"));
    let own = ("PolicyArn", own.as_str());
    world
        .script(
            root,
            Iam,
            &[
                ("CreateRole", &[role, ("AssumeRolePolicyDocument", &trust)], ""),
                ("CreateGroup", &[team], ""),
                ("AddUserToGroup", &[team, ("UserName", "ann")], ""),
                ("CreatePolicy", &[("PolicyName", "own"), ("PolicyDocument", ALLOW_VPCS)], ""),
                ("AttachGroupPolicy", &[team, own], ""),
                ("AttachRolePolicy", &[role, own], ""),
                ("AttachRolePolicy", &[role, ("PolicyArn", admin)], ""),
                ("PutUserPermissionsBoundary", &[("UserName", "ann"), ("PermissionsBoundary", own.1)], ""),
            ],
        )
        .await;
    let entities = world.ok(root, Iam, "ListEntitiesForPolicy", &[own]).await;
    assert_eq!(
        (all(&entities, "UserName"), all(&entities, "GroupName"), all(&entities, "RoleName")),
        (vec!["ann"], vec!["team"], vec!["r"])
    );
    let entities = world.ok(root, Iam, "ListEntitiesForPolicy", &[own, ("EntityFilter", "Role")]).await;
    assert_eq!((all(&entities, "UserName").len(), all(&entities, "RoleName").len()), (0, 1));
    let usage = ("PolicyUsageFilter", "PermissionsPolicy");
    let entities = world.ok(root, Iam, "ListEntitiesForPolicy", &[own, usage]).await;
    assert_eq!((all(&entities, "UserName").len(), all(&entities, "RoleName").len()), (0, 1));

    let details = world.ok(root, Iam, "GetAccountAuthorizationDetails", &[]).await;
    assert_eq!(all(&details, "UserName"), ["ann"]);
    assert_eq!(all(&details, "RoleName"), ["r"]);
    let document = terroir_iam::sigv4::encode(ALLOW_VPCS.as_bytes());
    assert!(details.element("UserPolicyList").is_some_and(|list| list.contains(&document)), "{}", details.body);
    assert!(details.element("Policies").is_some_and(|list| list.contains(&document) && list.contains(admin)));
    assert_eq!(details.element("AssumeRolePolicyDocument").unwrap(), terroir_iam::sigv4::encode(trust.as_bytes()));
    let mut seen = Vec::new();
    let mut marker: Option<String> = None;
    loop {
        let page = [("MaxItems", "1"), ("Marker", marker.as_deref().unwrap_or_default())];
        let count = if marker.is_some() { 2 } else { 1 };
        let answer = world.ok(root, Iam, "GetAccountAuthorizationDetails", &page[..count]).await;
        seen.extend(
            ["UserId", "GroupId", "RoleId", "PolicyId"].iter().flat_map(|kind| all(&answer, kind)).map(str::to_owned),
        );
        match answer.element("Marker") {
            Some(next) => marker = Some(next.to_owned()),
            None => break,
        }
    }
    assert_eq!(seen.len(), 5, "a user, a group, a role and two policies, each once: {seen:?}");
    let only = world.ok(root, Iam, "GetAccountAuthorizationDetails", &[("Filter.member.1", "User")]).await;
    assert_eq!((all(&only, "RoleName").len(), all(&only, "UserName").len()), (0, 1));

    let arn = format!("arn:aws:iam::{account}:role/r");
    let asked = [("Arn", arn.as_str()), ("ServiceNamespaces.member.1", "ec2"), ("ServiceNamespaces.member.2", "s3")];
    let granting = world.ok(root, Iam, "ListPoliciesGrantingServiceAccess", &asked).await;
    assert_eq!(all(&granting, "PolicyName"), ["own", "AdministratorAccess", "AdministratorAccess"]);
    let summary = world.ok(root, Iam, "GetAccountSummary", &[]).await;
    for (key, value) in
        [("Users", 1), ("Groups", 1), ("Roles", 1), ("Policies", 1), ("UsersQuota", 5000), ("MFADevices", 0)]
    {
        let entry = format!("<entry><key>{key}</key><value>{value}</value></entry>");
        assert!(summary.body.contains(&entry), "{key}: {}", summary.body);
    }
}
