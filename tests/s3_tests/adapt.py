"""Loaded into pytest beside the suite, which was written for a cloud that asks for less, or for older things.

- The suite's clients of IAM and STS name no region, which no signature can be scoped to.
- ARNs of users and roles of the account of `s3 alt` have no account's number in the suite. They get it on the way there and
  lose it on the way back.
- Uploads by form are signed with Signature Version 2 by the tests themselves, all of them. They are signed once more, with
  Version 4, over the same policy with the fields that Version 4 brings. A signature that was wrong stays wrong.
- Tests of what has nothing to do with signatures (`NOT_OF_SIGNATURES`) configure Version 2 as well; they get Version 4.
- A test that fails leaves its policy with the user of `s3 alt`, and all tests after it would fail because of that.
"""

import base64
import configparser
import datetime
import hashlib
import hmac
import json
import os
from collections import OrderedDict

import boto3
import pytest
import requests

KEPT = "s3"
NOT_OF_SIGNATURES = (
    "test_bucket_create_bad_ua_empty_aws2",
    "test_bucket_create_bad_ua_none_aws2",
    "test_object_create_bad_md5_invalid_garbage_aws2",
    "test_object_create_bad_ua_empty_aws2",
    "test_object_create_bad_ua_none_aws2",
)
ALGORITHM = "AWS4-HMAC-SHA256"

original_client = boto3.client
original_post = requests.post
running = None


def configuration():
    file = configparser.RawConfigParser()
    file.read(os.environ["S3TEST_CONF"])
    return file


def replaced(value, old, new):
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, list):
        return [replaced(item, old, new) for item in value]
    if isinstance(value, dict):
        return {name: replaced(item, old, new) for name, item in value.items()}
    return value


def with_account():
    return f"arn:aws:iam::{os.environ['S3TEST_ALT_ACCOUNT']}:"


def name_account(params, **_):
    return replaced(params, "arn:aws:iam:::", with_account())


def unname_account(parsed, **_):
    for name, value in parsed.items():
        parsed[name] = replaced(value, with_account(), "arn:aws:iam:::")


def client(*arguments, region_name=None, **options):
    config = options.get("config")
    if running in NOT_OF_SIGNATURES and config is not None and config.signature_version == "s3":
        config.signature_version = "s3v4"
    made = original_client(*arguments, region_name=region_name or os.environ["AWS_DEFAULT_REGION"], **options)
    made.meta.events.register("provide-client-params.*", name_account)
    if arguments[:1] == ("iam",) or options.get("service_name") == "iam":
        made.meta.events.register("after-call.iam.*", unname_account)
    return made


def secret_of(access_key):
    sections = configuration()
    for section in sections.sections():
        if sections[section].get("access_key") == access_key:
            return sections[section]["secret_key"]
    return None


def as_bytes(value):
    return value.encode() if isinstance(value, str) else value


def signature_of(secret, scope, policy):
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, policy, hashlib.sha256).hexdigest()


def signed_again(fields):
    """The form with a signature of Version 4, if it had one of Version 2."""
    named = {name.lower(): name for name in fields}
    if not {"awsaccesskeyid", "signature", "policy"} <= set(named):
        return fields
    access_key = as_bytes(fields[named["awsaccesskeyid"]]).decode()
    old, policy = as_bytes(fields[named["signature"]]), as_bytes(fields[named["policy"]])
    try:
        document = json.loads(base64.b64decode(policy))
    except ValueError:
        return fields
    secret = secret_of(access_key) or "unknown"
    right = hmac.compare_digest(base64.b64encode(hmac.new(secret.encode(), policy, hashlib.sha1).digest()), old)
    now = datetime.datetime.now(datetime.timezone.utc)
    scope = f"{now:%Y%m%d}/{os.environ['AWS_DEFAULT_REGION']}/s3/aws4_request"
    added = {
        "x-amz-algorithm": ALGORITHM,
        "x-amz-credential": f"{access_key}/{scope}",
        "x-amz-date": f"{now:%Y%m%dT%H%M%SZ}",
    }
    if isinstance(document.get("conditions"), list):
        document["conditions"] += [{name: value} for name, value in added.items()]
        policy = base64.b64encode(json.dumps(document).encode())
    signature = signature_of(secret, scope, policy)
    changed = OrderedDict()
    for name, value in fields.items():
        if name == named["awsaccesskeyid"]:
            changed.update(added)
        elif name == named["signature"]:
            changed["x-amz-signature"] = signature if right else signature[::-1]
        else:
            changed[name] = policy if name == named["policy"] else value
    return changed


def post(url, *arguments, files=None, **options):
    if isinstance(files, dict):
        files = signed_again(files)
    return original_post(url, *arguments, files=files, **options)


boto3.client = client
requests.post = post


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    global running
    running = item.name


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item):
    if not item.get_closest_marker("user_policy"):
        return
    file = configuration()
    iam = client(
        "iam",
        endpoint_url=f"http://{file['DEFAULT']['host']}:{file['DEFAULT']['port']}",
        aws_access_key_id=file["iam"]["access_key"],
        aws_secret_access_key=file["iam"]["secret_key"],
    )
    user = file["s3 alt"]["user_id"]
    for name in iam.list_user_policies(UserName=user)["PolicyNames"]:
        if name != KEPT:
            iam.delete_user_policy(UserName=user, PolicyName=name)
