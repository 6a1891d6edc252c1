"""Loaded into pytest beside the suite, which was written for a cloud that asks for less.

- The suite's clients of IAM and STS name no region, which no signature can be scoped to.
- A test that fails leaves its policy with the user of `s3 alt`, and all tests after it would fail because of that.
"""

import configparser
import os

import boto3
import pytest

KEPT = "s3"
original = boto3.client


def client(*arguments, region_name=None, **options):
    return original(*arguments, region_name=region_name or os.environ["AWS_DEFAULT_REGION"], **options)


boto3.client = client


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item):
    if not item.get_closest_marker("user_policy"):
        return
    file = configparser.RawConfigParser()
    file.read(os.environ["S3TEST_CONF"])
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
