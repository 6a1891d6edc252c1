//! Aliases, passwords, multi-factor devices and the report about all credentials.

mod world;

use base64::Engine as _;
use std::time::Duration;
use terroir_api_server::in_process::Client;
use terroir_aws_model::Service::{Iam, Sts};
use world::World;

const OWN_PASSWORD: &str =
    r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iam:ChangePassword","Resource":"*"}]}"#;

#[tokio::test]
async fn aliases_are_one_account_s() {
    let world = World::new().await;
    let (_, other) = world.other_account("other").await;
    let alias = |name: &'static str| [("AccountAlias", name)];
    for bad in ["ab", "-abc", "abc-", "a--b", "ABC", "a_b"] {
        world.script(&world.root, Iam, &[("CreateAccountAlias", &alias(bad), "ValidationError")]).await;
    }
    world
        .script(
            &world.root,
            Iam,
            &[
                ("CreateAccountAlias", &alias("first"), ""),
                ("CreateAccountAlias", &alias("first"), ""),
                ("CreateAccountAlias", &alias("second"), ""),
                ("DeleteAccountAlias", &alias("first"), "NoSuchEntity"),
            ],
        )
        .await;
    world
        .script(
            &other,
            Iam,
            &[
                ("CreateAccountAlias", &alias("second"), "EntityAlreadyExists"),
                ("CreateAccountAlias", &alias("first"), ""),
                ("DeleteAccountAlias", &alias("second"), "NoSuchEntity"),
            ],
        )
        .await;
    let listed = world.ok(&world.root, Iam, "ListAccountAliases", &[]).await;
    assert_eq!(listed.element("AccountAliases"), Some("<member>second</member>"));
    world.ok(&world.root, Iam, "DeleteAccountAlias", &alias("second")).await;
    world.ok(&other, Iam, "CreateAccountAlias", &alias("second")).await;
}

#[tokio::test]
async fn passwords_follow_the_policy() {
    let world = World::new().await;
    let root = &world.root;
    let ann = world.user("ann", None).await;
    let user = ("UserName", "ann");
    let (first, second) = (("Password", "Correct-Horse-1"), ("Password", "Battery-Staple-2"));
    let violation = "PasswordPolicyViolation";
    world
        .script(
            root,
            Iam,
            &[
                ("GetAccountPasswordPolicy", &[], "NoSuchEntity"),
                ("CreateLoginProfile", &[user, ("Password", "short")], violation),
                ("CreateLoginProfile", &[user, ("Password", "onlyletters")], violation),
                ("CreateLoginProfile", &[user, ("Password", "\u{3b1}bcdefgH1")], "ValidationError"),
                ("CreateLoginProfile", &[("UserName", "nobody"), first], "NoSuchEntity"),
                ("CreateLoginProfile", &[user], "ValidationError"),
                ("GetLoginProfile", &[user], "NoSuchEntity"),
                ("UpdateLoginProfile", &[user, second], "NoSuchEntity"),
                ("CreateLoginProfile", &[user, first, ("PasswordResetRequired", "true")], ""),
                ("CreateLoginProfile", &[user, first], "EntityAlreadyExists"),
                ("UpdateAccountPasswordPolicy", &[("MinimumPasswordLength", "5")], "ValidationError"),
                (
                    "UpdateAccountPasswordPolicy",
                    &[("MinimumPasswordLength", "14"), ("RequireSymbols", "true"), ("PasswordReusePrevention", "2")],
                    "",
                ),
                ("UpdateLoginProfile", &[user, ("Password", "Battery1")], violation),
                ("UpdateLoginProfile", &[user, ("Password", "BatteryStaple22")], violation),
                ("UpdateLoginProfile", &[user, first], violation),
                ("UpdateLoginProfile", &[user, second], ""),
                ("UpdateLoginProfile", &[user, first], violation),
            ],
        )
        .await;
    let shown = world.ok(root, Iam, "GetLoginProfile", &[user]).await;
    assert_eq!((shown.element("UserName"), shown.element("PasswordResetRequired")), (Some("ann"), Some("true")));
    let change = |old: &'static str, new: &'static str| [("OldPassword", old), ("NewPassword", new)];
    let right = change("Battery-Staple-2", "Third-Password-3");
    world.script(&ann, Iam, &[("ChangePassword", &right, "AccessDenied")]).await;
    world.ok(root, Iam, "PutUserPolicy", &[user, ("PolicyName", "p"), ("PolicyDocument", OWN_PASSWORD)]).await;
    world
        .script(
            &ann,
            Iam,
            &[
                ("ChangePassword", &change("Correct-Horse-1", "Third-Password-3"), "AccessDenied"),
                ("ChangePassword", &change("Battery-Staple-2", "Correct-Horse-1"), violation),
                ("ChangePassword", &right, ""),
                ("ChangePassword", &right, "AccessDenied"),
            ],
        )
        .await;
    world.script(root, Iam, &[("ChangePassword", &right, "InvalidUserType")]).await;
    assert_eq!(world.ok(root, Iam, "GetLoginProfile", &[user]).await.element("PasswordResetRequired"), Some("false"));

    // The policy lets everybody change it, unless they are told not to.
    let again = change("Third-Password-3", "Fourth-Password-4");
    let deny = OWN_PASSWORD.replace("Allow", "Deny");
    world
        .script(
            root,
            Iam,
            &[
                ("UpdateAccountPasswordPolicy", &[("AllowUsersToChangePassword", "true")], ""),
                ("PutUserPolicy", &[user, ("PolicyName", "p"), ("PolicyDocument", &deny)], ""),
            ],
        )
        .await;
    world.script(&ann, Iam, &[("ChangePassword", &again, "AccessDenied")]).await;
    world.ok(root, Iam, "DeleteUserPolicy", &[user, ("PolicyName", "p")]).await;
    world.script(&ann, Iam, &[("ChangePassword", &again, "")]).await;
    let policy = world.ok(root, Iam, "GetAccountPasswordPolicy", &[]).await;
    assert_eq!((policy.element("MinimumPasswordLength"), policy.element("RequireSymbols")), (Some("6"), Some("false")));

    world.ok(root, Iam, "DeleteAccessKey", &[user, ("AccessKeyId", &ann.access_key_id)]).await;
    world
        .script(
            root,
            Iam,
            &[
                ("DeleteUser", &[user], "DeleteConflict"),
                ("DeleteLoginProfile", &[user], ""),
                ("DeleteLoginProfile", &[user], "NoSuchEntity"),
                ("DeleteAccountPasswordPolicy", &[], ""),
                ("DeleteAccountPasswordPolicy", &[], "NoSuchEntity"),
                ("DeleteUser", &[user], ""),
            ],
        )
        .await;
}

