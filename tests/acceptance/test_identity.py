"""Who may do what: signatures, users, keys and policies, through real clients."""

import datetime
import json

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest
import urllib3
from errors import refused

BUCKET_POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::allowed"},
        {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": "arn:aws:s3:::allowed/*"},
    ],
}


def make_user(cloud, name, policy=None):
    """An IAM user of the root account with a key and one inline policy."""
    iam = cloud.client("iam")
    iam.create_user(UserName=name)
    if policy:
        iam.put_user_policy(UserName=name, PolicyName="inline", PolicyDocument=json.dumps(policy))
    return iam.create_access_key(UserName=name)["AccessKey"]


def allow(*actions, resource="*", effect="Allow"):
    return {"Effect": effect, "Action": list(actions), "Resource": resource}


def policy(*statements):
    return {"Version": "2012-10-17", "Statement": list(statements)}


def test_a_user_with_one_bucket_gets_exactly_that(shared_cloud, tmp_path):
    cloud = shared_cloud
    cloud.aws("s3", "mb", "s3://allowed")
    cloud.aws("s3", "mb", "s3://other")
    text = tmp_path / "text"
    text.write_text("hello")
    cloud.aws("s3", "cp", text, "s3://other/text")
    key = make_user(cloud, "bucket-user", BUCKET_POLICY)
    as_user = {"key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}

    cloud.aws("s3", "cp", text, "s3://allowed/a/text", **as_user)
    assert cloud.aws("s3", "cp", "s3://allowed/a/text", "-", **as_user).stdout == "hello"
    assert "text" in cloud.aws("s3", "ls", "s3://allowed/a/", **as_user).stdout
    for arguments in (
        ["s3", "ls"],
        ["s3", "ls", "s3://other"],
        ["s3", "cp", "s3://other/text", "-"],
        ["s3", "cp", str(text), "s3://other/mine"],
        ["s3", "rm", "s3://allowed/a/text"],
        ["s3", "rb", "s3://allowed"],
        ["s3", "mb", "s3://third"],
        ["ec2", "describe-instances"],
        ["iam", "list-users"],
    ):
        done = cloud.aws(*arguments, check=False, **as_user)
        said = done.stderr + done.stdout
        assert done.returncode != 0, arguments
        # An answer to HEAD has no body, so the CLI knows only the status.
        assert any(word in said for word in ("AccessDenied", "UnauthorizedOperation", "(403)")), (arguments, said)
    assert cloud.aws("s3", "cp", "s3://allowed/a/text", "-").stdout == "hello"


def test_policies_decide_as_aws_documents(shared_cloud):
    """Default deny, allow by wildcard, explicit deny over allow, resources and conditions."""
    cloud = shared_cloud
    region = cloud.environment()["AWS_DEFAULT_REGION"]
    rows = [
        ("nothing", None, False),
        ("exact", policy(allow("ec2:DescribeVpcs")), True),
        ("wildcard", policy(allow("ec2:Describe*")), True),
        ("case", policy(allow("EC2:describevpcs")), True),
        ("everything", policy(allow("*")), True),
        ("other action", policy(allow("ec2:CreateVpc")), False),
        ("deny wins", policy(allow("*"), allow("ec2:DescribeVpcs", effect="Deny")), False),
        ("not action", policy({"Effect": "Allow", "NotAction": "ec2:*", "Resource": "*"}), False),
        (
            "condition holds",
            policy(allow("ec2:*") | {"Condition": {"StringEquals": {"aws:RequestedRegion": region}}}),
            True,
        ),
        (
            "condition fails",
            policy(allow("ec2:*") | {"Condition": {"StringEquals": {"aws:RequestedRegion": "elsewhere"}}}),
            False,
        ),
        ("source address", policy(allow("ec2:*") | {"Condition": {"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}}}), True),
    ]
    for number, (name, document, may) in enumerate(rows):
        key = make_user(cloud, f"row-{number}", document)
        ec2 = cloud.client("ec2", key["AccessKeyId"], key["SecretAccessKey"])
        if may:
            assert ec2.describe_vpcs()["Vpcs"], name
        else:
            refused("UnauthorizedOperation", ec2.describe_vpcs, status=403)


def test_groups_and_managed_policies_reach_users(shared_cloud):
    iam = shared_cloud.client("iam")
    key = make_user(shared_cloud, "member")
    ec2 = shared_cloud.client("ec2", key["AccessKeyId"], key["SecretAccessKey"])
    refused("UnauthorizedOperation", ec2.describe_subnets)
    document = json.dumps(policy(allow("ec2:DescribeSubnets")))
    arn = iam.create_policy(PolicyName="subnets", PolicyDocument=document)["Policy"]["Arn"]
    iam.create_group(GroupName="network")
    iam.attach_group_policy(GroupName="network", PolicyArn=arn)
    iam.add_user_to_group(GroupName="network", UserName="member")
    assert ec2.describe_subnets()["Subnets"]
    iam.remove_user_from_group(GroupName="network", UserName="member")
    refused("UnauthorizedOperation", ec2.describe_subnets)
    iam.attach_user_policy(UserName="member", PolicyArn=arn)
    assert ec2.describe_subnets()["Subnets"]
    refused("DeleteConflict", iam.delete_policy, PolicyArn=arn, status=409)
    refused("DeleteConflict", iam.delete_user, UserName="member", status=409)


def test_a_role_is_assumed_and_its_session_is_limited(shared_cloud):
    iam = shared_cloud.client("iam")
    account = shared_cloud.client("sts").get_caller_identity()["Account"]
    trust = policy(
        {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{account}:root"}, "Action": "sts:AssumeRole"}
    )
    role = iam.create_role(RoleName="reader", AssumeRolePolicyDocument=json.dumps(trust))["Role"]
    document = json.dumps(policy(allow("ec2:DescribeVpcs", "s3:ListAllMyBuckets")))
    iam.put_role_policy(RoleName="reader", PolicyName="read", PolicyDocument=document)
    key = make_user(shared_cloud, "assumer", policy(allow("sts:AssumeRole", resource=role["Arn"])))
    sts = shared_cloud.client("sts", key["AccessKeyId"], key["SecretAccessKey"])
    session = sts.assume_role(RoleArn=role["Arn"], RoleSessionName="one")
    credentials = session["Credentials"]
    parts = credentials["AccessKeyId"], credentials["SecretAccessKey"], credentials["SessionToken"]
    as_role = shared_cloud.client("sts", *parts).get_caller_identity()
    assert as_role["Arn"] == f"arn:aws:sts::{account}:assumed-role/reader/one"
    assert shared_cloud.client("ec2", *parts).describe_vpcs()["Vpcs"]
    shared_cloud.client("s3", *parts).list_buckets()
    refused("UnauthorizedOperation", shared_cloud.client("ec2", *parts).describe_subnets)
    refused("AccessDenied", shared_cloud.client("s3", *parts).create_bucket, Bucket="by-role", status=403)
    # Without its token a session key is nobody's, and with a changed one neither.
    without = parts[:2]
    refused("InvalidClientTokenId", shared_cloud.client("sts", *without).get_caller_identity, status=403)
    broken = (*without, parts[2][:-4] + "AAAA")
    refused("InvalidClientTokenId", shared_cloud.client("sts", *broken).get_caller_identity, status=403)
    stranger = make_user(shared_cloud, "stranger")
    sts = shared_cloud.client("sts", stranger["AccessKeyId"], stranger["SecretAccessKey"])
    refused("AccessDenied", sts.assume_role, RoleArn=role["Arn"], RoleSessionName="two", status=403)


@pytest.mark.parametrize(
    ("service", "call", "unknown", "wrong"),
    [
        ("ec2", lambda client: client.describe_regions(), ("AuthFailure", 401), ("AuthFailure", 401)),
        (
            "sts",
            lambda client: client.get_caller_identity(),
            ("InvalidClientTokenId", 403),
            ("SignatureDoesNotMatch", 403),
        ),
        ("iam", lambda client: client.list_users(), ("InvalidClientTokenId", 403), ("SignatureDoesNotMatch", 403)),
        ("s3", lambda client: client.list_buckets(), ("InvalidAccessKeyId", 403), ("SignatureDoesNotMatch", 403)),
    ],
)
def test_wrong_keys_are_refused_in_each_service_s_words(shared_cloud, service, call, unknown, wrong):
    environment = shared_cloud.environment()
    client = shared_cloud.client(service, key="AKIAAAAAAAAAAAAAAAAA")
    refused(unknown[0], call, client, status=unknown[1])
    client = shared_cloud.client(service, secret=environment["AWS_SECRET_ACCESS_KEY"][::-1])
    refused(wrong[0], call, client, status=wrong[1])


def test_a_deactivated_or_deleted_key_is_nobody_s(shared_cloud):
    iam = shared_cloud.client("iam")
    key = make_user(shared_cloud, "leaver", policy(allow("*")))
    sts = shared_cloud.client("sts", key["AccessKeyId"], key["SecretAccessKey"])
    assert sts.get_caller_identity()["Arn"].endswith("user/leaver")
    iam.update_access_key(UserName="leaver", AccessKeyId=key["AccessKeyId"], Status="Inactive")
    refused("InvalidClientTokenId", sts.get_caller_identity, status=403)
    iam.update_access_key(UserName="leaver", AccessKeyId=key["AccessKeyId"], Status="Active")
    sts.get_caller_identity()
    iam.delete_access_key(UserName="leaver", AccessKeyId=key["AccessKeyId"])
    refused("InvalidClientTokenId", sts.get_caller_identity, status=403)


def test_an_old_request_is_not_replayed(shared_cloud, monkeypatch):
    environment = shared_cloud.environment()
    credentials = botocore.credentials.Credentials(
        environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
    )
    body = "Action=DescribeRegions&Version=2016-11-15"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    request = botocore.awsrequest.AWSRequest("POST", shared_cloud.endpoint + "/", headers, body)
    old = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None) - datetime.timedelta(hours=1)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_: old, raising=False)
    signer = botocore.auth.SigV4Auth(credentials, "ec2", environment["AWS_DEFAULT_REGION"])
    signer.add_auth(request)
    if request.headers["X-Amz-Date"] != old.strftime("%Y%m%dT%H%M%SZ"):
        pytest.fail("this botocore takes the time from elsewhere")
    answer = urllib3.request("POST", request.url, body=body, headers=dict(request.headers.items()), retries=False)
    assert answer.status == 400 and b"<Code>RequestExpired</Code>" in answer.data, answer.data


def test_a_body_that_was_changed_does_not_pass(shared_cloud):
    environment = shared_cloud.environment()
    credentials = botocore.credentials.Credentials(
        environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
    )
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    body = "Action=DescribeRegions&Version=2016-11-15"
    request = botocore.awsrequest.AWSRequest("POST", shared_cloud.endpoint + "/", headers, body)
    botocore.auth.SigV4Auth(credentials, "ec2", environment["AWS_DEFAULT_REGION"]).add_auth(request)
    for sent, expected in ((body, 200), (body.replace("Regions", "Vpcs"), 401)):
        answer = urllib3.request("POST", request.url, body=sent, headers=dict(request.headers.items()), retries=False)
        assert answer.status == expected, answer.data


def test_dry_runs_tell_whether_one_may(shared_cloud):
    may = shared_cloud.client("ec2")
    refused("DryRunOperation", may.create_vpc, CidrBlock="10.0.0.0/16", DryRun=True, status=412)
    key = make_user(shared_cloud, "dry")
    may_not = shared_cloud.client("ec2", key["AccessKeyId"], key["SecretAccessKey"])
    refused("UnauthorizedOperation", may_not.create_vpc, CidrBlock="10.0.0.0/16", DryRun=True, status=403)
    assert len(may.describe_vpcs()["Vpcs"]) == 1
