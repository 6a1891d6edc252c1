"""S3 beyond reading and writing, with boto3: who is let in, websites, forms, rules for browsers, tags, quotas."""

import json
import random

import pytest
import urllib3
from botocore import UNSIGNED
from errors import refused

PUBLIC = "http://acs.amazonaws.com/groups/global/AllUsers"


@pytest.fixture
def bucket(shared_cloud):
    name = f"surface-{random.randrange(1 << 40):x}"
    shared_cloud.client("s3").create_bucket(Bucket=name)
    return name


def policy(*statements):
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(bucket, principal, *actions, **more):
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    return {"Effect": "Allow", "Principal": principal, "Action": list(actions), "Resource": resources} | more


def test_a_policy_lets_in_whom_it_names(shared_cloud, bucket):
    s3 = shared_cloud.client("s3")
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    tenant = shared_cloud.account(f"of-{bucket}")
    theirs = shared_cloud.client("s3", tenant["access_key_id"], tenant["secret_access_key"])
    nobody = shared_cloud.client("s3", signature_version=UNSIGNED)
    key = {"Bucket": bucket, "Key": "k"}
    refused("NoSuchBucketPolicy", s3.get_bucket_policy, Bucket=bucket)
    for client in (theirs, nobody):
        refused("AccessDenied", client.get_object, status=403, **key)
    text = policy(allow(bucket, {"AWS": tenant["account_id"]}, "s3:GetObject"))
    s3.put_bucket_policy(Bucket=bucket, Policy=text)
    assert s3.get_bucket_policy(Bucket=bucket)["Policy"] == text
    assert theirs.get_object(**key)["Body"].read() == b"1"
    refused("AccessDenied", theirs.put_object, **key, Body=b"2")
    refused("AccessDenied", nobody.get_object, **key)
    assert s3.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"] is False
    s3.put_bucket_policy(Bucket=bucket, Policy=policy(allow(bucket, "*", "s3:GetObject")))
    assert s3.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"] is True
    assert nobody.get_object(**key)["Body"].read() == b"1"
    refused("AccessDenied", nobody.list_objects_v2, Bucket=bucket)
    block = {"RestrictPublicBuckets": True, "BlockPublicPolicy": True}
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=block)
    refused("AccessDenied", nobody.get_object, **key)
    refused("AccessDenied", s3.put_bucket_policy, Bucket=bucket, Policy=policy(allow(bucket, "*", "s3:*")))
    for text in ("", "{}", policy(allow("another", "*", "s3:GetObject")), policy(allow(bucket, {"AWS": "x"}, "s3:*"))):
        refused("MalformedPolicy", s3.put_bucket_policy, status=400, Bucket=bucket, Policy=text)


def test_lists_and_ownership(shared_cloud, bucket):
    s3 = shared_cloud.client("s3")
    nobody = shared_cloud.client("s3", signature_version=UNSIGNED)
    s3.put_object(Bucket=bucket, Key="k", Body=b"1", ACL="public-read")
    assert nobody.get_object(Bucket=bucket, Key="k")["Body"].read() == b"1"
    grants = s3.get_object_acl(Bucket=bucket, Key="k")["Grants"]
    assert {grant["Permission"] for grant in grants if grant["Grantee"].get("URI") == PUBLIC} == {"READ"}
    owner = s3.get_bucket_acl(Bucket=bucket)["Owner"]
    everyone = {"Grantee": {"Type": "Group", "URI": PUBLIC}, "Permission": "READ"}
    s3.put_bucket_acl(Bucket=bucket, AccessControlPolicy={"Owner": owner, "Grants": [everyone]})
    assert [entry["Key"] for entry in nobody.list_objects_v2(Bucket=bucket)["Contents"]] == ["k"]
    enforced = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    refused("InvalidBucketAclWithObjectOwnership", s3.put_bucket_ownership_controls, Bucket=bucket, OwnershipControls=enforced)
    s3.put_bucket_acl(Bucket=bucket, ACL="private")
    s3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=enforced)
    refused("AccessDenied", nobody.get_object, Bucket=bucket, Key="k")
    refused("AccessControlListNotSupported", s3.put_object, Bucket=bucket, Key="k", Body=b"", ACL="public-read")
    bad = {"Owner": owner, "Grants": [{"Grantee": {"Type": "CanonicalUser", "ID": "x"}, "Permission": "READ"}]}
    s3.delete_bucket_ownership_controls(Bucket=bucket)
    refused("InvalidArgument", s3.put_bucket_acl, Bucket=bucket, AccessControlPolicy=bad)


