use serde_json::{Value, json};

use crate::world::{EVERYTHING, World, code};

const DENIED: &str = "AccessDeniedException";

#[tokio::test]
async fn a_grant_lets_in_whom_it_names_for_what_it_says() {
    let world = World::new().await;
    let (root, account) = (&world.root, world.account);
    let (key, other) = (world.key(json!({})).await, world.key(json!({})).await);
    let user = world.user("user", None).await;
    let arn = format!("arn:aws:iam::{account}:user/user");
    let sealed = |context: Value| json!({"KeyId": key, "Plaintext": "QUFB", "EncryptionContext": context});
    assert_eq!(code(world.ask(&user, "Encrypt", sealed(json!({"a": "1"}))).await), DENIED);
    let grant = json!({
        "KeyId": key, "GranteePrincipal": arn, "Operations": ["Encrypt", "DescribeKey", "CreateGrant"], "Name": "g",
        "Constraints": {"EncryptionContextSubset": {"a": "1"}},
    });
    let made = world.ok(root, "CreateGrant", grant.clone()).await;
    assert_eq!(made["GrantId"].as_str().unwrap().len(), 64);
    assert_eq!(world.ok(root, "CreateGrant", grant).await["GrantId"], made["GrantId"], "named and the same");
    for (action, body, expected) in [
        ("Encrypt", sealed(json!({"a": "1"})), ""),
        ("Encrypt", sealed(json!({"a": "1", "b": "2"})), ""),
        ("Encrypt", sealed(json!({"a": "2"})), DENIED),
        ("Encrypt", sealed(json!({})), DENIED),
        ("DescribeKey", json!({"KeyId": key}), ""),
        ("GenerateDataKey", json!({"KeyId": key, "KeySpec": "AES_256", "EncryptionContext": {"a": "1"}}), DENIED),
        ("Encrypt", json!({"KeyId": other, "Plaintext": "QUFB", "EncryptionContext": {"a": "1"}}), DENIED),
    ] {
        assert_eq!(code(world.ask(&user, action, body.clone()).await), expected, "{action} {body}");
    }
    // What one has one may pass on, but no more.
    world.user("second", None).await;
    let pass = |operations: Value, context: Value| {
        let grantee = format!("arn:aws:iam::{account}:user/second");
        json!({"KeyId": key, "GranteePrincipal": grantee, "Operations": operations, "Constraints": {"EncryptionContextEquals": context}})
    };
    for (operations, context, expected) in [
        (json!(["Encrypt"]), json!({"a": "1"}), ""),
        (json!(["Encrypt"]), json!({"a": "2"}), DENIED),
        (json!(["Encrypt", "Decrypt"]), json!({"a": "1"}), DENIED),
    ] {
        let answer = world.ask(&user, "CreateGrant", pass(operations.clone(), context.clone())).await;
        assert_eq!(code(answer), expected, "{operations} {context}");
    }
    let listed = world.ok(root, "ListGrants", json!({"KeyId": key, "GranteePrincipal": arn})).await;
    let [entry] = listed["Grants"].as_array().unwrap().as_slice() else { panic!("{listed}") };
    assert_eq!(entry["Operations"], json!(["CreateGrant", "DescribeKey", "Encrypt"]));
    assert_eq!(entry["Constraints"], json!({"EncryptionContextSubset": {"a": "1"}}));
    assert_eq!(entry["IssuingAccount"], format!("arn:aws:iam::{account}:root"));
    world.ok(root, "RevokeGrant", json!({"KeyId": key, "GrantId": made["GrantId"]})).await;
    assert_eq!(code(world.ask(&user, "Encrypt", sealed(json!({"a": "1"}))).await), DENIED);
    let again = world.ask(root, "RevokeGrant", json!({"KeyId": key, "GrantId": made["GrantId"]})).await;
    assert_eq!(code(again), "NotFoundException");
}

