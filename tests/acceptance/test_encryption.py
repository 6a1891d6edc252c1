"""S3's server-side encryption with boto3: the store's keys, the client's, what a bucket asks for, presigned and by form."""

import base64
import hashlib
import io
import json
import os
import random

import pytest
import urllib3
from errors import refused

MIB = 1 << 20


@pytest.fixture
def bucket(shared_cloud):
    name = f"sealed-{random.randrange(1 << 40):x}"
    shared_cloud.client("s3").create_bucket(Bucket=name)
    return name


def own_key(byte):
    """boto3 adds the key's MD5."""
    return {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": bytes([byte]) * 32}


def as_source(key):
    return {f"CopySource{name}": value for name, value in key.items()}


def default(algorithm, **more):
    return {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": algorithm} | more}]}


def on_disk(cloud, needle):
    """Whether these bytes stand in any file of the objects, the index and its log included."""
    folder = cloud.data_dir / "objects"
    return any(needle in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_the_store_encrypts_on_request_and_by_default(shared_cloud, bucket):
    s3 = shared_cloud.client("s3")
    name = {"Bucket": bucket}
    refused("ServerSideEncryptionConfigurationNotFoundError", s3.get_bucket_encryption, status=404, **name)
    body = os.urandom(3 * MIB)
    written = s3.put_object(**name, Key="asked", Body=body, ServerSideEncryption="AES256")
    assert written["ServerSideEncryption"] == "AES256"
    assert "ServerSideEncryption" not in s3.put_object(**name, Key="plain", Body=b"x")
    s3.put_bucket_encryption(**name, ServerSideEncryptionConfiguration=default("AES256"))
    rules = s3.get_bucket_encryption(**name)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rules[0]["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    s3.upload_fileobj(io.BytesIO(body * 6), bucket, "parts")
    assert s3.head_object(**name, Key="parts")["ServerSideEncryption"] == "AES256"
    assert s3.get_object(**name, Key="parts")["Body"].read() == body * 6
    part = s3.get_object(**name, Key="asked", Range="bytes=65530-131080")
    assert part["Body"].read() == body[65530:131081]
    for configuration, code in [
        (default("AES128"), "MalformedXML"),
        ({"Rules": []}, "MalformedXML"),
        (default("AES256", KMSMasterKeyID="k"), "InvalidArgument"),
        (default("aws:kms:dsse"), "NotImplemented"),
    ]:
        refused(code, s3.put_bucket_encryption, **name, ServerSideEncryptionConfiguration=configuration)
    s3.delete_bucket_encryption(**name)
    assert "ServerSideEncryption" not in s3.put_object(**name, Key="plain", Body=b"x")
    refused("InvalidArgument", s3.put_object, **name, Key="k", Body=b"x", ServerSideEncryption="AES192")
    refused("NotImplemented", s3.put_object, **name, Key="k", Body=b"x", ServerSideEncryption="aws:kms:dsse")


def test_the_clients_own_keys(shared_cloud, bucket):
    s3 = shared_cloud.client("s3")
    name = {"Bucket": bucket, "Key": "k"}
    body = os.urandom(MIB)
    s3.put_object(**name, Body=body, **own_key(1))
    assert s3.get_object(**name, **own_key(1))["Body"].read() == body
    assert s3.head_object(**name, **own_key(1))["SSECustomerAlgorithm"] == "AES256"
    refused("InvalidRequest", s3.get_object, status=400, **name)
    refused("AccessDenied", s3.get_object, status=403, **name, **own_key(2))
    # For this call boto3 leaves the encoding to its caller.
    key = own_key(1)["SSECustomerKey"]
    digest = base64.b64encode(hashlib.md5(key).digest()).decode()
    encoded = own_key(1) | {"SSECustomerKey": base64.b64encode(key).decode(), "SSECustomerKeyMD5": digest}
    attributes = s3.get_object_attributes(**name, ObjectAttributes=["ETag", "ObjectSize"], **encoded)
    assert attributes["ObjectSize"] == MIB
    refused("InvalidRequest", s3.get_object_attributes, **name, ObjectAttributes=["ETag"])
    copy = {"Bucket": bucket, "Key": "copy", "CopySource": name}
    refused("InvalidRequest", s3.copy_object, **copy, **own_key(2))
    s3.copy_object(**copy, **own_key(2), **as_source(own_key(1)))
    assert s3.get_object(Bucket=bucket, Key="copy", **own_key(2))["Body"].read() == body
    s3.upload_fileobj(io.BytesIO(body * 17), bucket, "parts", ExtraArgs=own_key(3))
    assert s3.get_object(Bucket=bucket, Key="parts", **own_key(3))["Body"].read() == body * 17
    for wrong, code in [
        ({"SSECustomerAlgorithm": "AES256", "SSECustomerKey": b"short"}, "InvalidArgument"),
        ({"SSECustomerAlgorithm": "AES128", "SSECustomerKey": b"x" * 32}, "InvalidEncryptionAlgorithmError"),
        (own_key(1) | {"SSECustomerKeyMD5": "1B2M2Y8AsgTpgAmY7PhCfg=="}, "InvalidArgument"),
        (own_key(1) | {"ServerSideEncryption": "AES256"}, "InvalidArgument"),
    ]:
        refused(code, s3.put_object, status=400, **name, Body=b"x", **wrong)
    assert s3.get_object(**name, **own_key(1))["Body"].read() == body


def test_a_policy_asks_for_encryption(shared_cloud, bucket):
    s3 = shared_cloud.client("s3")
    statement = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:PutObject",
        "Resource": f"arn:aws:s3:::{bucket}/*",
        "Condition": {"StringNotEquals": {"s3:x-amz-server-side-encryption": "AES256"}},
    }
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    refused("AccessDenied", s3.put_object, status=403, Bucket=bucket, Key="k", Body=b"x")
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ServerSideEncryption="AES256")


def test_presigned_and_by_form(shared_cloud, bucket):
    s3 = shared_cloud.client("s3", signature_version="s3v4")
    http = urllib3.PoolManager()
    parameters = {"Bucket": bucket, "Key": "presigned", "ServerSideEncryption": "AES256"}
    url = s3.generate_presigned_url("put_object", Params=parameters)
    put = http.request("PUT", url, body=b"x", headers={"x-amz-server-side-encryption": "AES256"})
    assert (put.status, put.headers["x-amz-server-side-encryption"]) == (200, "AES256"), put.data
    assert s3.head_object(Bucket=bucket, Key="presigned")["ServerSideEncryption"] == "AES256"
    fields = {"x-amz-server-side-encryption": "AES256"}
    form = s3.generate_presigned_post(bucket, "formed", Fields=fields, Conditions=[fields])
    sent = http.request("POST", form["url"], fields=form["fields"] | {"file": ("f", b"by form")})
    assert sent.status == 204, sent.data
    read = s3.get_object(Bucket=bucket, Key="formed")
    assert (read["ServerSideEncryption"], read["Body"].read()) == ("AES256", b"by form")


def test_keys_of_kms_that_are_not_there(shared_cloud, bucket):
    s3 = shared_cloud.client("s3")
    kms = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "00000000-0000-0000-0000-000000000000"}
    name = {"Bucket": bucket, "Key": "k"}
    refused("KMS.NotFoundException", s3.put_object, status=400, **name, Body=b"x", **kms)
    refused("KMS.NotFoundException", s3.create_multipart_upload, status=400, **name, **kms)
    configuration = default("aws:kms", KMSMasterKeyID=kms["SSEKMSKeyId"])
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=configuration)
    refused("KMS.NotFoundException", s3.put_object, status=400, **name, Body=b"x")
    refused("NoSuchKey", s3.get_object, status=404, **name)
    refused("InvalidArgument", s3.put_object, **name, Body=b"x", SSEKMSKeyId=kms["SSEKMSKeyId"])


