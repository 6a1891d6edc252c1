use serde_json::{Value, json};

use crate::world::{World, code};

#[tokio::test]
async fn a_key_from_first_to_last() {
    let world = World::new().await;
    let root = &world.root;
    let made = world.ok(root, "CreateKey", json!({"Description": "mine"})).await;
    let key = &made["KeyMetadata"];
    let (id, arn) = (key["KeyId"].as_str().unwrap(), key["Arn"].as_str().unwrap());
    assert_eq!(arn, format!("arn:aws:kms:r-1:{}:key/{id}", world.account));
    for (member, expected) in [
        ("Description", json!("mine")),
        ("Enabled", json!(true)),
        ("KeyManager", json!("CUSTOMER")),
        ("KeySpec", json!("SYMMETRIC_DEFAULT")),
        ("KeyState", json!("Enabled")),
        ("KeyUsage", json!("ENCRYPT_DECRYPT")),
        ("Origin", json!("AWS_KMS")),
        ("EncryptionAlgorithms", json!(["SYMMETRIC_DEFAULT"])),
        ("CreationDate", json!(1_795_496_400)),
        ("SigningAlgorithms", Value::Null),
    ] {
        assert_eq!(key[member], expected, "{member}");
    }
    assert_eq!(world.ok(root, "ListKeys", json!({})).await["Keys"], json!([{"KeyId": id, "KeyArn": arn}]));
    let blob = world.blob(id).await;
    let encrypt = json!({"KeyId": id, "Plaintext": "QUFB"});
    world
        .script(vec![
            ("UpdateKeyDescription", json!({"KeyId": id, "Description": "new"}), ""),
            ("UpdateKeyDescription", json!({"KeyId": id, "Description": "x".repeat(8193)}), "ValidationException"),
            ("DisableKey", json!({"KeyId": arn}), ""),
            ("Encrypt", encrypt.clone(), "DisabledException"),
            ("Decrypt", json!({"CiphertextBlob": blob}), "DisabledException"),
            ("GenerateDataKey", json!({"KeyId": id, "KeySpec": "AES_256"}), "DisabledException"),
            ("EnableKeyRotation", json!({"KeyId": id}), "DisabledException"),
            ("EnableKey", json!({"KeyId": id}), ""),
            ("Encrypt", encrypt.clone(), ""),
            ("CancelKeyDeletion", json!({"KeyId": id}), "KMSInvalidStateException"),
            ("ScheduleKeyDeletion", json!({"KeyId": id, "PendingWindowInDays": 6}), "ValidationException"),
            ("ScheduleKeyDeletion", json!({"KeyId": id, "PendingWindowInDays": 31}), "ValidationException"),
            ("ScheduleKeyDeletion", json!({"KeyId": id, "PendingWindowInDays": -1}), "ValidationException"),
            ("ScheduleKeyDeletion", json!({"KeyId": id, "PendingWindowInDays": 7}), ""),
            ("Encrypt", encrypt.clone(), "KMSInvalidStateException"),
            ("Decrypt", json!({"CiphertextBlob": blob}), "KMSInvalidStateException"),
            ("EnableKey", json!({"KeyId": id}), "KMSInvalidStateException"),
            ("CreateAlias", json!({"AliasName": "alias/a", "TargetKeyId": id}), "KMSInvalidStateException"),
            (
                "TagResource",
                json!({"KeyId": id, "Tags": [{"TagKey": "a", "TagValue": "b"}]}),
                "KMSInvalidStateException",
            ),
            ("GetKeyRotationStatus", json!({"KeyId": id}), "KMSInvalidStateException"),
            ("GetKeyPolicy", json!({"KeyId": id}), ""),
            ("CancelKeyDeletion", json!({"KeyId": id}), ""),
            ("Encrypt", encrypt.clone(), "DisabledException"),
            ("EnableKey", json!({"KeyId": id}), ""),
            ("Decrypt", json!({"CiphertextBlob": blob}), ""),
            ("CreateAlias", json!({"AliasName": "alias/a", "TargetKeyId": id}), ""),
            ("ScheduleKeyDeletion", json!({"KeyId": id, "PendingWindowInDays": 7}), ""),
        ])
        .await;
    world.days_later(6).await;
    let described = world.ok(root, "DescribeKey", json!({"KeyId": "alias/a"})).await;
    assert_eq!(described["KeyMetadata"]["KeyState"], "PendingDeletion");
    assert_eq!(described["KeyMetadata"]["DeletionDate"], 1_795_496_400 + 7 * 86_400);
    world.days_later(1).await;
    world
        .script(vec![
            ("DescribeKey", json!({"KeyId": id}), "NotFoundException"),
            ("DescribeKey", json!({"KeyId": "alias/a"}), "NotFoundException"),
            ("Decrypt", json!({"CiphertextBlob": blob}), "NotFoundException"),
            ("Decrypt", json!({"CiphertextBlob": blob, "KeyId": id}), "NotFoundException"),
        ])
        .await;
    assert_eq!(world.ok(root, "ListAliases", json!({})).await["Aliases"], json!([]));
    let txn = world.store.read().await.unwrap();
    for kind in ["kms-key", "kms-material", "kms-alias", "kms-grant", "kms-due"] {
        assert_eq!(txn.count(&kind.into()), 0, "{kind}");
    }
}

