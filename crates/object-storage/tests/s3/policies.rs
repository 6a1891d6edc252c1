//! Policies of buckets: whom they let in, whom they keep out, and what blocks public ones.

use crate::harness::{Call, Client, World};
use std::time::Duration;

fn document(statements: &[String]) -> String {
    format!(r#"{{"Version":"2012-10-17","Statement":[{}]}}"#, statements.join(","))
}

/// `principal` and `more` are JSON; `more` begins with a comma.
fn statement(effect: &str, principal: &str, action: &str, resource: &str, more: &str) -> String {
    format!(
        r#"{{"Effect":"{effect}","Principal":{principal},"Action":"{action}","Resource":"arn:aws:s3:::{resource}"{more}}}"#
    )
}

const EVERYONE: &str = r#""*""#;

impl World {
    async fn policy(&self, statements: &[String]) {
        self.root.put("/bucket?policy").body(document(statements)).send().await.expect(204, "the policy");
    }

    fn anonymous(&self) -> Client {
        Client { access_key: String::new(), ..self.root.clone() }
    }

    fn stranger_account(&self) -> String {
        self.strange_account.to_string()
    }
}

async fn allowed(call: Call, why: &str) {
    let answer = call.send().await;
    assert!(answer.status.is_success(), "{why}: {}: {}", answer.what, answer.text());
}

async fn denied(call: Call, why: &str) {
    let is_head = call.method == http::Method::HEAD;
    let answer = call.send().await.expect(403, why);
    assert!(is_head || answer.code() == "AccessDenied", "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_kept_as_it_came_and_checked() {
    let world = World::with_bucket().await;
    let c = &world.root;
    let get = |principal: &str| statement("Allow", principal, "s3:GetObject", "bucket/*", "");
    let good = document(&[get(EVERYONE)]);
    c.put("/bucket?policy").body(good.clone()).send().await.expect(204, "written");
    assert_eq!(c.get("/bucket?policy").send().await.expect(200, "read").text(), good);
    let named = |arn: &str| document(&[get(&format!(r#"{{"AWS":"{arn}"}}"#))]);
    let rows = [
        ("not JSON", "nothing".to_owned()),
        ("no statement", r#"{"Version":"2012-10-17"}"#.to_owned()),
        ("another bucket", document(&[statement("Allow", EVERYONE, "s3:GetObject", "other/*", "")])),
        (
            "a bucket whose name begins alike",
            document(&[statement("Allow", EVERYONE, "s3:GetObject", "bucket2/*", "")]),
        ),
        ("another service", document(&[statement("Allow", EVERYONE, "ec2:RunInstances", "bucket", "")])),
        ("nobody", good.replace(r#""Principal":"*","#, "")),
        ("an account that does not exist", named("999999999999")),
        ("a user who does not exist", named(&format!("arn:aws:iam::{}:user/nobody", world.account))),
        ("too long", good.replace(r#""Version""#, &format!(r#""Id":"{}","Version""#, "x".repeat(20 << 10)))),
        (
            "an unknown operator",
            document(&[statement(
                "Allow",
                EVERYONE,
                "s3:GetObject",
                "bucket/*",
                r#","Condition":{"Sounds":{"aws:userid":"x"}}"#,
            )]),
        ),
    ];
    for (why, body) in rows {
        c.put("/bucket?policy").body(body).send().await.refused(400, "MalformedPolicy", why);
    }
    assert_eq!(c.get("/bucket?policy").send().await.text(), good, "none of these has replaced it");
    denied(world.stranger.get("/bucket?policy"), "a stranger reads no policy").await;
    denied(world.anonymous().put("/bucket?policy").body(good.clone()), "nobody writes one").await;
    c.delete("/bucket?policy").send().await.expect(204, "deleted");
    c.delete("/bucket?policy").send().await.expect(204, "again");
    c.get("/bucket?policy").send().await.refused(404, "NoSuchBucketPolicy", "gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_unless_a_policy_says_so() {
    let world = World::with_bucket().await;
    let (c, nobody) = (&world.root, world.anonymous());
    for key in ["public/a", "private/b"] {
        c.put(&format!("/bucket/{key}")).body("1").send().await.expect(200, "object");
    }
    let everything = [
        nobody.get("/"),
        nobody.get("/bucket"),
        nobody.head("/bucket"),
        nobody.get("/bucket?acl"),
        nobody.get("/bucket/public/a"),
        nobody.head("/bucket/public/a"),
        nobody.get("/bucket/missing"),
        nobody.put("/bucket/public/new").body("x"),
        nobody.delete("/bucket/public/a"),
        nobody.post("/bucket?delete").body("<Delete><Object><Key>public/a</Key></Object></Delete>"),
        nobody.post("/bucket/k?uploads"),
        nobody.put("/other"),
        nobody.put("/bucket/copy").header("x-amz-copy-source", "bucket/public/a"),
    ];
    for call in everything.clone() {
        // DeleteObjects answers for each key.
        if call.target.ends_with("?delete") {
            assert!(call.send().await.text().contains("<Code>AccessDenied</Code>"));
        } else {
            denied(call, "without a policy").await;
        }
    }
    nobody.get("/absent/k").send().await.refused(404, "NoSuchBucket", "there is nobody to ask");
    world.policy(&[statement("Allow", EVERYONE, "s3:GetObject", "bucket/public/*", "")]).await;
    allowed(nobody.get("/bucket/public/a"), "what the policy names").await;
    allowed(nobody.head("/bucket/public/a"), "its head").await;
    denied(nobody.get("/bucket/private/b"), "what it does not name").await;
    denied(nobody.get("/bucket/public/missing"), "who may not list does not learn what is missing").await;
    for call in everything
        .into_iter()
        .filter(|call| !call.target.starts_with("/bucket/public/a") && !call.target.ends_with("?delete"))
    {
        denied(call, "and nothing else").await;
    }
    let list = statement(
        "Allow",
        EVERYONE,
        "s3:ListBucket",
        "bucket",
        r#","Condition":{"StringLike":{"s3:prefix":"public/*"}}"#,
    );
    world.policy(&[statement("Allow", EVERYONE, "s3:GetObject", "bucket/*", ""), list]).await;
    nobody.get("/bucket/public/missing").send().await.refused(404, "NoSuchKey", "who may list this prefix");
    denied(nobody.get("/bucket/private/missing"), "who may not list that one").await;
    allowed(nobody.get("/bucket?list-type=2&prefix=public/"), "the prefix").await;
    denied(nobody.get("/bucket?list-type=2"), "the whole").await;
    world.policy(&[statement("Allow", EVERYONE, "s3:*", "bucket", "")]).await;
    let own = document(&[statement("Allow", EVERYONE, "s3:*", "bucket/*", "")]);
    for (who, client) in [("nobody", &nobody), ("another account", &world.stranger)] {
        client.get("/bucket?policy").send().await.refused(405, "MethodNotAllowed", who);
        client.put("/bucket?policy").body(own.clone()).send().await.refused(405, "MethodNotAllowed", who);
        client.delete("/bucket?policy").send().await.refused(405, "MethodNotAllowed", who);
    }
    assert!(!c.get("/bucket?policy").send().await.expect(200, "as it was").text().contains("bucket/*"));
    world.policy(&[statement("Allow", EVERYONE, "s3:PutObject", "bucket/drop/*", "")]).await;
    allowed(nobody.put("/bucket/drop/1").body("from nobody"), "writing where that is allowed").await;
    assert_eq!(c.get("/bucket/drop/1").send().await.expect(200, "the bucket owner's").text(), "from nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_reach_into_each_other_only_if_both_sides_say_so() {
    let world = World::with_bucket().await;
    let c = &world.root;
    c.put("/bucket/k").body("1").send().await.expect(200, "object");
    c.put("/own").send().await.expect(200, "another bucket");
    let account = format!(r#"{{"AWS":"{}"}}"#, world.stranger_account());
    let theirs = world.stranger_user("theirs", r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::bucket/*"}}"#).await;
    let idle = world
        .stranger_user(
            "idle",
            r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"ec2:*","Resource":"*"}}"#,
        )
        .await;
    denied(theirs.get("/bucket/k"), "its own policy alone").await;
    world.policy(&[statement("Allow", &account, "s3:GetObject", "bucket/*", "")]).await;
    allowed(theirs.get("/bucket/k"), "both").await;
    allowed(world.stranger.get("/bucket/k"), "the account's root needs none of its own").await;
    denied(idle.get("/bucket/k"), "the bucket's policy alone").await;
    denied(theirs.put("/bucket/k2").body("x"), "another action").await;
    denied(world.anonymous().get("/bucket/k"), "an account is not everybody").await;
    let copy = world.stranger.put("/theirs/copy").header("x-amz-copy-source", "bucket/k");
    world.stranger.put("/theirs").send().await.expect(200, "a bucket of theirs");
    allowed(copy.clone(), "copying out of it").await;
    denied(world.stranger.put("/own/copy").header("x-amz-copy-source", "bucket/k"), "into one that lets nobody in")
        .await;
    let out = c.put("/own/stolen").header("x-amz-copy-source", "theirs/copy");
    denied(out, "out of a foreign bucket").await;

    // A user of the bucket's account whom the policy names needs no policy of its own; a deny holds for the root, too.
    let bob = world
        .user("bob", r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"ec2:*","Resource":"*"}}"#)
        .await;
    let arn = format!(r#"{{"AWS":"arn:aws:iam::{}:user/bob"}}"#, world.account);
    denied(bob.get("/bucket/k"), "bob, not named").await;
    world
        .policy(&[
            statement("Allow", &arn, "s3:GetObject", "bucket/*", ""),
            statement("Deny", EVERYONE, "s3:*", "bucket/secret/*", ""),
        ])
        .await;
    allowed(bob.get("/bucket/k"), "bob, named").await;
    denied(c.put("/bucket/secret/k").body("x"), "the owner's root, denied").await;
    world.policy(&[statement("Deny", EVERYONE, "s3:*", "bucket", "")]).await;
    denied(c.get("/bucket"), "everybody is denied").await;
    allowed(c.get("/bucket?policy"), "but the root can mend it").await;
    c.delete("/bucket?policy").send().await.expect(204, "by deleting the policy");
    allowed(c.get("/bucket"), "then all is well").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions() {
    let world = World::with_bucket().await;
    let (c, nobody) = (&world.root, world.anonymous());
    c.put("/bucket/red").header("x-amz-tagging", "colour=red").body("1").send().await.expect(200, "red");
    c.put("/bucket/blue").header("x-amz-tagging", "colour=blue").body("1").send().await.expect(200, "blue");
    let when = |effect: &str, action: &str, condition: &str| {
        statement(effect, EVERYONE, action, "bucket/*", &format!(r#","Condition":{{{condition}}}"#))
    };
    let tag = r#""StringEquals":{"s3:ExistingObjectTag/colour":"red"}"#;
    world.policy(&[when("Allow", "s3:GetObject", tag)]).await;
    allowed(nobody.get("/bucket/red"), "a red one").await;
    denied(nobody.get("/bucket/blue"), "a blue one").await;
    denied(nobody.get("/bucket/none"), "none").await;
    world.policy(&[when("Deny", "s3:GetObject", tag)]).await;
    denied(c.get("/bucket/red"), "denied to the owner").await;
    allowed(c.get("/bucket/blue"), "the other").await;
    // The same in the caller's own policy.
    let careful = world.user("careful", &format!(r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Action":"s3:GetObject","Resource":"*","Condition":{{{tag}}}}}}}"#)).await;
    c.delete("/bucket?policy").send().await.expect(204, "no policy");
    allowed(careful.get("/bucket/red"), "its own condition holds").await;
    denied(careful.get("/bucket/blue"), "its own condition does not").await;

    let rows: Vec<(&str, String, Call, bool)> = vec![
        (
            "referer",
            when("Allow", "s3:GetObject", r#""StringLike":{"aws:Referer":"https://a.example/*"}"#),
            nobody.get("/bucket/red").header("referer", "https://a.example/page"),
            true,
        ),
        (
            "another referer",
            when("Allow", "s3:GetObject", r#""StringLike":{"aws:Referer":"https://a.example/*"}"#),
            nobody.get("/bucket/red").header("referer", "https://b.example/"),
            false,
        ),
        (
            "acl given",
            when("Allow", "s3:Put*", r#""StringEquals":{"s3:x-amz-acl":"bucket-owner-full-control"}"#),
            nobody.put("/bucket/n").header("x-amz-acl", "bucket-owner-full-control"),
            true,
        ),
        (
            "acl not given",
            when("Allow", "s3:Put*", r#""StringEquals":{"s3:x-amz-acl":"bucket-owner-full-control"}"#),
            nobody.put("/bucket/n"),
            false,
        ),
        (
            "tag given",
            when("Allow", "s3:Put*", r#""StringEquals":{"s3:RequestObjectTag/team":"a"}"#),
            nobody.put("/bucket/n").header("x-amz-tagging", "team=a"),
            true,
        ),
        (
            "another tag",
            when("Allow", "s3:Put*", r#""StringEquals":{"s3:RequestObjectTag/team":"a"}"#),
            nobody.put("/bucket/n").header("x-amz-tagging", "team=b"),
            false,
        ),
        (
            "only known tags",
            when("Allow", "s3:Put*", r#""ForAllValues:StringEquals":{"s3:RequestObjectTagKeys":["team"]}"#),
            nobody.put("/bucket/n").header("x-amz-tagging", "team=a&cost=1"),
            false,
        ),
        (
            "signed in a header",
            when("Deny", "s3:GetObject", r#""StringEquals":{"s3:authType":"REST-HEADER"}"#),
            c.get("/bucket/red"),
            false,
        ),
        (
            "an old signature",
            when("Deny", "s3:GetObject", r#""NumericGreaterThan":{"s3:signatureAge":"600000"}"#),
            c.get("/bucket/red"),
            true,
        ),
        (
            "the version",
            when("Allow", "s3:GetObjectVersion", r#""StringEquals":{"s3:VersionId":"null"}"#),
            nobody.get("/bucket/red?versionId=null"),
            true,
        ),
        (
            "no version",
            when("Allow", "s3:GetObjectVersion", r#""StringEquals":{"s3:VersionId":"null"}"#),
            nobody.get("/bucket/red"),
            false,
        ),
        (
            "only if absent",
            when("Allow", "s3:PutObject", r#""Null":{"s3:if-none-match":"false"}"#),
            nobody.put("/bucket/n2").header("if-none-match", "*"),
            true,
        ),
    ];
    for (why, statement, call, expected) in rows {
        world.policy(&[statement]).await;
        if expected { allowed(call, why).await } else { denied(call, why).await }
    }
    world.policy(&[when("Deny", "s3:GetObject", r#""NumericGreaterThan":{"s3:signatureAge":"600000"}"#)]).await;
    let call = c.get("/bucket/red");
    world.clock.advance(Duration::from_secs(700));
    denied(call, "signed 700 s ago").await;
    c.put("/bucket/red?tagging").body("<Tagging><TagSet/></Tagging>").send().await.expect(200, "tags");
    // Tags that stand in the document are looked at, too.
    world
        .policy(&[when("Deny", "s3:PutObjectTagging", r#""StringEquals":{"s3:RequestObjectTag/colour":"red"}"#)])
        .await;
    let tags = |colour: &str| {
        format!("<Tagging><TagSet><Tag><Key>colour</Key><Value>{colour}</Value></Tag></TagSet></Tagging>")
    };
    denied(c.put("/bucket/blue?tagging").body(tags("red")), "red").await;
    allowed(c.put("/bucket/blue?tagging").body(tags("green")), "green").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_blocks_public_policies() {
    let world = World::with_bucket().await;
    let (c, nobody) = (&world.root, world.anonymous());
    c.put("/bucket/k").body("1").send().await.expect(200, "object");
    let block = |names: &[&str]| {
        let element = |name: &&str| format!("<{name}>true</{name}>");
        let body: String = names.iter().map(element).collect();
        c.put("/bucket?publicAccessBlock")
            .body(format!("<PublicAccessBlockConfiguration>{body}</PublicAccessBlockConfiguration>"))
            .send()
    };
    let public = document(&[statement("Allow", EVERYONE, "s3:GetObject", "bucket/*", "")]);
    let account = format!(r#"{{"AWS":"{}"}}"#, world.stranger_account());
    let known = document(&[statement("Allow", &account, "s3:GetObject", "bucket/*", "")]);
    let status = async || c.get("/bucket?policyStatus").send().await.expect(200, "status").field("IsPublic").unwrap();
    assert_eq!(status().await, "false");
    block(&["BlockPublicPolicy"]).await.expect(200, "block");
    let read = c.get("/bucket?publicAccessBlock").send().await.expect(200, "read back");
    assert_eq!(
        (read.field("BlockPublicPolicy").as_deref(), read.field("RestrictPublicBuckets").as_deref()),
        (Some("true"), Some("false"))
    );
    c.put("/bucket?policy").body(public.clone()).send().await.refused(
        403,
        "AccessDenied",
        "public policies are blocked",
    );
    c.put("/bucket?policy").body(known.clone()).send().await.expect(204, "others are not");
    assert_eq!(status().await, "false");
    allowed(world.stranger.get("/bucket/k"), "whom it names").await;
    block(&[]).await.expect(200, "nothing blocked");
    c.put("/bucket?policy").body(public.clone()).send().await.expect(204, "now it is taken");
    assert_eq!(status().await, "true");
    allowed(nobody.get("/bucket/k"), "everybody").await;
    block(&["RestrictPublicBuckets"]).await.expect(200, "restricted");
    denied(nobody.get("/bucket/k"), "nobody any more").await;
    denied(world.stranger.get("/bucket/k"), "nor another account").await;
    allowed(c.get("/bucket/k"), "but the own one").await;
    assert_eq!(status().await, "false");
    c.delete("/bucket?publicAccessBlock").send().await.expect(204, "deleted");
    c.get("/bucket?publicAccessBlock").send().await.refused(404, "NoSuchPublicAccessBlockConfiguration", "gone");
    allowed(nobody.get("/bucket/k"), "everybody again").await;
    denied(world.stranger.delete("/bucket?publicAccessBlock"), "a stranger").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_blocks_the_public_in_all_its_buckets() {
    let world = World::with_bucket().await;
    let (c, nobody) = (&world.root, world.anonymous());
    c.put("/bucket/k").header("x-amz-acl", "public-read").body("1").send().await.expect(200, "public");
    let target = "/v20180820/configuration/publicAccessBlock";
    let account = world.account.to_string();
    let of_account = |call: Call| call.header("x-amz-account-id", &account);
    let block = "<PublicAccessBlockConfiguration><IgnorePublicAcls>true</IgnorePublicAcls><BlockPublicPolicy>true</BlockPublicPolicy></PublicAccessBlockConfiguration>";
    of_account(c.get(target)).send().await.refused(404, "NoSuchPublicAccessBlockConfiguration", "told nothing");
    allowed(nobody.get("/bucket/k"), "its list counts").await;
    let set = of_account(c.put(target)).body(block).send().await.expect(200, "told");
    assert_eq!(set.outcome.operation.as_deref(), Some("PutPublicAccessBlock"), "for the audit log");
    let read = of_account(c.get(target)).send().await.expect(200, "read");
    assert_eq!(
        (read.field("IgnorePublicAcls").as_deref(), read.field("BlockPublicAcls").as_deref()),
        (Some("true"), Some("false"))
    );
    denied(nobody.get("/bucket/k"), "no list lets in everybody").await;
    let public = document(&[statement("Allow", EVERYONE, "s3:GetObject", "bucket/*", "")]);
    denied(c.put("/bucket?policy").body(public), "nor may a policy").await;
    c.get("/bucket?publicAccessBlock").send().await.refused(
        404,
        "NoSuchPublicAccessBlockConfiguration",
        "not the bucket's own",
    );
    let reader = world.user("reader", r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:GetAccountPublicAccessBlock","Resource":"*"}}"#).await;
    allowed(of_account(reader.get(target)), "who may read it").await;
    denied(of_account(reader.delete(target)), "but not change it").await;
    denied(of_account(world.stranger.get(target)), "another account").await;
    denied(of_account(nobody.get(target)), "nobody").await;
    of_account(c.put(target)).body("x").send().await.refused(400, "MalformedXML", "no document");
    c.get(target).header("x-amz-account-id", "me").send().await.refused(400, "InvalidRequest", "no account");
    of_account(c.put(target)).body(block).payload(&"0".repeat(64)).send().await.refused(
        400,
        "XAmzContentSHA256Mismatch",
        "another body",
    );
    of_account(c.delete(target)).send().await.expect(204, "forgotten");
    allowed(nobody.get("/bucket/k"), "its list counts again").await;
}