@pytest.fixture
def key_arn(shared_cloud):
    return shared_cloud.client("kms").create_key()["KeyMetadata"]["Arn"]


def test_with_keys_of_kms(shared_cloud, bucket, key_arn):
    s3, kms = shared_cloud.client("s3"), shared_cloud.client("kms")
    sealed = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key_arn}
    name = {"Bucket": bucket, "Key": "k"}
    body = os.urandom(MIB)
    for written in (s3.put_object(**name, Body=body, **sealed), s3.head_object(**name), s3.get_object(**name)):
        assert (written["ServerSideEncryption"], written["SSEKMSKeyId"]) == ("aws:kms", key_arn)
    assert s3.get_object(**name)["Body"].read() == body
    s3.upload_fileobj(io.BytesIO(body * 17), bucket, "parts", ExtraArgs=sealed)
    assert s3.get_object(Bucket=bucket, Key="parts")["Body"].read() == body * 17
    s3.put_bucket_encryption(
        Bucket=bucket, ServerSideEncryptionConfiguration=default("aws:kms", KMSMasterKeyID=key_arn)
    )
    assert s3.put_object(Bucket=bucket, Key="default", Body=b"x")["SSEKMSKeyId"] == key_arn
    # Without the permission of the key an object is only ciphertext.
    tenant = shared_cloud.account(f"of-{bucket}")
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": tenant["account_id"]},
        "Action": "s3:*",
        "Resource": f"arn:aws:s3:::{bucket}/*",
    }
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    theirs = shared_cloud.client("s3", tenant["access_key_id"], tenant["secret_access_key"])
    assert theirs.head_object(**name)["SSEKMSKeyId"] == key_arn
    refused("AccessDenied", theirs.get_object, status=403, **name)
    kms.disable_key(KeyId=key_arn)
    refused("KMS.DisabledException", s3.get_object, status=400, **name)
    refused("KMS.DisabledException", s3.put_object, status=400, Bucket=bucket, Key="no", Body=b"x")
    kms.enable_key(KeyId=key_arn)
    assert s3.get_object(**name)["Body"].read() == body
    # The account's own key for S3.
    own = s3.put_object(Bucket=bucket, Key="own", Body=b"x", ServerSideEncryption="aws:kms")
    assert own["SSEKMSKeyId"].startswith("arn:aws:kms:") and own["SSEKMSKeyId"] != key_arn
    assert s3.get_object(Bucket=bucket, Key="own")["Body"].read() == b"x"


def test_nothing_encrypted_is_on_the_disk_in_the_clear(shared_cloud, bucket):
    s3 = shared_cloud.client("s3")
    for size in (100, MIB):
        for key, more in {"plain": {}, "store": {"ServerSideEncryption": "AES256"}, "own": own_key(7)}.items():
            canary = f"canary {bucket} {key} {size}".encode()
            s3.put_object(Bucket=bucket, Key=f"{key}-{size}", Body=canary * (size // len(canary) + 1), **more)
            assert on_disk(shared_cloud, canary) == (key == "plain"), f"{key} of {size} bytes"
    assert not on_disk(shared_cloud, own_key(7)["SSECustomerKey"])
