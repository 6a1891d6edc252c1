use serde_json::{Value, json};

use crate::world::{EVERYTHING, World, code};

fn policy(principal: &str, action: &str) -> Value {
    json!({"Sid": format!("{action} for {principal}"), "Effect": "Allow", "Principal": {"AWS": principal}, "Action": action, "Resource": "*"})
}

fn document(statements: &[Value]) -> String {
    json!({"Version": "2012-10-17", "Statement": statements}).to_string()
}

#[tokio::test]
async fn the_policy_of_a_key_decides() {
    let world = World::new().await;
    let (root, account) = (&world.root, world.account);
    let allowed = world.user("allowed", Some(EVERYTHING)).await;
    let nobody = world.user("nobody", None).await;
    let whole = format!("arn:aws:iam::{account}:root");
    let user = format!("arn:aws:iam::{account}:user/nobody");
    let default = world.key(json!({})).await;
    let encrypt = |key: &str| json!({"KeyId": key, "Plaintext": "QUFB"});
    // The default leaves all to the account's own policies.
    for (who, expected) in [(root, ""), (&allowed, ""), (&nobody, "AccessDeniedException")] {
        assert_eq!(code(world.ask(who, "Encrypt", encrypt(&default)).await), expected);
    }
    // A policy that names only a user shuts out everybody else, the root too.
    let own = document(&[policy(&user, "kms:*")]);
    let refused = world.ask(root, "CreateKey", json!({"Policy": own})).await;
    assert_eq!(code(refused), "MalformedPolicyDocumentException");
    let shut = world.key(json!({"Policy": own, "BypassPolicyLockoutSafetyCheck": true})).await;
    for (who, expected) in [(root, "AccessDeniedException"), (&allowed, "AccessDeniedException"), (&nobody, "")] {
        assert_eq!(code(world.ask(who, "Encrypt", encrypt(&shut)).await), expected);
        assert_eq!(code(world.ask(who, "GetKeyPolicy", json!({"KeyId": shut})).await), expected);
    }
    let got = world.ok(&nobody, "GetKeyPolicy", json!({"KeyId": shut})).await;
    assert_eq!(got, json!({"Policy": own, "PolicyName": "default"}));
    let deny = json!({"Effect": "Deny", "Principal": "*", "Action": "kms:Encrypt", "Resource": "*"});
    let denying = document(&[policy(&whole, "kms:*"), deny]);
    world.ok(root, "PutKeyPolicy", json!({"KeyId": default, "Policy": denying})).await;
    assert_eq!(code(world.ask(root, "Encrypt", encrypt(&default)).await), "AccessDeniedException");
    for (text, expected) in [
        (document(&[policy(&whole, "kms:*")]), ""),
        (document(&[policy(&whole, "kms:Encrypt")]), "MalformedPolicyDocumentException"),
        (
            document(&[policy(&format!("arn:aws:iam::{account}:user/gone"), "kms:*")]),
            "MalformedPolicyDocumentException",
        ),
        (
            r#"{"Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"}]}"#.to_owned(),
            "MalformedPolicyDocumentException",
        ),
    ] {
        let answer = world.ask(root, "PutKeyPolicy", json!({"KeyId": default, "Policy": text})).await;
        assert_eq!(code(answer), expected, "{text}");
    }
    let other_name = json!({"KeyId": default, "PolicyName": "mine"});
    assert_eq!(code(world.ask(root, "GetKeyPolicy", other_name).await), "NotFoundException");
    let names = world.ok(root, "ListKeyPolicies", json!({"KeyId": default})).await;
    assert_eq!(names, json!({"PolicyNames": ["default"], "Truncated": false}));
}

#[tokio::test]
async fn conditions_see_context_alias_and_caller() {
    let world = World::new().await;
    let account = world.account;
    let user = world.user("user", None).await;
    let condition = json!({
        "StringEquals": {"kms:EncryptionContext:app": "a", "kms:CallerAccount": account.to_string()},
        "ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["app", "team"]},
        "Null": {"kms:ViaService": "true"},
    });
    let mut limited = policy(&format!("arn:aws:iam::{account}:user/user"), "kms:Encrypt");
    limited["Condition"] = condition;
    let mut by_name = policy(&format!("arn:aws:iam::{account}:user/user"), "kms:GenerateDataKey");
    by_name["Condition"] = json!({"StringEquals": {"kms:RequestAlias": "alias/a"}});
    let whole = policy(&format!("arn:aws:iam::{account}:root"), "kms:*");
    let key = world.key(json!({"Policy": document(&[whole, limited, by_name])})).await;
    world.ok(&world.root, "CreateAlias", json!({"AliasName": "alias/a", "TargetKeyId": key})).await;
    let encrypt = |context: Value| json!({"KeyId": key, "Plaintext": "QUFB", "EncryptionContext": context});
    for (action, body, expected) in [
        ("Encrypt", encrypt(json!({"app": "a"})), ""),
        ("Encrypt", encrypt(json!({"app": "a", "team": "t"})), ""),
        ("Encrypt", encrypt(json!({"app": "a", "more": "t"})), "AccessDeniedException"),
        ("Encrypt", encrypt(json!({"app": "b"})), "AccessDeniedException"),
        ("Encrypt", encrypt(json!({})), "AccessDeniedException"),
        ("GenerateDataKey", json!({"KeyId": "alias/a", "KeySpec": "AES_256"}), ""),
        ("GenerateDataKey", json!({"KeyId": key, "KeySpec": "AES_256"}), "AccessDeniedException"),
    ] {
        assert_eq!(code(world.ask(&user, action, body.clone()).await), expected, "{action} {body}");
    }
}