#[tokio::test]
async fn what_a_new_key_may_not_be() {
    let world = World::new().await;
    let tags =
        |count: usize| -> Value { (0..count).map(|n| json!({"TagKey": n.to_string(), "TagValue": ""})).collect() };
    let tag = |key: &str, value: &str| json!({"Tags": [{"TagKey": key, "TagValue": value}]});
    world
        .script(vec![
            ("CreateKey", json!({"KeySpec": "RSA_2048"}), "UnsupportedOperationException"),
            ("CreateKey", json!({"KeySpec": "DES"}), "ValidationException"),
            ("CreateKey", json!({"KeyUsage": "SIGN_VERIFY"}), "UnsupportedOperationException"),
            ("CreateKey", json!({"Origin": "EXTERNAL"}), "UnsupportedOperationException"),
            ("CreateKey", json!({"MultiRegion": true}), "UnsupportedOperationException"),
            (
                "CreateKey",
                json!({"KeySpec": "SYMMETRIC_DEFAULT", "KeyUsage": "ENCRYPT_DECRYPT", "Origin": "AWS_KMS"}),
                "",
            ),
            ("CreateKey", json!({"Tags": tags(50)}), ""),
            ("CreateKey", json!({"Tags": tags(51)}), "LimitExceededException"),
            ("CreateKey", tag("aws:x", "1"), "TagException"),
            ("CreateKey", tag("a", "<"), "TagException"),
            ("CreateKey", tag("", "1"), "TagException"),
            (
                "CreateKey",
                json!({"Tags": [{"TagKey": "a", "TagValue": "1"}, {"TagKey": "a", "TagValue": "2"}]}),
                "TagException",
            ),
            ("CreateKey", json!({"Tags": [{"TagKey": "a"}]}), "ValidationException"),
            ("CreateKey", json!({"Policy": "{"}), "MalformedPolicyDocumentException"),
            ("CreateKey", json!({"Policy": ""}), "ValidationException"),
            ("CreateKey", json!({"Policy": "x".repeat(40_000)}), "LimitExceededException"),
        ])
        .await;
}

