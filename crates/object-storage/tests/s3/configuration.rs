//! What a bucket has that nobody has configured.

use crate::harness::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_new_bucket_s_configurations() {
    let world = World::with_bucket().await;
    let absent = [
        ("policy", "NoSuchBucketPolicy"),
        ("cors", "NoSuchCORSConfiguration"),
        ("lifecycle", "NoSuchLifecycleConfiguration"),
        ("tagging", "NoSuchTagSet"),
        ("encryption", "ServerSideEncryptionConfigurationNotFoundError"),
        ("publicAccessBlock", "NoSuchPublicAccessBlockConfiguration"),
        ("website", "NoSuchWebsiteConfiguration"),
        ("replication", "ReplicationConfigurationNotFoundError"),
        ("object-lock", "ObjectLockConfigurationNotFoundError"),
    ];
    let present = [
        ("acl", "FULL_CONTROL"),
        ("ownershipControls", "BucketOwnerEnforced"),
        ("logging", "BucketLoggingStatus"),
        ("requestPayment", "<Payer>BucketOwner</Payer>"),
        ("accelerate", "AccelerateConfiguration"),
        ("notification", "NotificationConfiguration"),
        ("versioning", "VersioningConfiguration"),
        ("location", REGION_ELEMENT),
    ];
    let nothing = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:GetObject","Resource":"*"}}"#;
    let user = world.user("reader", nothing).await;
    for (what, code) in absent {
        let target = format!("/bucket?{what}");
        world.root.get(&target).send().await.refused(404, code, what);
        user.get(&target).send().await.refused(403, "AccessDenied", what);
        world.stranger.get(&target).send().await.refused(403, "AccessDenied", what);
        world.root.get(&format!("/absent?{what}")).send().await.refused(404, "NoSuchBucket", what);
    }
    for (what, contains) in present {
        let target = format!("/bucket?{what}");
        let answer = world.root.get(&target).send().await.expect(200, what);
        assert!(answer.text().contains(contains), "{what}: {}", answer.text());
        user.get(&target).send().await.refused(403, "AccessDenied", what);
        world.stranger.get(&target).send().await.refused(403, "AccessDenied", what);
    }
}

const REGION_ELEMENT: &str = "eu-test-1</LocationConstraint>";
