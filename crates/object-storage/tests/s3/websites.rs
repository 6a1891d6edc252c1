//! Websites in buckets.

use crate::harness::{Answer, World, send};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;

const SITE: &str = "<WebsiteConfiguration><IndexDocument><Suffix>index.html</Suffix></IndexDocument>\
    <ErrorDocument><Key>oops.html</Key></ErrorDocument><RoutingRules>\
    <RoutingRule><Condition><KeyPrefixEquals>old/</KeyPrefixEquals></Condition>\
    <Redirect><ReplaceKeyPrefixWith>new/</ReplaceKeyPrefixWith></Redirect></RoutingRule>\
    <RoutingRule><Condition><KeyPrefixEquals>gone/</KeyPrefixEquals><HttpErrorCodeReturnedEquals>404</HttpErrorCodeReturnedEquals></Condition>\
    <Redirect><HostName>archive.example</HostName><Protocol>https</Protocol><HttpRedirectCode>302</HttpRedirectCode></Redirect></RoutingRule>\
    </RoutingRules></WebsiteConfiguration>";

const READ: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::bucket/*"},{"Effect":"Allow","Principal":"*","Action":"s3:ListBucket","Resource":"arn:aws:s3:::bucket"}]}"#;

async fn visit(world: &World, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let host = "bucket.website.test:9000";
    let mut request = Request::builder().method(method).uri(path).header("host", host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(&world.front, request.body(Full::new(Bytes::new())).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_redirects_and_errors() {
    let world = World::with_bucket().await;
    let c = &world.root;
    let get = |path: &'static str| visit(&world, Method::GET, path, &[]);
    get("/").await.expect(404, "no website").text().contains("NoSuchWebsiteConfiguration");
    c.put("/bucket?website").body(SITE).send().await.expect(200, "configured");
    for (key, text) in [("index.html", "home"), ("docs/index.html", "docs"), ("a b.html", "page"), ("x/y", "deep")] {
        let call = c.put(&format!("/bucket/{}", key.replace(' ', "%20"))).header("content-type", "text/html");
        call.body(text).send().await.expect(200, key);
    }
    let moved = c.put("/bucket/moved").header("x-amz-website-redirect-location", "/docs/");
    moved.send().await.expect(200, "an object that is elsewhere");
    let refused = get("/").await.expect(403, "not public yet");
    assert_eq!(refused.header("x-amz-error-code"), "AccessDenied");
    assert_eq!(refused.outcome.error.as_deref(), Some("AccessDenied"), "for the audit log");
    c.put("/bucket?policy").body(READ).send().await.expect(204, "public");
    for (path, text) in [
        ("/", "home"),
        ("/docs/", "docs"),
        ("/index.html", "home"),
        ("/a%20b.html", "page"),
        ("/x/y", "deep"),
        ("/?x=1", "home"),
    ] {
        let page = get(path).await.expect(200, path);
        assert_eq!((page.text().as_str(), page.header("content-type")), (text, "text/html"), "{path}");
    }
    let head = visit(&world, Method::HEAD, "/", &[]).await.expect(200, "head");
    assert!(head.body.is_empty() && head.header("content-length") == "4");
    let etag = head.header("etag").to_owned();
    visit(&world, Method::GET, "/", &[("if-none-match", &etag)]).await.expect(304, "not modified");
    let part = visit(&world, Method::GET, "/", &[("range", "bytes=1-2")]).await.expect(206, "a range");
    assert_eq!(part.text(), "om");
    for (path, status, location) in [
        ("/docs", 302, "/docs/"),
        ("/moved", 301, "/docs/"),
        ("/old/a%20b", 301, "http://bucket.website.test:9000/new/a%20b"),
        ("/gone/x", 302, "https://archive.example/gone/x"),
    ] {
        let answer = get(path).await.expect(status, path);
        assert_eq!(answer.header("location"), location, "{path}");
    }
    let outside = visit(&world, Method::GET, "/", &[("range", "bytes=100-200")]).await.expect(416, "outside");
    assert_eq!(outside.header("x-amz-error-code"), "InvalidRange");
    let plain = get("/%3Cscript%3E").await.expect(404, "missing");
    assert!(
        plain.text().contains("<li>Code: NoSuchKey</li>") && plain.text().contains("&lt;script&gt;"),
        "{}",
        plain.text()
    );
    assert_eq!(plain.header("content-type"), "text/html; charset=utf-8");
    c.put("/bucket/oops.html").header("content-type", "text/html").body("sorry").send().await.expect(200, "error page");
    let custom = get("/missing").await.expect(404, "missing");
    assert_eq!((custom.text().as_str(), custom.outcome.error.as_deref()), ("sorry", Some("NoSuchKey")));
    assert_eq!(custom.header("x-amz-error-code"), "NoSuchKey");
    assert!(visit(&world, Method::HEAD, "/missing", &[]).await.expect(404, "head of one").body.is_empty());
    for method in [Method::PUT, Method::DELETE, Method::POST] {
        let answer = visit(&world, method.clone(), "/index.html", &[]).await.expect(405, method.as_str());
        assert_eq!(answer.header("x-amz-error-code"), "MethodNotAllowed");
    }
    let elsewhere = |host: &'static str| {
        let request = Request::builder().uri("/").header("host", host);
        send(&world.front, request.body(Full::new(Bytes::new())).unwrap())
    };
    assert_eq!(
        elsewhere("absent.website.test").await.expect(404, "no bucket").header("x-amz-error-code"),
        "NoSuchBucket"
    );
    c.put("/bucket?cors").body("<CORSConfiguration><CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod></CORSRule></CORSConfiguration>").send().await.expect(200, "cors");
    let crossed = visit(&world, Method::GET, "/", &[("origin", "https://a.example")]).await.expect(200, "another site");
    assert_eq!(crossed.header("access-control-allow-origin"), "*");
    let from_us = READ.replace(
        r#""Action":"s3:GetObject","#,
        r#""Condition":{"StringLike":{"aws:Referer":"https://us.example/*"}},"Action":"s3:GetObject","#,
    );
    c.put("/bucket?policy").body(from_us).send().await.expect(204, "only from there");
    get("/").await.expect(403, "from nowhere");
    visit(&world, Method::GET, "/", &[("referer", "https://us.example/x")])
        .await
        .expect(200, "policies see the visitor");
    c.delete("/bucket?website").send().await.expect(204, "no longer");
    get("/").await.expect(404, "no website");
    c.get("/bucket?website").send().await.refused(404, "NoSuchWebsiteConfiguration", "gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn configurations_are_kept_and_checked() {
    let world = World::with_bucket().await;
    let c = &world.root;
    c.put("/bucket?website").body(SITE).send().await.expect(200, "written");
    let read = c.get("/bucket?website").send().await.expect(200, "read").text();
    for part in [
        "<Suffix>index.html</Suffix>",
        "<Key>oops.html</Key>",
        "<ReplaceKeyPrefixWith>new/</ReplaceKeyPrefixWith>",
        "<HttpErrorCodeReturnedEquals>404</HttpErrorCodeReturnedEquals>",
        "<Protocol>https</Protocol>",
    ] {
        assert!(read.contains(part), "{part}: {read}");
    }
    let site = |inner: &str| format!("<WebsiteConfiguration>{inner}</WebsiteConfiguration>");
    let rule = |inner: &str| {
        site(&format!(
            "<IndexDocument><Suffix>i</Suffix></IndexDocument><RoutingRules><RoutingRule>{inner}</RoutingRule></RoutingRules>"
        ))
    };
    let rows = [
        (site(""), "InvalidArgument"),
        (site("<IndexDocument><Suffix>a/b</Suffix></IndexDocument>"), "InvalidArgument"),
        (
            site(
                "<IndexDocument><Suffix>i</Suffix></IndexDocument><RedirectAllRequestsTo><HostName>h</HostName></RedirectAllRequestsTo>",
            ),
            "InvalidRequest",
        ),
        (rule("<Redirect/>"), "InvalidRequest"),
        (rule("<Redirect><HttpRedirectCode>200</HttpRedirectCode><HostName>h</HostName></Redirect>"), "InvalidRequest"),
        (
            rule("<Redirect><HttpRedirectCode>many</HttpRedirectCode><HostName>h</HostName></Redirect>"),
            "InvalidRequest",
        ),
        (rule("<Redirect><Protocol>ftp</Protocol></Redirect>"), "InvalidRequest"),
        (
            rule(
                "<Redirect><ReplaceKeyWith>a</ReplaceKeyWith><ReplaceKeyPrefixWith>b</ReplaceKeyPrefixWith></Redirect>",
            ),
            "InvalidRequest",
        ),
        ("no XML".to_owned(), "MalformedXML"),
    ];
    for (body, code) in rows {
        c.put("/bucket?website").body(body.clone()).send().await.refused(400, code, &body);
    }
    assert_eq!(c.get("/bucket?website").send().await.text(), read, "nothing of that has changed anything");
    world.stranger.put("/bucket?website").body(SITE).send().await.refused(403, "AccessDenied", "a stranger");
    let all = site(
        "<RedirectAllRequestsTo><HostName>www.example</HostName><Protocol>https</Protocol></RedirectAllRequestsTo>",
    );
    c.put("/bucket?website").body(all).send().await.expect(200, "everything elsewhere");
    let answer = visit(&world, Method::GET, "/a%20b?x", &[]).await.expect(301, "elsewhere");
    assert_eq!(answer.header("location"), "https://www.example/a%20b");
}
