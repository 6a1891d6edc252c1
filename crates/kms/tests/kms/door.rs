use serde_json::json;
use std::collections::BTreeMap;
use terroir_action::{Caller, DataKeys as _, KeyUse};
use terroir_api_server::in_process::Client;
use terroir_kms::model::EncryptionContext;

use crate::world::{EVERYTHING, World, code};

async fn caller(world: &World, client: &Client) -> Caller {
    world.iam.authenticate_session(&client.access_key_id, None).await.unwrap()
}

#[tokio::test]
async fn services_ask_for_data_keys_as_their_callers() {
    let world = World::new().await;
    let root = caller(&world, &world.root).await;
    let nobody = caller(&world, &world.user("nobody", None).await).await;
    let (_, other) = world.other_account().await;
    let other = caller(&world, &other).await;
    let anonymous = Caller::anonymous();
    let context: EncryptionContext = BTreeMap::from([("aws:s3:arn".to_owned(), "arn:aws:s3:::b/k".to_owned())]);
    let none = EncryptionContext::new();
    let using = |caller, context| KeyUse { caller, via: "s3", context };
    let keys = &world.keys;
    // A key of the account's own: the caller needs the permission.
    let key = world.key(json!({})).await;
    let data_key = keys.generate(Some(&key), using(&root, &context)).await.unwrap();
    assert_eq!(data_key.key.as_str(), key);
    let opened = keys.open(&data_key.blob, using(&root, &context)).await.unwrap();
    assert_eq!(opened.expose(), data_key.plaintext.expose());
    let code_of = |error: terroir_types::Error| error.code().to_owned();
    for (caller, context, expected) in [
        (&root, &none, "InvalidCiphertextException"),
        (&nobody, &context, "AccessDenied"),
        (&other, &context, "AccessDenied"),
        (&anonymous, &context, "AccessDenied"),
    ] {
        assert_eq!(code_of(keys.open(&data_key.blob, using(caller, context)).await.unwrap_err()), expected);
    }
    assert_eq!(code_of(keys.generate(Some("alias/none"), using(&root, &none)).await.unwrap_err()), "NotFoundException");
    // The service's own key: whoever may use the service, but only through it.
    let first = keys.generate(None, using(&nobody, &context)).await.unwrap();
    let second = keys.generate(None, using(&root, &context)).await.unwrap();
    assert_eq!(first.key, second.key, "made once");
    assert!(keys.open(&first.blob, using(&nobody, &context)).await.is_ok());
    assert_eq!(code_of(keys.open(&first.blob, using(&other, &context)).await.unwrap_err()), "AccessDenied");
    let elsewhere = KeyUse { caller: &root, via: "ec2", context: &context };
    assert_eq!(code_of(keys.open(&first.blob, elsewhere).await.unwrap_err()), "AccessDenied");
    assert_ne!(keys.generate(None, elsewhere).await.unwrap().key, first.key);
    assert_eq!(code_of(keys.generate(None, using(&anonymous, &context)).await.unwrap_err()), "AccessDenied");
    let managed = world.ok(&world.root, "DescribeKey", json!({"KeyId": "alias/aws/s3"})).await;
    assert_eq!(managed["KeyMetadata"]["KeyManager"], "AWS");
    assert_eq!(managed["KeyMetadata"]["Arn"], first.key.as_str());
    let everything = world.user("everything", Some(EVERYTHING)).await;
    for (action, body) in [
        ("Encrypt", json!({"KeyId": "alias/aws/s3", "Plaintext": "QUFB"})),
        ("DisableKey", json!({"KeyId": first.key.as_str()})),
        ("ScheduleKeyDeletion", json!({"KeyId": first.key.as_str()})),
        ("PutKeyPolicy", json!({"KeyId": first.key.as_str(), "Policy": "{}"})),
    ] {
        assert_eq!(code(world.ask(&everything, action, body).await), "AccessDeniedException", "{action}");
    }
    // A key in a state in which it may not be used.
    world.ok(&world.root, "DisableKey", json!({"KeyId": key})).await;
    assert_eq!(code_of(keys.open(&data_key.blob, using(&root, &context)).await.unwrap_err()), "DisabledException");
}