def test_a_form_and_what_browsers_ask(shared_cloud, bucket):
    s3 = shared_cloud.client("s3")
    rules = [{"AllowedMethods": ["POST", "GET"], "AllowedOrigins": ["https://app.example"], "AllowedHeaders": ["*"]}]
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": rules})
    assert s3.get_bucket_cors(Bucket=bucket)["CORSRules"] == rules
    origin = {"Origin": "https://app.example"}
    asked = urllib3.request(
        "OPTIONS", f"{shared_cloud.endpoint}/{bucket}", headers=origin | {"Access-Control-Request-Method": "POST"}
    )
    assert (asked.status, asked.headers["access-control-allow-origin"]) == (200, "https://app.example")
    form = s3.generate_presigned_post(
        bucket, "up/${filename}", Fields={"acl": "private"}, Conditions=[{"acl": "private"}, ["content-length-range", 1, 10]]
    )

    def send(body, **fields):
        return urllib3.request(
            "POST", form["url"], fields=form["fields"] | fields | {"file": ("a.txt", body)}, headers=origin, retries=False
        )

    sent = send(b"bytes")
    assert (sent.status, sent.headers["access-control-allow-origin"]) == (204, "https://app.example"), sent.data
    assert s3.get_object(Bucket=bucket, Key="up/a.txt")["Body"].read() == b"bytes"
    for body, fields, status, code in (
        (b"too many bytes", {}, 400, b"EntityTooLarge"),
        (b"", {}, 400, b"EntityTooSmall"),
        (b"1", {"acl": "public-read"}, 403, b"AccessDenied"),
        (b"1", {"key": "elsewhere"}, 403, b"AccessDenied"),
        (b"1", {"x-amz-signature": "0" * 64}, 403, b"SignatureDoesNotMatch"),
    ):
        answer = send(body, **fields)
        assert answer.status == status and code in answer.data, (fields, answer.data)
    refused("InvalidRequest", s3.put_bucket_cors, Bucket=bucket, CORSConfiguration={"CORSRules": [rules[0] | {"AllowedMethods": ["TRACE"]}]})


def test_a_website(shared_cloud, bucket):
    s3 = shared_cloud.client("s3")
    s3.put_bucket_website(
        Bucket=bucket,
        WebsiteConfiguration={"IndexDocument": {"Suffix": "index.html"}, "ErrorDocument": {"Key": "error.html"}},
    )
    for key, text in (("index.html", b"home"), ("docs/index.html", b"docs"), ("error.html", b"sorry")):
        s3.put_object(Bucket=bucket, Key=key, Body=text, ContentType="text/html")
    host = {"Host": f"{bucket}.website.localhost:{shared_cloud.port}"}

    def get(path):
        answer = urllib3.request("GET", f"{shared_cloud.endpoint}{path}", headers=host, redirect=False, retries=False)
        return answer.status, answer.headers.get("location") or answer.data

    assert get("/")[0] == 403, "nobody has made it public"
    s3.put_bucket_policy(Bucket=bucket, Policy=policy(allow(bucket, "*", "s3:GetObject", "s3:ListBucket")))
    assert get("/") == (200, b"home")
    assert get("/docs") == (302, "/docs/")
    assert get("/docs/") == (200, b"docs")
    assert get("/missing") == (404, b"sorry")
    refused("InvalidArgument", s3.put_bucket_website, Bucket=bucket, WebsiteConfiguration={})


