//! Access control lists, and whose the objects of a bucket are.

use crate::harness::{Answer, Call, Client, World};

const EVERYONE: &str = "http://acs.amazonaws.com/groups/global/AllUsers";

impl World {
    fn nobody(&self) -> Client {
        Client { access_key: String::new(), ..self.root.clone() }
    }

    /// The canonical id of an account's root.
    async fn id(&self, client: &Client) -> String {
        client.get("/").send().await.expect(200, "buckets").field("ID").unwrap()
    }
}

async fn check(rows: Vec<(&str, Call, u16)>) {
    for (why, call, status) in rows {
        call.send().await.expect(status, why);
    }
}

fn document(owner: &str, grants: &[(&str, &str)]) -> String {
    let grant =
        |(grantee, permission): &(&str, &str)| format!("<Grant>{grantee}<Permission>{permission}</Permission></Grant>");
    let grants: String = grants.iter().map(grant).collect();
    format!(
        "<AccessControlPolicy><Owner><ID>{owner}</ID></Owner><AccessControlList>{grants}</AccessControlList></AccessControlPolicy>"
    )
}

fn grantee(kind: &str, inner: &str) -> String {
    format!(r#"<Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="{kind}">{inner}</Grantee>"#)
}

/// The grants of an answer, as `whom: what`.
fn grants(answer: &Answer) -> Vec<String> {
    let text = answer.text();
    let between = |text: &str, name: &str| {
        let rest = text.split_once(&format!("<{name}>"))?.1;
        Some(rest.split_once("</")?.0.to_owned())
    };
    let one = |grant: &str| {
        let whom = between(grant, "URI").map(|uri| uri.rsplit('/').next().unwrap_or_default().to_owned());
        format!(
            "{}: {}",
            whom.unwrap_or_else(|| between(grant, "ID").unwrap()[..4].to_owned()),
            between(grant, "Permission").unwrap()
        )
    };
    text.split("<Grant>").skip(1).map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn canned_lists() {
    let world = World::new().await;
    let (c, other, nobody) = (&world.root, &world.stranger, world.nobody());
    let me = world.id(c).await[..4].to_owned();
    let create = |acl: &str| c.put(&format!("/{acl}")).header("x-amz-acl", acl);
    for acl in ["private", "public-read", "public-read-write", "authenticated-read"] {
        create(acl).send().await.expect(200, acl);
        for object in ["private", "public-read", "authenticated-read"] {
            c.put(&format!("/{acl}/{object}")).header("x-amz-acl", object).body("1").send().await.expect(200, object);
        }
        check(vec![
            // Whoever may list learns that there is nothing; a list on a bucket says nothing of its objects.
            ("list", nobody.get(&format!("/{acl}")), if acl.starts_with("public") { 200 } else { 403 }),
            ("list, signed", other.get(&format!("/{acl}")), if acl == "private" { 403 } else { 200 }),
            ("missing", nobody.get(&format!("/{acl}/none")), if acl.starts_with("public") { 404 } else { 403 }),
            ("write", nobody.put(&format!("/{acl}/new")).body("x"), if acl == "public-read-write" { 200 } else { 403 }),
            (
                "write, signed",
                other.put(&format!("/{acl}/new2")).body("x"),
                if acl == "public-read-write" { 200 } else { 403 },
            ),
            ("its list", nobody.get(&format!("/{acl}?acl")), 403),
            ("another list", nobody.put(&format!("/{acl}?acl")).header("x-amz-acl", "public-read"), 403),
            ("its policy", other.get(&format!("/{acl}?policy")), 403),
            ("private object", nobody.get(&format!("/{acl}/private")), 403),
            ("private object, signed", other.get(&format!("/{acl}/private")), 403),
            ("public object", nobody.get(&format!("/{acl}/public-read")), 200),
            ("its head", nobody.head(&format!("/{acl}/public-read")), 200),
            ("its list", nobody.get(&format!("/{acl}/public-read?acl")), 403),
            ("its tags", nobody.get(&format!("/{acl}/public-read?tagging")), 403),
            ("object for the signed", nobody.get(&format!("/{acl}/authenticated-read")), 403),
            ("object for the signed, signed", other.get(&format!("/{acl}/authenticated-read")), 200),
            ("delete", nobody.delete(&format!("/{acl}/new")), if acl == "public-read-write" { 204 } else { 403 }),
        ])
        .await;
    }
    let read = c.get("/public-read-write?acl").send().await.expect(200, "read");
    assert_eq!(grants(&read), ["AllUsers: READ", "AllUsers: WRITE", &format!("{me}: FULL_CONTROL")]);
    c.put("/public-read-write?acl").header("x-amz-acl", "private").send().await.expect(200, "made private");
    check(vec![("list", nobody.get("/public-read-write"), 403), ("write", nobody.put("/public-read-write/x"), 403)])
        .await;
    c.put("/private/private?acl").header("x-amz-acl", "public-read").send().await.expect(200, "an object's");
    check(vec![("read", nobody.get("/private/private"), 200)]).await;
    c.put("/private/private").body("2").send().await.expect(200, "written again");
    check(vec![("a new object is private", nobody.get("/private/private"), 403)]).await;
    let copy = c.put("/private/copy").header("x-amz-copy-source", "private/public-read");
    copy.send().await.expect(200, "copied");
    check(vec![("a list is not copied", nobody.get("/private/copy"), 403)]).await;
    let upload = c.post("/private/parts?uploads").header("x-amz-acl", "public-read").send().await.expect(200, "upload");
    let id = upload.field("UploadId").unwrap();
    let part =
        c.put(&format!("/private/parts?partNumber=1&uploadId={id}")).body("part").send().await.expect(200, "part");
    let complete = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part></CompleteMultipartUpload>",
        part.header("etag")
    );
    check(vec![("not before it is complete", nobody.get("/private/parts"), 403)]).await;
    c.post(&format!("/private/parts?uploadId={id}")).body(complete).send().await.expect(200, "complete");
    check(vec![("an upload has a list", nobody.get("/private/parts"), 200)]).await;
    // A user without permissions of its own is let into other accounts' public things no more than AWS lets it.
    let idle = world
        .stranger_user(
            "idle",
            r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"ec2:*","Resource":"*"}}"#,
        )
        .await;
    check(vec![("no policy of its own", idle.get("/private/public-read"), 403)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_to_an_account() {
    let world = World::with_bucket().await;
    let (c, other) = (&world.root, &world.stranger);
    let (mine, theirs) = (world.id(c).await, world.id(other).await);
    let them = grantee("CanonicalUser", &format!("<ID>{theirs}</ID>"));
    let me = grantee("CanonicalUser", &format!("<ID>{mine}</ID>"));
    c.put("/bucket/k").body("1").send().await.expect(200, "object");
    let grant = |permission: &str| {
        c.put("/bucket?acl").body(document(&mine, &[(&me, "FULL_CONTROL"), (&them, permission)])).send()
    };
    let on_object = |permission: &str| c.put("/bucket/k?acl").body(document(&mine, &[(&them, permission)])).send();
    let asks = || {
        [
            other.get("/bucket"),
            other.put("/bucket/theirs").body("2"),
            other.get("/bucket?acl"),
            other.put("/bucket?acl").header("x-amz-grant-full-control", format!("id={mine}, id=\"{theirs}\"")),
        ]
    };
    for (permission, expected) in [
        ("READ", [200, 403, 403, 403]),
        ("WRITE", [403, 200, 403, 403]),
        ("READ_ACP", [403, 403, 200, 403]),
        ("WRITE_ACP", [403, 403, 403, 200]),
        ("FULL_CONTROL", [200, 200, 200, 200]),
    ] {
        grant(permission).await.expect(200, permission);
        for (call, status) in asks().into_iter().zip(expected) {
            call.send().await.expect(status, permission);
        }
    }
    for (permission, expected) in [
        ("READ", [200, 403, 403]),
        ("READ_ACP", [403, 200, 403]),
        ("WRITE_ACP", [403, 403, 200]),
        ("FULL_CONTROL", [200, 200, 200]),
    ] {
        on_object(permission).await.expect(200, permission);
        let calls = [
            other.get("/bucket/k"),
            other.get("/bucket/k?acl"),
            other.put("/bucket/k?acl").header("x-amz-grant-full-control", format!("id={theirs}")),
        ];
        for (call, status) in calls.into_iter().zip(expected) {
            call.send().await.expect(status, permission);
        }
    }
    // The owner has what its policies give it, whatever a list says.
    check(vec![("read", c.get("/bucket/k"), 200), ("list", c.get("/bucket/k?acl"), 200)]).await;
    let policy = r#"{"Version":"2012-10-17","Statement":{"Effect":"Deny","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::bucket/k"}}"#;
    c.put("/bucket?policy").body(policy).send().await.expect(204, "a policy that denies");
    check(vec![("denied although granted", other.get("/bucket/k"), 403)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_lists() {
    let world = World::with_bucket().await;
    let c = &world.root;
    let (mine, theirs) = (world.id(c).await, world.id(&world.stranger).await);
    c.put("/bucket/k").body("1").send().await.expect(200, "object");
    let me = grantee("CanonicalUser", &format!("<ID>{mine}</ID>"));
    let unknown = grantee("CanonicalUser", "<ID>0123</ID>");
    let group = grantee("Group", "<URI>http://acs.amazonaws.com/groups/global/Friends</URI>");
    let email = grantee("AmazonCustomerByEmail", "<EmailAddress>a@b.example</EmailAddress>");
    let many: Vec<_> = (0..101).map(|_| (me.as_str(), "READ")).collect();
    let bodies = [
        ("an unknown id", document(&mine, &[(&unknown, "READ")]), 400, "InvalidArgument"),
        ("an unknown group", document(&mine, &[(&group, "READ")]), 400, "InvalidArgument"),
        ("an e-mail address", document(&mine, &[(&email, "READ")]), 400, "UnresolvableGrantByEmailAddress"),
        ("an unknown permission", document(&mine, &[(&me, "EXECUTE")]), 400, "MalformedACLError"),
        ("another owner", document(&theirs, &[(&me, "READ")]), 403, "AccessDenied"),
        ("too many", document(&mine, &many), 400, "MalformedACLError"),
        ("no XML", "acl".to_owned(), 400, "MalformedXML"),
    ];
    for target in ["/bucket?acl", "/bucket/k?acl"] {
        for (why, body, status, code) in &bodies {
            c.put(target).body(body.clone()).send().await.refused(*status, code, why);
        }
        let rows = [
            ("nothing", c.put(target), "MissingSecurityHeader"),
            ("an unknown name", c.put(target).header("x-amz-acl", "open"), "InvalidArgument"),
            (
                "both",
                c.put(target).header("x-amz-acl", "private").header("x-amz-grant-read", format!("id={theirs}")),
                "InvalidRequest",
            ),
            (
                "a header and a document",
                c.put(target).header("x-amz-acl", "private").body(document(&mine, &[])),
                "UnexpectedContent",
            ),
            ("no grantee", c.put(target).header("x-amz-grant-read", "somebody"), "InvalidArgument"),
            ("an unknown kind", c.put(target).header("x-amz-grant-read", "name=\"x\""), "InvalidArgument"),
            (
                "an e-mail address",
                c.put(target).header("x-amz-grant-read", "emailAddress=\"a@b.example\""),
                "UnresolvableGrantByEmailAddress",
            ),
        ];
        for (why, call, code) in rows {
            call.send().await.refused(400, code, why);
        }
    }
    let everyone = c.put("/bucket/k?acl").header("x-amz-grant-read", format!("uri=\"{EVERYONE}\""));
    everyone.send().await.expect(200, "a group in a header");
    check(vec![("read", world.nobody().get("/bucket/k"), 200)]).await;
    c.put("/bucket/none?acl").header("x-amz-acl", "private").send().await.refused(404, "NoSuchKey", "no object");
    c.get("/bucket/none?acl").send().await.refused(404, "NoSuchKey", "no object");
    c.put("/new").header("x-amz-acl", "open").send().await.refused(
        400,
        "InvalidArgument",
        "a bucket with an unknown list",
    );
    c.get("/new").send().await.refused(404, "NoSuchBucket", "it was not made");
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_objects_are() {
    let world = World::new().await;
    let (c, other) = (&world.root, &world.stranger);
    let (mine, theirs) = (world.id(c).await, world.id(other).await);
    let ownership = |rule: &str| {
        format!("<OwnershipControls><Rule><ObjectOwnership>{rule}</ObjectOwnership></Rule></OwnershipControls>")
    };
    let policy = |bucket: &str| {
        format!(
            r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Principal":{{"AWS":"{}"}},"Action":"s3:*","Resource":["arn:aws:s3:::{bucket}","arn:aws:s3:::{bucket}/*"]}}}}"#,
            world.strange_account
        )
    };
    for (rule, given_is_mine, plain_is_mine) in
        [("ObjectWriter", false, false), ("BucketOwnerPreferred", true, false), ("BucketOwnerEnforced", true, true)]
    {
        let bucket = rule.to_ascii_lowercase();
        c.put(&format!("/{bucket}")).header("x-amz-object-ownership", rule).send().await.expect(200, rule);
        let shown = c.get(&format!("/{bucket}?ownershipControls")).send().await.expect(200, rule);
        assert_eq!(shown.field("ObjectOwnership").as_deref(), Some(rule));
        c.put(&format!("/{bucket}?policy")).body(policy(&bucket)).send().await.expect(204, "lets them in");
        other.put(&format!("/{bucket}/plain")).body("1").send().await.expect(200, "theirs");
        let given = other.put(&format!("/{bucket}/given")).header("x-amz-acl", "bucket-owner-full-control").body("1");
        given.send().await.expect(200, "given");
        for (key, is_mine) in [("plain", plain_is_mine), ("given", given_is_mine)] {
            let target = format!("/{bucket}/{key}");
            let list = other.get(&format!("{target}?acl")).send().await.expect(200, rule).text();
            let owner = list.split_once("<Owner>").unwrap().1;
            assert!(owner.contains(if is_mine { &mine } else { &theirs }), "{rule} {key}: {list}");
            // Of another account's object the bucket's owner sees what its writer grants; it may always delete it.
            let readable = is_mine || key == "given";
            check(vec![
                ("read by the bucket's owner", c.get(&target), if readable { 200 } else { 403 }),
                ("read by its writer", other.get(&target), 200),
                ("delete by the bucket's owner", c.delete(&target), 204),
            ])
            .await;
        }
    }
    let enforced = "/bucketownerenforced";
    for (why, call) in [
        ("a list on writing", c.put(&format!("{enforced}/k")).header("x-amz-acl", "private")),
        ("a grant on writing", c.put(&format!("{enforced}/k")).header("x-amz-grant-read", format!("id={theirs}"))),
        ("an upload's list", c.post(&format!("{enforced}/k?uploads")).header("x-amz-acl", "public-read")),
        ("a bucket's list", c.put(&format!("{enforced}?acl")).header("x-amz-acl", "private")),
        ("an object's list", c.put(&format!("{enforced}/k?acl")).header("x-amz-acl", "private")),
    ] {
        call.send().await.refused(400, "AccessControlListNotSupported", why);
    }
    assert_eq!(grants(&c.get(&format!("{enforced}?acl")).send().await.expect(200, "read")).len(), 1);
    // What was public before is no longer.
    c.put("/later").header("x-amz-acl", "public-read").send().await.expect(200, "a public bucket");
    c.put("/later/k").header("x-amz-acl", "public-read").body("1").send().await.expect(200, "a public object");
    let enforce = || c.put("/later?ownershipControls").body(ownership("BucketOwnerEnforced")).send();
    enforce().await.refused(400, "InvalidBucketAclWithObjectOwnership", "the bucket's list would no longer count");
    c.put("/later?acl").header("x-amz-acl", "private").send().await.expect(200, "private");
    check(vec![("still public", world.nobody().get("/later/k"), 200)]).await;
    enforce().await.expect(200, "enforced");
    check(vec![("public no more", world.nobody().get("/later/k"), 403)]).await;
    c.delete("/later?ownershipControls").send().await.expect(204, "forgotten");
    c.get("/later?ownershipControls").send().await.refused(404, "OwnershipControlsNotFoundError", "gone");
    check(vec![("public again", world.nobody().get("/later/k"), 200)]).await;
    c.put("/later?ownershipControls").body(ownership("Mine")).send().await.refused(400, "MalformedXML", "unknown");
    c.put("/odd").header("x-amz-object-ownership", "Mine").send().await.refused(400, "InvalidArgument", "unknown");
    let both = c.put("/odd").header("x-amz-object-ownership", "BucketOwnerEnforced").header("x-amz-acl", "public-read");
    both.send().await.refused(400, "InvalidBucketAclWithObjectOwnership", "both");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_blocks_public_lists() {
    let world = World::new().await;
    let (c, nobody) = (&world.root, world.nobody());
    c.put("/bucket").header("x-amz-acl", "public-read").send().await.expect(200, "public");
    c.put("/bucket/k").header("x-amz-acl", "public-read").body("1").send().await.expect(200, "public");
    let block = |name: &str| {
        let body = format!("<PublicAccessBlockConfiguration><{name}>true</{name}></PublicAccessBlockConfiguration>");
        c.put("/bucket?publicAccessBlock").body(body).send()
    };
    block("BlockPublicAcls").await.expect(200, "new ones");
    check(vec![("old ones count", nobody.get("/bucket/k"), 200), ("and this", nobody.get("/bucket"), 200)]).await;
    for (why, call) in [
        ("a public object", c.put("/bucket/k2").header("x-amz-acl", "public-read").body("1")),
        ("for the signed", c.put("/bucket/k2").header("x-amz-acl", "authenticated-read").body("1")),
        ("a grant", c.put("/bucket/k2").header("x-amz-grant-read", format!("uri=\"{EVERYONE}\"")).body("1")),
        ("a public bucket", c.put("/bucket?acl").header("x-amz-acl", "public-read-write")),
        ("an object's list", c.put("/bucket/k?acl").header("x-amz-acl", "public-read")),
    ] {
        call.send().await.refused(403, "AccessDenied", why);
    }
    c.put("/bucket/k2").header("x-amz-acl", "private").body("1").send().await.expect(200, "private");
    block("IgnorePublicAcls").await.expect(200, "all of them");
    check(vec![("an object", nobody.get("/bucket/k"), 403), ("the bucket", nobody.get("/bucket"), 403)]).await;
    c.put("/bucket/k3").header("x-amz-acl", "public-read").body("1").send().await.expect(200, "taken, and ignored");
    check(vec![("ignored", nobody.get("/bucket/k3"), 403)]).await;
}
