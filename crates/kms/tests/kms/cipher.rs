use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::world::{World, code};

#[tokio::test]
async fn what_is_encrypted_opens_with_its_key_and_context_alone() {
    let world = World::new().await;
    let root = &world.root;
    let (key, other) = (world.key(json!({})).await, world.key(json!({})).await);
    let context = json!({"app": "a", "team": "t"});
    let sealed =
        world.ok(root, "Encrypt", json!({"KeyId": key, "Plaintext": "QUFB", "EncryptionContext": context})).await;
    assert_eq!((&sealed["KeyId"], &sealed["EncryptionAlgorithm"]), (&json!(key), &json!("SYMMETRIC_DEFAULT")));
    let blob = &sealed["CiphertextBlob"];
    let opened = world.ok(root, "Decrypt", json!({"CiphertextBlob": blob, "EncryptionContext": context})).await;
    assert_eq!((&opened["KeyId"], &opened["Plaintext"]), (&json!(key), &json!("QUFB")));
    let bytes = STANDARD.decode(blob.as_str().unwrap()).unwrap();
    let altered = |place: usize| {
        let mut bytes = bytes.clone();
        bytes[place] ^= 1;
        STANDARD.encode(bytes)
    };
    let decrypt = |blob: &Value, context: &Value| json!({"CiphertextBlob": blob, "EncryptionContext": context});
    let again = |key: &str| json!({"CiphertextBlob": blob, "SourceEncryptionContext": context, "SourceKeyId": key, "DestinationKeyId": other});
    world
        .script(vec![
            ("Decrypt", json!({"CiphertextBlob": blob}), "InvalidCiphertextException"),
            ("Decrypt", decrypt(blob, &json!({"app": "a"})), "InvalidCiphertextException"),
            ("Decrypt", decrypt(blob, &json!({"app": "a", "team": "T"})), "InvalidCiphertextException"),
            ("Decrypt", decrypt(&json!(altered(bytes.len() - 1)), &context), "InvalidCiphertextException"),
            ("Decrypt", decrypt(&json!(altered(40)), &context), "InvalidCiphertextException"),
            // Another number of the material, version, key.
            ("Decrypt", decrypt(&json!(altered(28)), &context), "InvalidCiphertextException"),
            ("Decrypt", decrypt(&json!(altered(0)), &context), "InvalidCiphertextException"),
            ("Decrypt", decrypt(&json!(altered(20)), &context), "NotFoundException"),
            ("Decrypt", decrypt(&json!("QUFB"), &context), "InvalidCiphertextException"),
            ("Decrypt", decrypt(&json!(""), &context), "ValidationException"),
            ("Decrypt", json!({}), "ValidationException"),
            ("Decrypt", json!({"CiphertextBlob": "?"}), "SerializationException"),
            (
                "Decrypt",
                json!({"CiphertextBlob": blob, "EncryptionContext": context, "KeyId": other}),
                "IncorrectKeyException",
            ),
            ("Decrypt", json!({"CiphertextBlob": blob, "EncryptionContext": context, "KeyId": key}), ""),
            (
                "Decrypt",
                json!({"CiphertextBlob": blob, "EncryptionAlgorithm": "RSAES_OAEP_SHA_1"}),
                "InvalidKeyUsageException",
            ),
            (
                "Decrypt",
                json!({"CiphertextBlob": blob, "EncryptionContext": context, "DryRun": true}),
                "DryRunOperationException",
            ),
            ("ReEncrypt", again(&other), "IncorrectKeyException"),
            ("ReEncrypt", again(&key), ""),
        ])
        .await;
    let moved = world.ok(root, "ReEncrypt", again(&key)).await;
    assert_eq!((&moved["SourceKeyId"], &moved["KeyId"]), (&json!(key), &json!(other)));
    let opened = world.ok(root, "Decrypt", json!({"CiphertextBlob": moved["CiphertextBlob"]})).await;
    assert_eq!((&opened["KeyId"], &opened["Plaintext"]), (&json!(other), &json!("QUFB")));
}