#[tokio::test]
async fn other_accounts() {
    let world = World::new().await;
    let (account, stranger) = world.other_account().await;
    let friend = world.user_in(account, "friend", Some(EVERYTHING)).await;
    let nobody = world.user_in(account, "nobody", None).await;
    let whole = policy(&format!("arn:aws:iam::{}:root", world.account), "kms:*");
    let theirs = policy(&format!("arn:aws:iam::{account}:root"), "kms:*");
    let shared = world.key(json!({"Policy": document(&[whole, theirs])})).await;
    let private = world.key(json!({})).await;
    for (name, key) in [("alias/shared", &shared), ("alias/private", &private)] {
        world.ok(&world.root, "CreateAlias", json!({"AliasName": name, "TargetKeyId": key})).await;
    }
    let alias = |name: &str| format!("arn:aws:kms:r-1:{}:alias/{name}", world.account);
    let made_up = private.replace(&private[private.len() - 4..], "0000");
    let encrypt = |key: &str| json!({"KeyId": key, "Plaintext": "QUFB"});
    let denied = "AccessDeniedException";
    for (who, action, body, expected) in [
        // Both sides must allow.
        (&friend, "Encrypt", encrypt(&shared), ""),
        (&friend, "Encrypt", encrypt(&alias("shared")), ""),
        (&stranger, "Encrypt", encrypt(&shared), ""),
        (&nobody, "Encrypt", encrypt(&shared), denied),
        (&friend, "Encrypt", encrypt(&private), denied),
        (&friend, "Encrypt", encrypt(&made_up), denied),
        (&friend, "Encrypt", encrypt(&alias("private")), denied),
        (&friend, "Encrypt", encrypt(&alias("none")), denied),
        // An id alone is one of the caller's account.
        (&friend, "Encrypt", encrypt(shared.rsplit_once('/').unwrap().1), "NotFoundException"),
        (&friend, "DescribeKey", json!({"KeyId": shared}), ""),
        // These are the account's own, whatever the policy says.
        (&friend, "DisableKey", json!({"KeyId": shared}), denied),
        (&friend, "ScheduleKeyDeletion", json!({"KeyId": shared}), denied),
        (&friend, "PutKeyPolicy", json!({"KeyId": shared, "Policy": "{}"}), denied),
        (&friend, "TagResource", json!({"KeyId": shared, "Tags": [{"TagKey": "a", "TagValue": "b"}]}), denied),
    ] {
        assert_eq!(code(world.ask(who, action, body.clone()).await), expected, "{action} {body}");
    }
    // What is refused says no more than what was asked.
    let message = async |action: &str, body: Value| {
        let answer = friend.call_json(&world.server, terroir_aws_model::Service::Kms, action, &body.to_string()).await;
        answer.body
    };
    let told = message("Encrypt", encrypt(&alias("private"))).await;
    let unknown = message("Encrypt", encrypt(&alias("none"))).await;
    assert_eq!(told.replace("private", "none"), unknown);
    let told = message("Encrypt", encrypt(&private)).await;
    assert_eq!(told.replace(&private, &made_up), message("Encrypt", encrypt(&made_up)).await);
    // A blob of a key that one may not use is as that of a key that never was.
    let blob = world.blob(&private).await;
    let lost = world.blob(&private).await;
    assert_eq!(code(world.ask(&friend, "Decrypt", json!({"CiphertextBlob": blob})).await), denied);
    let told = message("Decrypt", json!({"CiphertextBlob": blob})).await;
    world.ok(&world.root, "ScheduleKeyDeletion", json!({"KeyId": private, "PendingWindowInDays": 7})).await;
    world.days_later(7).await;
    let client =
        terroir_api_server::in_process::Client { now: terroir_types::Clock::now(&*world.clock), ..friend.clone() };
    let body = json!({"CiphertextBlob": lost}).to_string();
    let gone = client.call_json(&world.server, terroir_aws_model::Service::Kms, "Decrypt", &body).await;
    assert_eq!(told, gone.body);
}