/// The requests around devices; the codes themselves are tested where the time can be set, and with a real client.
#[tokio::test]
async fn devices_belong_to_one() {
    let world = World::new().await;
    let root = &world.root;
    let ann = world.user("ann", None).await;
    let made =
        world.ok(root, Iam, "CreateVirtualMFADevice", &[("VirtualMFADeviceName", "phone"), ("Path", "/a/")]).await;
    let serial = format!("arn:aws:iam::{}:mfa/a/phone", world.account);
    assert_eq!(made.element("SerialNumber"), Some(serial.as_str()));
    let decode = |name: &str| base64::engine::general_purpose::STANDARD.decode(made.element(name).unwrap()).unwrap();
    assert_eq!(decode("Base32StringSeed").len(), 64);
    assert!(decode("QRCodePNG").starts_with(b"\x89PNG"));
    let (user, device) = (("UserName", "ann"), ("SerialNumber", serial.as_str()));
    let codes = [("AuthenticationCode1", "000000"), ("AuthenticationCode2", "000000")];
    let with_codes = [&[user, device], &codes[..]].concat();
    world
        .script(
            root,
            Iam,
            &[
                ("CreateVirtualMFADevice", &[("VirtualMFADeviceName", "phone")], "EntityAlreadyExists"),
                ("EnableMFADevice", &with_codes, "InvalidAuthenticationCode"),
                (
                    "EnableMFADevice",
                    &[&[user, ("SerialNumber", "arn:aws:iam::1:mfa/x")], &codes[..]].concat(),
                    "NoSuchEntity",
                ),
                ("ResyncMFADevice", &with_codes, "NoSuchEntity"),
                ("DeactivateMFADevice", &[user, device], "NoSuchEntity"),
                ("GetMFADevice", &[device, user], "NoSuchEntity"),
                ("ListVirtualMFADevices", &[("AssignmentStatus", "Lost")], "ValidationError"),
            ],
        )
        .await;
    let listed = world.ok(root, Iam, "ListVirtualMFADevices", &[("AssignmentStatus", "Unassigned")]).await;
    assert!(listed.body.contains(&serial) && !listed.body.contains("Base32StringSeed"));
    assert!(
        !world.ok(root, Iam, "ListVirtualMFADevices", &[("AssignmentStatus", "Assigned")]).await.body.contains(&serial)
    );
    let token = |more: &[(&'static str, &'static str)]| more.to_vec();
    for (parameters, what) in [
        (token(&[("TokenCode", "123456")]), "must provide both"),
        (vec![("SerialNumber", serial.as_str()), ("TokenCode", "123456")], "unable to validate MFA code"),
    ] {
        let answer = ann.call(&world.server, Sts, "GetSessionToken", &parameters).await;
        assert_eq!(answer.code, "AccessDenied");
        assert!(answer.element("Message").is_some_and(|message| message.contains(what)), "{}", answer.body);
    }
    // Guessing comes to an end.
    let guess = [("SerialNumber", serial.as_str()), ("TokenCode", "123456")];
    let mut last = String::new();
    for _ in 0..6 {
        last = ann.call(&world.server, Sts, "GetSessionToken", &guess).await.body;
    }
    assert!(last.contains("too many wrong codes"), "{last}");
    world.ok(root, Iam, "DeleteVirtualMFADevice", &[device]).await;
}