#[tokio::test]
async fn bounds() {
    let world = World::new().await;
    let root = &world.root;
    let key = world.key(json!({})).await;
    let text = |length: usize| json!({"KeyId": key, "Plaintext": STANDARD.encode(vec![7; length])});
    let context =
        |length: usize| json!({"KeyId": key, "Plaintext": "QUFB", "EncryptionContext": {"a": "x".repeat(length)}});
    let data_key = |more: Value| {
        let mut body = json!({"KeyId": key});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let random = |count: Value| json!({"NumberOfBytes": count});
    world
        .script(vec![
            ("Encrypt", text(1), ""),
            ("Encrypt", text(4096), ""),
            ("Encrypt", text(4097), "ValidationException"),
            ("Encrypt", text(0), "ValidationException"),
            ("Encrypt", context(8191), ""),
            ("Encrypt", context(8192), "ValidationException"),
            ("Encrypt", json!({"KeyId": "", "Plaintext": "QUFB"}), "ValidationException"),
            ("Encrypt", json!({"KeyId": "none", "Plaintext": "QUFB"}), "NotFoundException"),
            ("Encrypt", json!({"KeyId": "arn:aws:s3:::b", "Plaintext": "QUFB"}), "InvalidArnException"),
            ("Encrypt", json!({"KeyId": key, "Plaintext": "QUFB", "GrantTokens": ["x"]}), "InvalidGrantTokenException"),
            (
                "Encrypt",
                json!({"KeyId": key, "Plaintext": "QUFB", "EncryptionContext": {"a": 1}}),
                "SerializationException",
            ),
            ("GenerateDataKey", data_key(json!({})), "ValidationException"),
            ("GenerateDataKey", data_key(json!({"KeySpec": "AES_256", "NumberOfBytes": 8})), "ValidationException"),
            ("GenerateDataKey", data_key(json!({"KeySpec": "AES_512"})), "ValidationException"),
            ("GenerateDataKey", data_key(json!({"NumberOfBytes": 1025})), "ValidationException"),
            ("GenerateDataKey", data_key(json!({"NumberOfBytes": 0})), "ValidationException"),
            (
                "GenerateDataKey",
                data_key(json!({"KeySpec": "AES_256", "Recipient": {}})),
                "UnsupportedOperationException",
            ),
            ("GenerateRandom", random(json!(0)), "ValidationException"),
            ("GenerateRandom", random(json!(1025)), "ValidationException"),
            ("GenerateRandom", random(Value::Null), "ValidationException"),
        ])
        .await;
    for (more, length) in [
        (json!({"KeySpec": "AES_256"}), 32),
        (json!({"KeySpec": "AES_128"}), 16),
        (json!({"NumberOfBytes": 1024}), 1024),
    ] {
        let made = world.ok(root, "GenerateDataKey", data_key(more.clone())).await;
        assert_eq!(STANDARD.decode(made["Plaintext"].as_str().unwrap()).unwrap().len(), length);
        let opened = world.ok(root, "Decrypt", json!({"CiphertextBlob": made["CiphertextBlob"]})).await;
        assert_eq!(opened["Plaintext"], made["Plaintext"]);
        let hidden = world.ok(root, "GenerateDataKeyWithoutPlaintext", data_key(more)).await;
        assert_eq!(hidden["Plaintext"], Value::Null);
        let opened = world.ok(root, "Decrypt", json!({"CiphertextBlob": hidden["CiphertextBlob"]})).await;
        assert_eq!(STANDARD.decode(opened["Plaintext"].as_str().unwrap()).unwrap().len(), length);
    }
    let random = world.ok(root, "GenerateRandom", random(json!(1024))).await;
    assert_eq!(STANDARD.decode(random["Plaintext"].as_str().unwrap()).unwrap().len(), 1024);
    assert_eq!(code(world.ask(root, "Encrypt", json!({"KeyId": key})).await), "ValidationException");
}