#[tokio::test]
async fn retiring() {
    let world = World::new().await;
    let (root, account) = (&world.root, world.account);
    let key = world.key(json!({})).await;
    let user = world.user("user", None).await;
    let keeper = world.user("keeper", None).await;
    let stranger = world.user("stranger", None).await;
    let arn = |name: &str| format!("arn:aws:iam::{account}:user/{name}");
    let make = async |operations: Value| {
        let body = json!({"KeyId": key, "GranteePrincipal": arn("user"), "RetiringPrincipal": arn("keeper"), "Operations": operations});
        world.ok(root, "CreateGrant", body).await
    };
    let by_id = |grant: &Value| json!({"KeyId": key, "GrantId": grant["GrantId"]});
    let grant = make(json!(["Encrypt"])).await;
    assert_eq!(code(world.ask(&stranger, "RetireGrant", by_id(&grant)).await), DENIED);
    assert_eq!(code(world.ask(&user, "RetireGrant", by_id(&grant)).await), DENIED);
    let retirable = json!({"RetiringPrincipal": arn("keeper")});
    let listed = world.ok(root, "ListRetirableGrants", retirable.clone()).await;
    assert_eq!(listed["Grants"][0]["GrantId"], grant["GrantId"]);
    world.ok(&keeper, "RetireGrant", json!({"GrantToken": grant["GrantToken"]})).await;
    assert_eq!(world.ok(root, "ListRetirableGrants", retirable).await["Grants"], json!([]));
    let grant = make(json!(["Encrypt", "RetireGrant"])).await;
    assert_eq!(code(world.ask(&user, "RetireGrant", by_id(&grant)).await), "");
    let grant = make(json!(["Encrypt"])).await;
    assert_eq!(code(world.ask(root, "RetireGrant", by_id(&grant)).await), "");
    let grant = make(json!(["Encrypt"])).await;
    for (body, expected) in [
        (json!({}), "ValidationException"),
        (json!({"GrantToken": "x"}), "InvalidGrantTokenException"),
        (json!({"KeyId": key}), "ValidationException"),
        (json!({"KeyId": key, "GrantId": "0".repeat(64)}), "NotFoundException"),
        (json!({"GrantToken": grant["GrantToken"], "DryRun": true}), "DryRunOperationException"),
        (json!({"GrantToken": grant["GrantToken"]}), ""),
    ] {
        assert_eq!(code(world.ask(root, "RetireGrant", body.clone()).await), expected, "{body}");
    }
}

#[tokio::test]
async fn what_cannot_be_granted() {
    let world = World::new().await;
    let (root, account) = (&world.root, world.account);
    let key = world.key(json!({})).await;
    let (other, _) = world.other_account().await;
    let friend = world.user_in(other, "friend", Some(EVERYTHING)).await;
    world.user("user", None).await;
    let arn = format!("arn:aws:iam::{account}:user/user");
    let grant = |grantee: &str, operations: Value, constraints: Value| json!({"KeyId": key, "GranteePrincipal": grantee, "Operations": operations, "Constraints": constraints});
    let long = "x".repeat(400);
    for (grantee, operations, constraints, expected) in [
        (arn.as_str(), json!(["Sign"]), Value::Null, "ValidationException"),
        (&arn, json!(["Fly"]), Value::Null, "ValidationException"),
        (&arn, json!([]), Value::Null, "ValidationException"),
        (&format!("{arn}-none"), json!(["Encrypt"]), Value::Null, "InvalidArnException"),
        // Whom other accounts have is not told.
        ("arn:aws:iam::000000000009:user/none", json!(["Encrypt"]), Value::Null, ""),
        ("arn:aws:iam::000000000009:group/none", json!(["Encrypt"]), Value::Null, "InvalidArnException"),
        ("someone", json!(["Encrypt"]), Value::Null, "InvalidArnException"),
        (&arn, json!(["DescribeKey"]), json!({"EncryptionContextEquals": {"a": "1"}}), "ValidationException"),
        (&arn, json!(["Encrypt"]), json!({"EncryptionContextEquals": {"a": long}}), "ValidationException"),
        (
            &arn,
            json!(["Encrypt"]),
            json!({"EncryptionContextEquals": {"a": "1"}, "EncryptionContextSubset": {"a": "1"}}),
            "ValidationException",
        ),
    ] {
        let body = grant(grantee, operations, constraints);
        assert_eq!(code(world.ask(root, "CreateGrant", body.clone()).await), expected, "{body}");
    }
    // Another account's principal needs its own policies beside the grant.
    let nobody = world.user_in(other, "nobody", None).await;
    let encrypt = json!({"KeyId": key, "Plaintext": "QUFB"});
    assert_eq!(code(world.ask(&friend, "Encrypt", encrypt.clone()).await), DENIED);
    for name in ["friend", "nobody"] {
        let body = grant(&format!("arn:aws:iam::{other}:user/{name}"), json!(["Encrypt"]), Value::Null);
        world.ok(root, "CreateGrant", body).await;
    }
    assert_eq!(code(world.ask(&friend, "Encrypt", encrypt.clone()).await), "");
    assert_eq!(code(world.ask(&nobody, "Encrypt", encrypt.clone()).await), DENIED);
    world.ok(root, "DisableKey", json!({"KeyId": key})).await;
    let answer = world.ask(root, "CreateGrant", grant(&arn, json!(["Encrypt"]), Value::Null)).await;
    assert_eq!(code(answer), "DisabledException");
    // Grants go with their key, however many there are.
    world.ok(root, "EnableKey", json!({"KeyId": key})).await;
    for n in 0..450 {
        let mut body = grant(&arn, json!(["Encrypt"]), Value::Null);
        body["Name"] = json!(format!("g{n}"));
        world.ok(root, "CreateGrant", body).await;
    }
    world.ok(root, "ScheduleKeyDeletion", json!({"KeyId": key, "PendingWindowInDays": 7})).await;
    world.days_later(7).await;
    let txn = world.store.read().await.unwrap();
    for kind in ["kms-key", "kms-material", "kms-grant", "kms-grantee", "kms-retiring", "kms-due"] {
        assert_eq!(txn.count(&kind.into()), 0, "{kind}");
    }
}
