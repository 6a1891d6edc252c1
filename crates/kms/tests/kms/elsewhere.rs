//! Keys that are held elsewhere, behind a proxy that the test is itself.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use terroir_action::{DataKeys as _, KeyUse};
use terroir_kms::external::{Fault, Proxies, ProxyAnswer};
use terroir_kms::model::{EncryptionContext, Proxy};
use terroir_types::{IdSource as _, OsRandom};

use crate::world::{World, code};

/// A key manager with its proxy.
#[derive(Default)]
struct Manager {
    keys: Mutex<BTreeMap<String, [u8; 32]>>,
    /// What it answers instead, if it is out of order.
    fault: Mutex<Option<Fault>>,
    /// What it was asked: path and body.
    asked: Mutex<Vec<(String, Value)>>,
}

const SECRET: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJK";

impl Manager {
    fn answer(&self, path: &str, body: &Value) -> Result<Value, &'static str> {
        if path == "/health" {
            let managers = json!([{"id": "1", "model": "m", "healthStatus": "ACTIVE"}]);
            return Ok(json!({
                "xksProxyFleetSize": 1, "xksProxyVendor": "v", "xksProxyModel": "m", "ekmVendor": "e",
                "ekmFleetDetails": managers,
            }));
        }
        let (id, operation) =
            path.strip_prefix("/keys/").and_then(|rest| rest.split_once('/')).ok_or("InvalidUriPathException")?;
        let keys = self.keys.lock().unwrap();
        let key = keys.get(id).ok_or("KeyNotFoundException")?;
        let cipher = Aes256Gcm::new(key.into());
        let bytes = |member: &str| STANDARD.decode(body[member].as_str().unwrap_or_default()).unwrap();
        let aad = bytes("additionalAuthenticatedData");
        match operation {
            "metadata" => Ok(json!({"keySpec": "AES_256", "keyUsage": ["ENCRYPT", "DECRYPT"], "keyStatus": "ENABLED"})),
            "encrypt" => {
                let mut iv = [0; 12];
                OsRandom.fill(&mut iv);
                let text = bytes("plaintext");
                let mut sealed = cipher.encrypt(&Nonce::from(iv), Payload { msg: &text, aad: &aad }).unwrap();
                let tag = sealed.split_off(text.len());
                let value = Sha256::digest([&aad[..], b"meta", &iv, &sealed, &tag].concat());
                Ok(json!({
                    "ciphertext": STANDARD.encode(&sealed), "initializationVector": STANDARD.encode(iv),
                    "authenticationTag": STANDARD.encode(tag), "ciphertextMetadata": STANDARD.encode(b"meta"),
                    "ciphertextDataIntegrityValue": STANDARD.encode(value),
                }))
            }
            "decrypt" => {
                if bytes("ciphertextMetadata") != b"meta" {
                    return Err("InvalidCiphertextException");
                }
                let iv: [u8; 12] = bytes("initializationVector").try_into().map_err(|_| "ValidationException")?;
                let sealed = [bytes("ciphertext"), bytes("authenticationTag")].concat();
                let text = cipher.decrypt(&Nonce::from(iv), Payload { msg: &sealed, aad: &aad });
                Ok(json!({"plaintext": STANDARD.encode(text.map_err(|_| "InvalidCiphertextException")?)}))
            }
            _ => Err("InvalidUriPathException"),
        }
    }

    fn set_fault(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap() = fault;
    }
}

#[async_trait]
impl Proxies for Manager {
    async fn post(&self, proxy: &Proxy, path: &str, body: Vec<u8>) -> Result<ProxyAnswer, Fault> {
        let body: Value = serde_json::from_slice(&body).unwrap();
        self.asked.lock().unwrap().push((path.to_owned(), body.clone()));
        if let Some(fault) = *self.fault.lock().unwrap() {
            return Err(fault);
        }
        let known = proxy.secret.expose() == SECRET;
        let answer = if known { self.answer(path, &body) } else { Err("AuthenticationFailedException") };
        let (status, body) = match answer {
            Ok(body) => (200, body),
            Err(name) => (400, json!({"errorName": name})),
        };
        Ok(ProxyAnswer { status, body: body.to_string().into_bytes() })
    }
}

