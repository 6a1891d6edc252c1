//! Pages of other sites: rules, what browsers ask beforehand, and what answers say to them.

use crate::harness::{Answer, World, send};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;

const RULES: &str = "<CORSConfiguration>\
    <CORSRule><ID>one</ID><AllowedOrigin>https://app.example</AllowedOrigin><AllowedMethod>GET</AllowedMethod>\
    <AllowedMethod>PUT</AllowedMethod><AllowedHeader>x-amz-*</AllowedHeader><ExposeHeader>etag</ExposeHeader>\
    <MaxAgeSeconds>60</MaxAgeSeconds></CORSRule>\
    <CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>HEAD</AllowedMethod></CORSRule>\
    </CORSConfiguration>";

async fn asks(world: &World, target: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(Method::OPTIONS).uri(target).header("host", "127.0.0.1:9000");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(&world.front, request.body(Full::new(Bytes::new())).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_kept_and_checked() {
    let world = World::with_bucket().await;
    let c = &world.root;
    c.put("/bucket?cors").body(RULES).send().await.expect(200, "rules");
    let read = c.get("/bucket?cors").send().await.expect(200, "read back").text();
    for part in ["<ID>one</ID>", "<AllowedHeader>x-amz-*</AllowedHeader>", "<MaxAgeSeconds>60</MaxAgeSeconds>"] {
        assert!(read.contains(part), "{read}");
    }
    let rule = |inner: &str| format!("<CORSConfiguration><CORSRule>{inner}</CORSRule></CORSConfiguration>");
    let origin = "<AllowedOrigin>https://a.example</AllowedOrigin>";
    let get = "<AllowedMethod>GET</AllowedMethod>";
    let rows = [
        (rule(&format!("{origin}<AllowedMethod>PATCH</AllowedMethod>")), "InvalidRequest"),
        (rule(&format!("{origin}<AllowedMethod>get</AllowedMethod>")), "InvalidRequest"),
        (rule(&format!("<AllowedOrigin>http://*.*</AllowedOrigin>{get}")), "InvalidRequest"),
        (rule(&format!("{origin}{get}<AllowedHeader>*-*</AllowedHeader>")), "InvalidRequest"),
        (rule(&format!("{origin}{get}<ExposeHeader>*</ExposeHeader>")), "InvalidRequest"),
        (rule(&format!("{origin}{get}<MaxAgeSeconds>-1</MaxAgeSeconds>")), "MalformedXML"),
        (rule(origin), "MalformedXML"),
        (rule(get), "MalformedXML"),
        ("<CORSConfiguration></CORSConfiguration>".to_owned(), "MalformedXML"),
        (rule(&format!("{origin}{get}")).repeat(2), "MalformedXML"),
        ("not XML".to_owned(), "MalformedXML"),
        (
            format!(
                "<CORSConfiguration>{}</CORSConfiguration>",
                format!("<CORSRule>{origin}{get}</CORSRule>").repeat(101)
            ),
            "MalformedXML",
        ),
    ];
    for (body, code) in rows {
        c.put("/bucket?cors").body(body.clone()).send().await.refused(400, code, &body);
    }
    let wrong = c.put("/bucket?cors").header("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==").body(RULES);
    wrong.send().await.refused(400, "BadDigest", "a document is compared with its digest");
    assert_eq!(c.get("/bucket?cors").send().await.text(), read, "nothing of that has changed anything");
    let user = world.user("reader", r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:GetBucketCORS","Resource":"arn:aws:s3:::bucket"}}"#).await;
    user.get("/bucket?cors").send().await.expect(200, "may read");
    user.put("/bucket?cors").body(RULES).send().await.refused(403, "AccessDenied", "may not write");
    user.delete("/bucket?cors").send().await.refused(403, "AccessDenied", "may not delete");
    c.delete("/bucket?cors").send().await.expect(204, "deleted");
    c.delete("/bucket?cors").send().await.expect(204, "again");
    c.get("/bucket?cors").send().await.refused(404, "NoSuchCORSConfiguration", "gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_browsers_ask_beforehand() {
    let world = World::with_bucket().await;
    let app = ("origin", "https://app.example");
    let put = ("access-control-request-method", "PUT");
    asks(&world, "/bucket/k", &[app, put]).await.refused(403, "AccessForbidden", "no rules");
    world.root.put("/bucket?cors").body(RULES).send().await.expect(200, "rules");
    let headers = ("access-control-request-headers", "X-Amz-Date, x-amz-content-sha256");
    let allowed = asks(&world, "/bucket/k", &[app, put, headers]).await.expect(200, "allowed");
    for (name, value) in [
        ("access-control-allow-origin", "https://app.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "GET, PUT"),
        ("access-control-allow-headers", "x-amz-date, x-amz-content-sha256"),
        ("access-control-expose-headers", "etag"),
        ("access-control-max-age", "60"),
    ] {
        assert_eq!(allowed.header(name), value, "{name}");
    }
    let head = ("access-control-request-method", "HEAD");
    let anyone = asks(&world, "/bucket/", &[("origin", "null"), head]).await.expect(200, "every origin");
    assert_eq!(anyone.header("access-control-allow-origin"), "*");
    assert_eq!(anyone.header("access-control-allow-credentials"), "");
    let at_host = [app, put, ("host", "bucket.s3.test")];
    let mut by_host = Request::builder().method(Method::OPTIONS).uri("/k");
    for (name, value) in at_host {
        by_host = by_host.header(name, value);
    }
    send(&world.front, by_host.body(Full::new(Bytes::new())).unwrap()).await.expect(200, "a bucket in the host's name");
    let rows: &[(&str, &[(&str, &str)], u16, &str)] = &[
        ("no origin", &[put], 400, "BadRequest"),
        ("no method", &[app], 400, "BadRequest"),
        ("not a method", &[app, ("access-control-request-method", "FETCH")], 400, "BadRequest"),
        ("another origin", &[("origin", "https://other.example"), put], 403, "AccessForbidden"),
        ("another method", &[app, ("access-control-request-method", "DELETE")], 403, "AccessForbidden"),
        ("another header", &[app, put, ("access-control-request-headers", "range")], 403, "AccessForbidden"),
    ];
    for (why, headers, status, code) in rows {
        let refused = asks(&world, "/bucket/k", headers).await.refused(*status, code, why);
        assert_eq!(refused.header("access-control-allow-origin"), "", "{why}");
    }
    asks(&world, "/absent/k", &[app, put]).await.refused(403, "AccessForbidden", "no such bucket");
    asks(&world, "/", &[app, put]).await.refused(403, "AccessForbidden", "no bucket");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_answers_say() {
    let world = World::with_bucket().await;
    let c = &world.root;
    c.put("/bucket?cors").body(RULES).send().await.expect(200, "rules");
    c.put("/bucket/k").body("1").send().await.expect(200, "object");
    let from = |origin: &'static str, call: crate::harness::Call| call.header("origin", origin).send();
    let read = from("https://app.example", c.get("/bucket/k")).await.expect(200, "allowed");
    assert_eq!(read.header("access-control-allow-origin"), "https://app.example");
    assert_eq!(read.header("access-control-expose-headers"), "etag");
    assert!(read.header("vary").contains("Origin"));
    let missing = from("https://app.example", c.get("/bucket/none")).await.refused(404, "NoSuchKey", "errors, too");
    assert_eq!(missing.header("access-control-allow-origin"), "https://app.example");
    for (origin, call) in
        [("https://other.example", c.get("/bucket/k")), ("https://app.example", c.delete("/bucket/k2"))]
    {
        let answer = from(origin, call).await;
        assert_eq!(answer.header("access-control-allow-origin"), "", "{origin}: {}", answer.what);
    }
    let plain = c.get("/bucket/k").send().await;
    assert_eq!(plain.header("access-control-allow-origin"), "", "nobody asked");
}
