"""Versions, locks and lifecycle rules through boto3; `terroir objects` on a cloud that runs and on one that is down."""

import json
import os
import sqlite3
from datetime import UTC, datetime, timedelta

import botocore.exceptions
import pytest
from cloud import Cloud
from errors import refused
from waiting import until

BLOCK = 256 << 10


def test_versions_as_boto3_sees_them(shared_cloud):
    s3 = shared_cloud.client("s3")
    s3.create_bucket(Bucket="versions")
    s3.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    bodies = {}
    for number in range(7):
        answer = s3.put_object(Bucket="versions", Key="a/b c", Body=f"body {number}".encode())
        bodies[answer["VersionId"]] = f"body {number}".encode()
    assert s3.delete_object(Bucket="versions", Key="a/b c")["DeleteMarker"] is True
    with pytest.raises(botocore.exceptions.ClientError) as error:
        s3.get_object(Bucket="versions", Key="a/b c")
    headers = error.value.response["ResponseMetadata"]["HTTPHeaders"]
    assert (error.value.response["Error"]["Code"], headers["x-amz-delete-marker"]) == ("NoSuchKey", "true")
    pages = list(
        s3.get_paginator("list_object_versions").paginate(Bucket="versions", PaginationConfig={"PageSize": 3})
    )
    listed = [version for page in pages for version in page.get("Versions", [])]
    markers = [marker for page in pages for marker in page.get("DeleteMarkers", [])]
    assert len(pages) == 3 and [version["VersionId"] for version in listed] == list(reversed(bodies))
    assert [marker["IsLatest"] for marker in markers] == [True] and not any(v["IsLatest"] for v in listed)
    for version, body in bodies.items():
        assert s3.get_object(Bucket="versions", Key="a/b c", VersionId=version)["Body"].read() == body
    named = [{"Key": "a/b c", "VersionId": item["VersionId"]} for item in [*listed, *markers]]
    answer = s3.delete_objects(Bucket="versions", Delete={"Objects": named})
    assert len(answer["Deleted"]) == 8 and "Errors" not in answer
    s3.delete_bucket(Bucket="versions")


def test_locks_as_boto3_sees_them(shared_cloud):
    s3 = shared_cloud.client("s3")
    s3.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
    s3.put_object_lock_configuration(
        Bucket="locked", ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    version = s3.put_object(Bucket="locked", Key="k", Body=b"x")["VersionId"]
    until_date = s3.get_object_retention(Bucket="locked", Key="k")["Retention"]["RetainUntilDate"]
    assert timedelta(hours=23) < until_date - datetime.now(UTC) <= timedelta(days=1)
    refused("AccessDenied", s3.delete_object, Bucket="locked", Key="k", VersionId=version)
    s3.put_object_legal_hold(Bucket="locked", Key="k", LegalHold={"Status": "ON"})
    bypass = {"Bucket": "locked", "Key": "k", "VersionId": version, "BypassGovernanceRetention": True}
    refused("AccessDenied", s3.delete_object, **bypass)
    assert s3.head_object(Bucket="locked", Key="k")["ObjectLockLegalHoldStatus"] == "ON"
    s3.put_object_legal_hold(Bucket="locked", Key="k", LegalHold={"Status": "OFF"})
    s3.delete_object(**bypass)


def test_lifecycle_rules_with_short_days():
    """A day has three seconds here; the server's own clock counts them."""
    cloud = Cloud("simulated")
    (cloud.data_dir / "terroir.toml").write_text("lifecycle_day_secs = 3\n")
    try:
        s3 = cloud.start().client("s3")
        s3.create_bucket(Bucket="ends")
        rules = [
            {"ID": "logs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 1}},
            {
                "ID": "uploads",
                "Status": "Enabled",
                "Filter": {"Prefix": ""},
                "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
            },
        ]
        s3.put_bucket_lifecycle_configuration(Bucket="ends", LifecycleConfiguration={"Rules": rules})
        answer = s3.put_object(Bucket="ends", Key="logs/1", Body=b"x")
        assert 'rule-id="logs"' in answer["Expiration"]
        s3.put_object(Bucket="ends", Key="stays", Body=b"x")
        s3.create_multipart_upload(Bucket="ends", Key="upload")
        keys = lambda: [found["Key"] for found in s3.list_objects_v2(Bucket="ends").get("Contents", [])]  # noqa: E731
        until("it ended", lambda: keys() == ["stays"], 60)
        until("the upload ended", lambda: "Uploads" not in s3.list_multipart_uploads(Bucket="ends"), 60)
    finally:
        cloud.destroy()


def test_the_operator_asks_whether_objects_are_whole(cloud):
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="whole")
    body = os.urandom(3 * BLOCK)
    s3.put_object(Bucket="whole", Key="good", Body=body)
    s3.put_object(Bucket="whole", Key="spoilt", Body=body)
    s3.put_object(Bucket="whole", Key="small", Body=b"small")
    stats = json.loads(cloud.terroir("objects", "stats", "--json").stdout)
    assert (stats["objects"], stats["bytes"], stats["damaged"]) == (3, 6 * BLOCK + 5, 0)
    assert "objects               3" in cloud.terroir("objects", "stats").stdout
    report = json.loads(cloud.terroir("objects", "verify", "--json").stdout)
    assert (report["found"], report["contents"]) == (0, 3)

    index = cloud.data_dir / "objects/index.sqlite"
    with sqlite3.connect(index) as opened:
        [[content]] = opened.execute("SELECT content FROM object WHERE key = CAST('spoilt' AS BLOB)").fetchall()
    path = cloud.data_dir / f"objects/files/{content % 256:02x}/{content:016x}"
    with path.open("r+b") as file:
        file.seek(BLOCK + 5)
        byte = file.read(1)
        file.seek(BLOCK + 5)
        file.write(bytes([byte[0] ^ 1]))
    refused("InternalError", s3.get_object, Bucket="whole", Key="spoilt", Range=f"bytes={BLOCK}-{BLOCK}")
    assert s3.get_object(Bucket="whole", Key="spoilt", Range="bytes=0-9")["Body"].read() == body[:10]
    assert s3.get_object(Bucket="whole", Key="good")["Body"].read() == body

    done = cloud.terroir("objects", "verify", check=False)
    assert done.returncode == 1 and "damaged: whole/spoilt version null: " in done.stdout, done.stdout
    assert any("1 objects or parts of objects are damaged" in problem for problem in cloud.status()["problems"])
    done = cloud.terroir("objects", "repair", "--json", check=False)
    report = json.loads(done.stdout)
    assert (done.returncode, report["found"], report["repaired"]) == (1, 1, 0)
    s3.put_object(Bucket="whole", Key="spoilt", Body=body)
    assert cloud.terroir("objects", "verify").returncode == 0

    # The same of a cloud that is down; what the command makes there stays the server's.
    cloud.stop()
    report = json.loads(cloud.terroir("objects", "verify", "--json").stdout)
    assert (report["found"], report["contents"]) == (0, 3)
    assert "objects               3" in cloud.terroir("objects", "stats").stdout
    cloud.start()
    assert cloud.client("s3").get_object(Bucket="whole", Key="spoilt")["Body"].read() == body
    cloud.client("s3").put_object(Bucket="whole", Key="new", Body=b"x")