def test_tags(shared_cloud, bucket):
    s3 = shared_cloud.client("s3")
    refused("NoSuchTagSet", s3.get_bucket_tagging, Bucket=bucket)
    tags = [{"Key": "team", "Value": "a"}]
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": tags})
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == tags
    s3.put_object(Bucket=bucket, Key="k", Body=b"1", Tagging="colour=red")
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == [{"Key": "colour", "Value": "red"}]
    eleven = [{"Key": str(number), "Value": ""} for number in range(11)]
    refused("BadRequest", s3.put_object_tagging, Bucket=bucket, Key="k", Tagging={"TagSet": eleven})
    twice = [{"Key": "a", "Value": ""}, {"Key": "a", "Value": "b"}]
    refused("InvalidTag", s3.put_object_tagging, Bucket=bucket, Key="k", Tagging={"TagSet": twice})
    refused("InvalidTag", s3.put_bucket_tagging, Bucket=bucket, Tagging={"TagSet": twice})


def test_old_and_meaningless_requests(shared_cloud, bucket):
    old = shared_cloud.client("s3", signature_version="s3")
    refused("InvalidRequest", old.list_objects_v2, contains="AWS4-HMAC-SHA256", Bucket=bucket)
    url = old.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "k"})
    answer = urllib3.request("GET", url, retries=False)
    assert answer.status == 400 and b"AWS4-HMAC-SHA256" in answer.data
    s3 = shared_cloud.client("s3")
    requester = {"Payer": "Requester"}
    refused("NotImplemented", s3.put_bucket_request_payment, Bucket=bucket, RequestPaymentConfiguration=requester)
    assert s3.get_bucket_request_payment(Bucket=bucket)["Payer"] == "BucketOwner"
    accelerated = {"Status": "Enabled"}
    refused("NotImplemented", s3.put_bucket_accelerate_configuration, Bucket=bucket, AccelerateConfiguration=accelerated)


def test_the_operator_limits_what_is_kept(shared_cloud):
    tenant = shared_cloud.account("limited")
    s3 = shared_cloud.client("s3", tenant["access_key_id"], tenant["secret_access_key"])
    s3.create_bucket(Bucket="limited-one")
    number = tenant["account_id"]

    def quota(*arguments, check=True):
        return shared_cloud.terroir("objects", "quota", *arguments, "--account", number, check=check)

    quota("set", "--bucket", "limited-one", "--max-bytes", "1KiB")
    s3.put_object(Bucket="limited-one", Key="a", Body=b"x" * 1000)
    refused("QuotaExceeded", s3.put_object, status=403, Bucket="limited-one", Key="b", Body=b"x" * 25)
    quota("set", "--bucket", "limited-one")
    s3.put_object(Bucket="limited-one", Key="b", Body=b"x" * 25)
    quota("set", "--max-objects", "2")
    refused("QuotaExceeded", s3.put_object, Bucket="limited-one", Key="c", Body=b"")
    account, bucket = json.loads(quota("show", "--json").stdout)
    assert (account["bytes"], account["objects"], account["max_objects"]) == (1025, 2, 2)
    assert (bucket["bucket"], bucket["bytes"], bucket["max_bytes"]) == ("limited-one", 1025, None)
    for arguments in (["set", "--bucket", "absent"], ["set", "--max-bytes", "many"], ["set", "--max-bytes", "99999999PiB"]):
        failed = quota(*arguments, check=False)
        assert failed.returncode != 0 and failed.stderr, arguments
    unknown = shared_cloud.terroir("objects", "quota", "show", "--account", "999999999999", check=False)
    assert unknown.returncode != 0 and "there is no account" in unknown.stderr