#[tokio::test]
async fn aliases() {
    let world = World::new().await;
    let root = &world.root;
    let (one, two) = (world.key(json!({})).await, world.key(json!({})).await);
    let create = |name: &str| json!({"AliasName": name, "TargetKeyId": one});
    world
        .script(vec![
            ("CreateAlias", create("alias/b"), ""),
            ("CreateAlias", create("alias/b"), "AlreadyExistsException"),
            ("CreateAlias", create("alias/a/b_c-d"), ""),
            ("CreateAlias", create("alias/aws/mine"), "InvalidAliasNameException"),
            ("CreateAlias", create("alias/"), "InvalidAliasNameException"),
            ("CreateAlias", create("alias/a:b"), "InvalidAliasNameException"),
            ("CreateAlias", create("b"), "ValidationException"),
            ("CreateAlias", create("alias/ä"), "ValidationException"),
            ("CreateAlias", create(&format!("alias/{}", "x".repeat(251))), "ValidationException"),
            ("CreateAlias", json!({"AliasName": "alias/c", "TargetKeyId": "alias/b"}), "NotFoundException"),
            ("DescribeKey", json!({"KeyId": "alias/b"}), ""),
            ("DescribeKey", json!({"KeyId": format!("arn:aws:kms:r-1:{}:alias/b", world.account)}), ""),
            ("DescribeKey", json!({"KeyId": "alias/none"}), "NotFoundException"),
            ("EnableKey", json!({"KeyId": "alias/b"}), "NotFoundException"),
            ("UpdateAlias", json!({"AliasName": "alias/none", "TargetKeyId": two}), "NotFoundException"),
            ("UpdateAlias", json!({"AliasName": "alias/b", "TargetKeyId": two}), ""),
            ("DeleteAlias", json!({"AliasName": "alias/none"}), "NotFoundException"),
        ])
        .await;
    let names = |answer: Value| -> Vec<String> {
        answer["Aliases"]
            .as_array()
            .unwrap()
            .iter()
            .map(|alias| alias["AliasName"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(world.ok(root, "ListAliases", json!({})).await), ["alias/a/b_c-d", "alias/b"]);
    assert_eq!(names(world.ok(root, "ListAliases", json!({"KeyId": two})).await), ["alias/b"]);
    let first = world.ok(root, "ListAliases", json!({"Limit": 1})).await;
    assert_eq!((&first["Truncated"], names(first.clone())), (&json!(true), vec!["alias/a/b_c-d".to_owned()]));
    let rest = world.ok(root, "ListAliases", json!({"Limit": 1, "Marker": first["NextMarker"]})).await;
    assert_eq!((&rest["Truncated"], names(rest.clone())), (&json!(false), vec!["alias/b".to_owned()]));
    assert_eq!(code(world.ask(root, "ListAliases", json!({"Marker": "x"})).await), "InvalidMarkerException");
    assert_eq!(code(world.ask(root, "ListAliases", json!({"Limit": 101})).await), "ValidationException");
    world.ok(root, "DeleteAlias", json!({"AliasName": "alias/b"})).await;
    for n in 0..49 {
        world.ok(root, "CreateAlias", create(&format!("alias/n{n}"))).await;
    }
    assert_eq!(code(world.ask(root, "CreateAlias", create("alias/n49")).await), "LimitExceededException");
}

#[tokio::test]
async fn tags_of_keys() {
    let world = World::new().await;
    let key = world.key(json!({"Tags": [{"TagKey": "a", "TagValue": "1"}]})).await;
    world
        .script(vec![
            (
                "TagResource",
                json!({"KeyId": key, "Tags": [{"TagKey": "b", "TagValue": "2"}, {"TagKey": "a", "TagValue": "3"}]}),
                "",
            ),
            ("UntagResource", json!({"KeyId": key, "TagKeys": ["b", "none"]}), ""),
            ("TagResource", json!({"KeyId": key, "Tags": [{"TagKey": "aws:b", "TagValue": "2"}]}), "TagException"),
            ("ListResourceTags", json!({"KeyId": key, "Limit": 51}), "ValidationException"),
        ])
        .await;
    let listed = world.ok(&world.root, "ListResourceTags", json!({"KeyId": key})).await;
    assert_eq!(listed, json!({"Tags": [{"TagKey": "a", "TagValue": "3"}], "Truncated": false}));
}

#[tokio::test]
async fn rotation() {
    let world = World::new().await;
    let root = &world.root;
    let key = world.key(json!({})).await;
    let first = world.blob(&key).await;
    let status = |answer: Value| (answer["KeyRotationEnabled"].clone(), answer["RotationPeriodInDays"].clone());
    let asked = json!({"KeyId": key});
    assert_eq!(status(world.ok(root, "GetKeyRotationStatus", asked.clone()).await), (json!(false), Value::Null));
    world
        .script(vec![
            ("EnableKeyRotation", json!({"KeyId": key, "RotationPeriodInDays": 89}), "ValidationException"),
            ("EnableKeyRotation", json!({"KeyId": key, "RotationPeriodInDays": 2561}), "ValidationException"),
            ("EnableKeyRotation", json!({"KeyId": key, "RotationPeriodInDays": 90}), ""),
            ("RotateKeyOnDemand", asked.clone(), ""),
        ])
        .await;
    let second = world.blob(&key).await;
    assert_eq!(status(world.ok(root, "GetKeyRotationStatus", asked.clone()).await), (json!(true), json!(90)));
    world.days_later(89).await;
    let kinds = |answer: &Value| -> Vec<Value> {
        answer["Rotations"].as_array().unwrap().iter().map(|entry| entry["RotationType"].clone()).collect()
    };
    let rotations = world.ok(root, "ListKeyRotations", asked.clone()).await;
    assert_eq!(kinds(&rotations), [json!("ON_DEMAND")]);
    world.days_later(1).await;
    let rotations = world.ok(root, "ListKeyRotations", asked.clone()).await;
    assert_eq!(kinds(&rotations), [json!("ON_DEMAND"), json!("AUTOMATIC")]);
    let all = world.ok(root, "ListKeyRotations", json!({"KeyId": key, "IncludeKeyMaterial": "ALL_KEY_MATERIAL"})).await;
    let states: Vec<_> = all["Rotations"].as_array().unwrap().iter().map(|entry| &entry["KeyMaterialState"]).collect();
    assert_eq!(states, ["NON_CURRENT", "NON_CURRENT", "CURRENT"]);
    // A disabled key does not rotate; it does so once it is enabled again.
    world.ok(root, "DisableKey", asked.clone()).await;
    world.days_later(100).await;
    world.ok(root, "EnableKey", asked.clone()).await;
    assert_eq!(kinds(&world.ok(root, "ListKeyRotations", asked.clone()).await).len(), 2);
    world.days_later(0).await;
    assert_eq!(kinds(&world.ok(root, "ListKeyRotations", asked.clone()).await).len(), 3);
    // What older material encrypted opens on, and says so.
    let current = world.ok(root, "DescribeKey", asked.clone()).await["KeyMetadata"]["CurrentKeyMaterialId"].clone();
    let mut materials = vec![current];
    for blob in [&first, &second] {
        let opened = world.ok(root, "Decrypt", json!({"CiphertextBlob": blob})).await;
        assert_eq!(opened["Plaintext"], "QUFB");
        assert!(!materials.contains(&opened["KeyMaterialId"]));
        materials.push(opened["KeyMaterialId"].clone());
    }
    for _ in 1..25 {
        world.ok(root, "RotateKeyOnDemand", asked.clone()).await;
    }
    assert_eq!(code(world.ask(root, "RotateKeyOnDemand", asked.clone()).await), "LimitExceededException");
    world.ok(root, "DisableKeyRotation", asked.clone()).await;
    world.days_later(1000).await;
    assert_eq!(kinds(&world.ok(root, "ListKeyRotations", asked.clone()).await).len(), 27);
}