/// IAM's own actions want a multi-factor code from whoever uses a session of its own.
#[tokio::test]
async fn own_sessions_without_a_code_do_not_reach_iam() {
    let world = World::new().await;
    let session = world.session(&world.ok(&world.root, Sts, "GetSessionToken", &[]).await);
    let refused = session.call(&world.server, Iam, "ListUsers", &[]).await;
    assert_eq!((refused.code.as_str(), refused.status.as_u16()), ("InvalidClientTokenId", 403));
    world.ok(&session, terroir_aws_model::Service::Ec2, "DescribeVpcs", &[]).await;
    for (action, parameters) in [("GetSessionToken", &[][..]), ("GetFederationToken", &[("Name", "fay")])] {
        assert_eq!(session.call(&world.server, Sts, action, parameters).await.code, "AccessDenied", "{action}");
    }
    world.ok(&session, Sts, "GetCallerIdentity", &[]).await;
}

#[tokio::test]
async fn the_credential_report() {
    let world = World::new().await;
    let root: &Client = &world.root;
    world.user("ann", None).await;
    world
        .script(
            root,
            Iam,
            &[
                ("GetCredentialReport", &[], "ReportNotPresent"),
                ("CreateUser", &[("UserName", "b,c")], ""),
                ("CreateLoginProfile", &[("UserName", "ann"), ("Password", "Correct-Horse-1")], ""),
                ("UpdateAccountPasswordPolicy", &[("MaxPasswordAge", "10")], ""),
            ],
        )
        .await;
    assert_eq!(world.ok(root, Iam, "GenerateCredentialReport", &[]).await.element("State"), Some("COMPLETE"));
    let report = world.ok(root, Iam, "GetCredentialReport", &[]).await;
    assert_eq!(report.element("GeneratedTime"), Some("2026-11-24T05:00:00Z"));
    let content = base64::engine::general_purpose::STANDARD.decode(report.element("Content").unwrap()).unwrap();
    let text = String::from_utf8(content).unwrap();
    let rows: Vec<&str> = text.lines().collect();
    assert_eq!(rows.len(), 4);
    let columns = rows[0].split(',').count();
    assert_eq!(columns, 22);
    assert!(rows[1].starts_with("<root_account>,arn:aws:iam::") && rows[1].split(',').count() == columns);
    let ann: Vec<&str> = rows[2].split(',').collect();
    assert_eq!(
        (ann[0], ann[3], ann[5], ann[6]),
        ("ann", "true", "2026-11-24T05:00:00+00:00", "2026-12-04T05:00:00+00:00")
    );
    assert_eq!((ann[7], ann[8], ann[13]), ("false", "true", "false"));
    assert!(rows[3].starts_with("\"b,c\",\"arn:aws:iam::"), "{}", rows[3]);
    let (_, other) = world.other_account("other").await;
    assert_eq!(other.call(&world.server, Iam, "GetCredentialReport", &[]).await.code, "ReportNotPresent");
    world.clock.advance(Duration::from_secs(4 * 3_600));
    let root = Client { now: world.now(), ..root.clone() };
    world.script(&root, Iam, &[("GetCredentialReport", &[], "ReportExpired")]).await;
    world.ok(&root, Iam, "GenerateCredentialReport", &[]).await;
    world.ok(&root, Iam, "GetCredentialReport", &[]).await;
}