fn store(name: &str, host: &str, secret: &str) -> Value {
    json!({
        "CustomKeyStoreName": name, "CustomKeyStoreType": "EXTERNAL_KEY_STORE",
        "XksProxyConnectivity": "PUBLIC_ENDPOINT", "XksProxyUriEndpoint": format!("https://{host}"),
        "XksProxyUriPath": "/a/kms/xks/v1",
        "XksProxyAuthenticationCredential": {"AccessKeyId": "A2".repeat(10), "RawSecretAccessKey": secret},
    })
}

fn external(store: &Value, id: &str) -> Value {
    json!({"Origin": "EXTERNAL_KEY_STORE", "CustomKeyStoreId": store, "XksKeyId": id})
}

/// A world whose key manager has the keys `one` and `two`, with a store that is connected to it.
async fn connected() -> (World, Arc<Manager>, Value) {
    let manager = Arc::new(Manager::default());
    for (n, id) in ["one", "two"].into_iter().enumerate() {
        manager.keys.lock().unwrap().insert(id.to_owned(), [n as u8; 32]);
    }
    let world = World::with_proxies(manager.clone()).await;
    let made = world.ok(&world.root, "CreateCustomKeyStore", store("mine", "keys.example.org", SECRET)).await;
    let id = made["CustomKeyStoreId"].clone();
    world.ok(&world.root, "ConnectCustomKeyStore", json!({"CustomKeyStoreId": id})).await;
    (world, manager, id)
}

#[tokio::test]
async fn key_stores() {
    let (world, manager, id) = connected().await;
    let by_id = json!({"CustomKeyStoreId": id});
    let mut other_path = store("third", "keys.example.org", SECRET);
    other_path["XksProxyUriPath"] = json!("/b/kms/xks/v1");
    let cloud_hsm = json!({"CustomKeyStoreName": "x", "CustomKeyStoreType": "AWS_CLOUDHSM"});
    world
        .script(vec![
            ("CreateCustomKeyStore", store("mine", "other.example.org", SECRET), "CustomKeyStoreNameInUseException"),
            ("CreateCustomKeyStore", store("other", "keys.example.org", SECRET), "XksProxyUriInUseException"),
            ("CreateCustomKeyStore", store("other", "127.0.0.1", SECRET), "ValidationException"),
            ("CreateCustomKeyStore", store("", "other.example.org", SECRET), "ValidationException"),
            ("CreateCustomKeyStore", cloud_hsm, "UnsupportedOperationException"),
            (
                "CreateCustomKeyStore",
                store("other", "other.example.org", &SECRET.to_uppercase()),
                "XksProxyIncorrectAuthenticationCredentialException",
            ),
            ("CreateCustomKeyStore", other_path, ""),
            ("ConnectCustomKeyStore", by_id.clone(), "CustomKeyStoreInvalidStateException"),
            ("DeleteCustomKeyStore", by_id.clone(), "CustomKeyStoreInvalidStateException"),
            ("DeleteCustomKeyStore", json!({"CustomKeyStoreId": "cks-none"}), "CustomKeyStoreNotFoundException"),
            ("DescribeCustomKeyStores", json!({"CustomKeyStoreName": "none"}), "CustomKeyStoreNotFoundException"),
            ("CreateKey", external(&id, "none"), "XksKeyNotFoundException"),
            ("CreateKey", external(&id, "../health"), "ValidationException"),
            ("CreateKey", external(&json!("cks-none"), "one"), "CustomKeyStoreNotFoundException"),
            ("CreateKey", json!({"CustomKeyStoreId": id}), "ValidationException"),
            ("CreateKey", json!({"Origin": "EXTERNAL_KEY_STORE"}), "ValidationException"),
            ("CreateKey", external(&id, "one"), ""),
            ("CreateKey", external(&id, "one"), "XksKeyAlreadyInUseException"),
            ("DisconnectCustomKeyStore", by_id.clone(), ""),
            ("DisconnectCustomKeyStore", by_id.clone(), "CustomKeyStoreInvalidStateException"),
            ("CreateKey", external(&id, "two"), "CustomKeyStoreInvalidStateException"),
            ("DeleteCustomKeyStore", by_id.clone(), "CustomKeyStoreHasCMKsException"),
            ("UpdateCustomKeyStore", json!({"CustomKeyStoreId": id, "NewCustomKeyStoreName": "renamed"}), ""),
        ])
        .await;
    let described = world.ok(&world.root, "DescribeCustomKeyStores", by_id.clone()).await;
    let entry = &described["CustomKeyStores"][0];
    assert_eq!((&entry["CustomKeyStoreName"], &entry["ConnectionState"]), (&json!("renamed"), &json!("DISCONNECTED")));
    assert!(!described.to_string().contains(SECRET));
    manager.set_fault(Some(Fault::Tls));
    world.ok(&world.root, "ConnectCustomKeyStore", by_id.clone()).await;
    let entry = &world.ok(&world.root, "DescribeCustomKeyStores", by_id.clone()).await["CustomKeyStores"][0];
    assert_eq!(
        (&entry["ConnectionState"], &entry["ConnectionErrorCode"]),
        (&json!("FAILED"), &json!("XKS_PROXY_INVALID_TLS_CONFIGURATION"))
    );
    let elsewhere = json!({"CustomKeyStoreId": id, "XksProxyUriEndpoint": "https://new.example.org"});
    let moved = world.ask(&world.root, "UpdateCustomKeyStore", elsewhere.clone()).await;
    assert_eq!(code(moved), "XksProxyUriUnreachableException");
    manager.set_fault(None);
    world.ok(&world.root, "UpdateCustomKeyStore", elsewhere).await;
    let other = world.other_account().await.1;
    assert_eq!(code(world.ask(&other, "DescribeCustomKeyStores", by_id).await), "CustomKeyStoreNotFoundException");
}

#[tokio::test]
async fn both_sides_are_needed() {
    let (world, manager, id) = connected().await;
    let root = &world.root;
    let made = world.ok(root, "CreateKey", external(&id, "one")).await["KeyMetadata"].clone();
    assert_eq!(
        (&made["Origin"], &made["CustomKeyStoreId"], &made["XksKeyConfiguration"]),
        (&json!("EXTERNAL_KEY_STORE"), &id, &json!({"Id": "one"}))
    );
    let key = made["Arn"].as_str().unwrap();
    let context = json!({"a": "1"});
    let sealed =
        world.ok(root, "Encrypt", json!({"KeyId": key, "Plaintext": "Q0FOQVJZ", "EncryptionContext": context})).await;
    let decrypt = json!({"CiphertextBlob": sealed["CiphertextBlob"], "EncryptionContext": context});
    assert_eq!(world.ok(root, "Decrypt", decrypt.clone()).await["Plaintext"], "Q0FOQVJZ");
    // The key manager is told who asks, and never sees what is encrypted.
    let asked = manager.asked.lock().unwrap().clone();
    let (path, body) = asked.iter().find(|(path, _)| path == "/keys/one/encrypt").unwrap();
    assert_eq!(path, "/keys/one/encrypt");
    let about = &body["requestMetadata"];
    assert_eq!((&about["kmsKeyArn"], &about["kmsOperation"]), (&json!(key), &json!("Encrypt")));
    assert_eq!(about["awsPrincipalArn"], format!("arn:aws:iam::{}:root", world.account));
    assert!(asked.iter().all(|(_, body)| {
        !STANDARD
            .decode(body["plaintext"].as_str().unwrap_or_default())
            .unwrap()
            .windows(6)
            .any(|part| part == b"CANARY")
    }));
    let largest = world.ok(root, "Encrypt", json!({"KeyId": key, "Plaintext": STANDARD.encode([7; 4096])})).await;
    assert!(world.ask(root, "Decrypt", json!({"CiphertextBlob": largest["CiphertextBlob"]})).await.is_ok());
    let blob = STANDARD.decode(sealed["CiphertextBlob"].as_str().unwrap()).unwrap();
    for place in [40, 61, 62, 75, 90, blob.len() - 1] {
        let mut altered = blob.clone();
        altered[place] ^= 1;
        let body = json!({"CiphertextBlob": STANDARD.encode(altered), "EncryptionContext": context});
        let refused = code(world.ask(root, "Decrypt", body).await);
        assert!(
            ["InvalidCiphertextException", "KMSInvalidStateException"].contains(&refused.as_str()),
            "{place} {refused}"
        );
    }
    for (action, body, expected) in [
        ("Decrypt", json!({"CiphertextBlob": sealed["CiphertextBlob"]}), "InvalidCiphertextException"),
        ("EnableKeyRotation", json!({"KeyId": key}), "UnsupportedOperationException"),
        ("RotateKeyOnDemand", json!({"KeyId": key}), "UnsupportedOperationException"),
        ("GetKeyRotationStatus", json!({"KeyId": key}), "UnsupportedOperationException"),
    ] {
        assert_eq!(code(world.ask(root, action, body).await), expected, "{action}");
    }
    // Stopped: nothing opens, and it says so; started again: all as before.
    for fault in [Fault::Unreachable, Fault::TimedOut, Fault::Tls, Fault::NotAuthenticated, Fault::Malformed] {
        manager.set_fault(Some(fault));
        assert_eq!(code(world.ask(root, "Decrypt", decrypt.clone()).await), "KMSInvalidStateException", "{fault:?}");
    }
    manager.set_fault(None);
    assert!(world.ask(root, "Decrypt", decrypt.clone()).await.is_ok());
    world.ok(root, "DisconnectCustomKeyStore", json!({"CustomKeyStoreId": id})).await;
    assert_eq!(code(world.ask(root, "Decrypt", decrypt.clone()).await), "KMSInvalidStateException");
    let described = world.ok(root, "DescribeKey", json!({"KeyId": key})).await;
    assert_eq!(described["KeyMetadata"]["KeyState"], "Unavailable");
    world.ok(root, "ConnectCustomKeyStore", json!({"CustomKeyStoreId": id})).await;
    // Destroyed there, it is lost, whatever we keep.
    manager.keys.lock().unwrap().insert("one".to_owned(), [9; 32]);
    assert_eq!(code(world.ask(root, "Decrypt", decrypt.clone()).await), "InvalidCiphertextException");
    manager.keys.lock().unwrap().remove("one");
    assert_eq!(code(world.ask(root, "Decrypt", decrypt).await), "KMSInvalidStateException");
    // A key that goes here sets free what it was bound to.
    world.ok(root, "ScheduleKeyDeletion", json!({"KeyId": key, "PendingWindowInDays": 7})).await;
    world.days_later(7).await;
    world.ok(root, "DisconnectCustomKeyStore", json!({"CustomKeyStoreId": id})).await;
    world.ok(root, "DeleteCustomKeyStore", json!({"CustomKeyStoreId": id})).await;
}

#[tokio::test]
async fn the_door_waits_for_the_store_outside() {
    let (world, manager, id) = connected().await;
    let key = world.ok(&world.root, "CreateKey", external(&id, "two")).await["KeyMetadata"]["KeyId"].clone();
    let root = world.iam.authenticate_session(&world.root.access_key_id, None).await.unwrap();
    let context = EncryptionContext::from([("aws:s3:arn".to_owned(), "arn:aws:s3:::b/k".to_owned())]);
    let using = KeyUse { caller: &root, via: "s3", context: &context };
    let data_key = world.keys.generate(key.as_str(), using).await.unwrap();
    let opened = world.keys.open(&data_key.blob, using).await.unwrap();
    assert_eq!(opened.expose(), data_key.plaintext.expose());
    let (_, body) = manager.asked.lock().unwrap().last().unwrap().clone();
    assert_eq!(body["requestMetadata"]["kmsViaService"], "s3");
    manager.set_fault(Some(Fault::Unreachable));
    assert_eq!(world.keys.open(&data_key.blob, using).await.unwrap_err().code(), "KMSInvalidStateException");
    assert_eq!(world.keys.generate(key.as_str(), using).await.unwrap_err().code(), "KMSInvalidStateException");
}
