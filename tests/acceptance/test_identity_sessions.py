"""Policies with versions and boundaries, multi-factor codes, federation and web identities, through real clients."""

import base64
import hashlib
import hmac
import json
import struct
import time

import boto3
import botocore
import botocore.exceptions
import pytest
import rsa
from botocore.config import Config
from errors import refused
from test_identity import allow, make_user, policy
from waiting import until


def code_of(seed, step):
    """RFC 6238, from a seed in base32."""
    key = base64.b32decode(seed + b"=" * (-len(seed) % 8))
    digest = hmac.digest(key, struct.pack(">q", step), hashlib.sha1)
    offset = digest[19] & 15
    return f"{(struct.unpack('>I', digest[offset:offset + 4])[0] & 0x7FFFFFFF) % 10**6:06}"


def step():
    return int(time.time()) // 30


def clients(cloud, key, *services):
    return [cloud.client(service, key["AccessKeyId"], key["SecretAccessKey"]) for service in services]


def of_session(cloud, service, credentials):
    return cloud.client(
        service, credentials["AccessKeyId"], credentials["SecretAccessKey"], credentials["SessionToken"]
    )


def test_a_policy_has_versions(shared_cloud):
    iam = shared_cloud.client("iam")
    documents = [json.dumps(policy(allow(f"ec2:Describe{name}"))) for name in ("Vpcs", "Subnets")]
    made = iam.create_policy(PolicyName="versions", PolicyDocument=documents[0], Tags=[{"Key": "a", "Value": "b"}])
    arn = made["Policy"]["Arn"]
    [ec2] = clients(shared_cloud, make_user(shared_cloud, "versions"), "ec2")
    iam.attach_user_policy(UserName="versions", PolicyArn=arn)
    assert ec2.describe_vpcs()["Vpcs"]
    version = iam.create_policy_version(PolicyArn=arn, PolicyDocument=documents[1], SetAsDefault=True)["PolicyVersion"]
    assert (version["VersionId"], version["IsDefaultVersion"]) == ("v2", True)
    assert ec2.describe_subnets()["Subnets"]
    refused("UnauthorizedOperation", ec2.describe_vpcs)
    read = iam.get_policy_version(PolicyArn=arn, VersionId="v1")["PolicyVersion"]
    assert read["Document"] == json.loads(documents[0])
    iam.set_default_policy_version(PolicyArn=arn, VersionId="v1")
    assert ec2.describe_vpcs()["Vpcs"]
    refused("DeleteConflict", iam.delete_policy_version, PolicyArn=arn, VersionId="v1", status=409)
    iam.delete_policy_version(PolicyArn=arn, VersionId="v2")
    assert [found["VersionId"] for found in iam.list_policy_versions(PolicyArn=arn)["Versions"]] == ["v1"]
    assert iam.list_policy_tags(PolicyArn=arn)["Tags"] == [{"Key": "a", "Value": "b"}]
    entities = iam.list_entities_for_policy(PolicyArn=arn)
    assert [user["UserName"] for user in entities["PolicyUsers"]] == ["versions"]


def test_a_boundary_limits_and_a_simulation_says_so(shared_cloud):
    iam = shared_cloud.client("iam")
    account = shared_cloud.client("sts").get_caller_identity()["Account"]
    [ec2] = clients(shared_cloud, make_user(shared_cloud, "bounded", policy(allow("*"))), "ec2")
    assert ec2.describe_vpcs()["Vpcs"]
    iam.put_user_permissions_boundary(
        UserName="bounded", PermissionsBoundary="arn:aws:iam::aws:policy/AmazonS3FullAccess"
    )
    refused("UnauthorizedOperation", ec2.describe_vpcs, contains="no permissions boundary allows")
    boundary = iam.get_user(UserName="bounded")["User"]["PermissionsBoundary"]
    assert boundary["PermissionsBoundaryArn"].endswith("/AmazonS3FullAccess")
    results = iam.simulate_principal_policy(
        PolicySourceArn=f"arn:aws:iam::{account}:user/bounded", ActionNames=["ec2:DescribeVpcs", "s3:ListAllMyBuckets"]
    )["EvaluationResults"]
    assert [result["EvalDecision"] for result in results] == ["implicitDeny", "allowed"]
    assert results[0]["PermissionsBoundaryDecisionDetail"] == {"AllowedByPermissionsBoundary": False}
    assert {found["SourcePolicyId"] for found in results[1]["MatchedStatements"]} == {
        "user_bounded_inline",
        "AmazonS3FullAccess",
    }
    iam.delete_user_permissions_boundary(UserName="bounded")
    assert ec2.describe_vpcs()["Vpcs"]
    document = json.dumps(policy(allow("s3:*") | {"Condition": {"StringLike": {"s3:prefix": "a*"}}}))
    assert iam.get_context_keys_for_custom_policy(PolicyInputList=[document])["ContextKeyNames"] == ["s3:prefix"]
    entry = {"ContextKeyName": "s3:prefix", "ContextKeyType": "string", "ContextKeyValues": ["abc"]}
    [result] = iam.simulate_custom_policy(
        PolicyInputList=[document], ActionNames=["s3:ListBucket"], ContextEntries=[entry]
    )["EvaluationResults"]
    assert (result["EvalDecision"], result["MissingContextValues"]) == ("allowed", [])


def test_a_refusal_is_decoded(shared_cloud):
    [ec2] = clients(shared_cloud, make_user(shared_cloud, "refused"), "ec2")
    error = refused("UnauthorizedOperation", ec2.describe_vpcs)
    encoded = error["Error"]["Message"].rsplit(": ", 1)[1]
    decoded = shared_cloud.client("sts").decode_authorization_message(EncodedMessage=encoded)["DecodedMessage"]
    assert json.loads(decoded)["context"]["action"] == "ec2:DescribeVpcs"


def test_multi_factor_codes(shared_cloud, tmp_path):
    cloud = shared_cloud
    iam = cloud.client("iam")
    needs_code = {"Condition": {"Bool": {"aws:MultiFactorAuthPresent": "true"}}}
    documents = policy(allow("ec2:DescribeVpcs") | needs_code, allow("iam:ListUsers"))
    key = make_user(cloud, "phoned", documents)
    [ec2, own_iam, sts] = clients(cloud, key, "ec2", "iam", "sts")
    # Through the CLI, whose output file is what people scan.
    picture = tmp_path / "code.png"
    made = cloud.aws_json(
        *("iam", "create-virtual-mfa-device", "--virtual-mfa-device-name", "phone"),
        *("--bootstrap-method", "QRCodePNG", "--outfile", picture),
    )
    serial = made["VirtualMFADevice"]["SerialNumber"]
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    iam.delete_virtual_mfa_device(SerialNumber=serial)
    device = iam.create_virtual_mfa_device(VirtualMFADeviceName="phone")["VirtualMFADevice"]
    seed = device["Base32StringSeed"]
    now = step()
    enable = {"UserName": "phoned", "SerialNumber": serial}
    refused(
        "InvalidAuthenticationCode", iam.enable_mfa_device, **enable,
        AuthenticationCode1=code_of(seed, now), AuthenticationCode2=code_of(seed, now - 1), status=403,
    )  # fmt: skip
    # Codes of steps that are over, so that the present one is left.
    iam.enable_mfa_device(
        **enable, AuthenticationCode1=code_of(seed, now - 2), AuthenticationCode2=code_of(seed, now - 1)
    )
    [listed] = iam.list_mfa_devices(UserName="phoned")["MFADevices"]
    assert listed["SerialNumber"] == serial

    refused("UnauthorizedOperation", ec2.describe_vpcs)
    without = sts.get_session_token()["Credentials"]
    refused("UnauthorizedOperation", of_session(cloud, "ec2", without).describe_vpcs)
    refused("InvalidClientTokenId", of_session(cloud, "iam", without).list_users, status=403)
    own_iam.list_users()
    refused("AccessDenied", sts.get_session_token, SerialNumber=serial, TokenCode="000000", status=403)
    used = code_of(seed, step())
    with_code = sts.get_session_token(SerialNumber=serial, TokenCode=used)["Credentials"]
    assert of_session(cloud, "ec2", with_code).describe_vpcs()["Vpcs"]
    of_session(cloud, "iam", with_code).list_users()
    refused("AccessDenied", sts.get_session_token, SerialNumber=serial, TokenCode=used, status=403)

    # A role that wants a code when it is assumed.
    account = sts.get_caller_identity()["Account"]
    trust = policy(
        {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{account}:user/phoned"}, "Action": "sts:AssumeRole"}
        | needs_code
    )
    role = iam.create_role(RoleName="coded", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    refused("AccessDenied", sts.assume_role, RoleArn=role, RoleSessionName="s1", status=403)
    of_session(cloud, "sts", with_code).assume_role(RoleArn=role, RoleSessionName="s1")

    def next_code_is_taken():
        try:
            code = code_of(seed, step())
            return sts.assume_role(RoleArn=role, RoleSessionName="s1", SerialNumber=serial, TokenCode=code)
        except botocore.exceptions.ClientError:
            return None

    # At most five wrong codes in a row are looked at, and a step lasts 30 s.
    until("the next code", next_code_is_taken, seconds=70, every=15)
    iam.deactivate_mfa_device(UserName="phoned", SerialNumber=serial)
    iam.delete_virtual_mfa_device(SerialNumber=serial)


def test_roles_with_tags_and_federated_users(shared_cloud):
    cloud = shared_cloud
    iam = cloud.client("iam")
    account = cloud.client("sts").get_caller_identity()["Account"]
    trust = policy(
        {
            "Effect": "Allow",
            "Principal": {"AWS": account},
            "Action": ["sts:AssumeRole", "sts:TagSession"],
            "Condition": {"StringEquals": {"sts:ExternalId": "ours"}},
        }
    )
    role = iam.create_role(RoleName="tagged", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    red = policy(allow("ec2:DescribeVpcs") | {"Condition": {"StringEquals": {"aws:PrincipalTag/team": "red"}}})
    iam.put_role_policy(RoleName="tagged", PolicyName="red", PolicyDocument=json.dumps(red))
    [sts] = clients(cloud, make_user(cloud, "tagger", policy(allow("sts:*", "ec2:*"))), "sts")
    session = {"RoleArn": role, "RoleSessionName": "s1"}
    refused("AccessDenied", sts.assume_role, **session, status=403)
    for team, may in (("red", True), ("blue", False)):
        assumed = sts.assume_role(**session, ExternalId="ours", Tags=[{"Key": "team", "Value": team}])
        ec2 = of_session(cloud, "ec2", assumed["Credentials"])
        if may:
            assert ec2.describe_vpcs()["Vpcs"]
        else:
            refused("UnauthorizedOperation", ec2.describe_vpcs)
    # A role begins a session of another: for an hour at most, and who it was that came in stays known.
    iam.put_role_policy(
        RoleName="tagged", PolicyName="chain", PolicyDocument=json.dumps(policy(allow("sts:AssumeRole", "sts:SetSourceIdentity")))
    )
    named = policy({"Effect": "Allow", "Principal": {"AWS": account}, "Action": ["sts:AssumeRole", "sts:SetSourceIdentity"]})
    second = iam.create_role(
        RoleName="second", AssumeRolePolicyDocument=json.dumps(named), MaxSessionDuration=7200
    )["Role"]["Arn"]
    iam.update_assume_role_policy(RoleName="tagged", PolicyDocument=json.dumps(named))
    first = of_session(cloud, "sts", sts.assume_role(**session, SourceIdentity="ann")["Credentials"])
    onward = {"RoleArn": second, "RoleSessionName": "s2"}
    refused("ValidationError", first.assume_role, **onward, DurationSeconds=3601, status=400)
    refused("AccessDenied", first.assume_role, **onward, SourceIdentity="bob", status=403)
    chained = first.assume_role(**onward, DurationSeconds=3600)
    assert chained["SourceIdentity"] == "ann"
    arn = of_session(cloud, "sts", chained["Credentials"]).get_caller_identity()["Arn"]
    assert arn == f"arn:aws:sts::{account}:assumed-role/second/s2"

    federated = sts.get_federation_token(Name="fay", Policy=json.dumps(policy(allow("ec2:DescribeVpcs"))))
    assert federated["FederatedUser"]["Arn"] == f"arn:aws:sts::{account}:federated-user/fay"
    ec2 = of_session(cloud, "ec2", federated["Credentials"])
    assert ec2.describe_vpcs()["Vpcs"]
    refused("UnauthorizedOperation", ec2.describe_subnets)


def url64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_a_web_identity(shared_cloud, tmp_path):
    """As a CI system does it: a token of its own, no key of ours."""
    cloud = shared_cloud
    issuer = "https://ci.example/pipelines"
    public, private = rsa.newkeys(2048)
    jwk = {"kty": "RSA", "kid": "1", "alg": "RS256", "use": "sig"}
    jwk |= {name: url64(n.to_bytes((n.bit_length() + 7) // 8, "big")) for name, n in (("n", public.n), ("e", public.e))}
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps({"keys": [jwk]}))
    iam = cloud.client("iam")
    provider = iam.create_open_id_connect_provider(Url=issuer, ClientIDList=["deploy"])["OpenIDConnectProviderArn"]
    trust = policy(
        {
            "Effect": "Allow",
            "Principal": {"Federated": provider},
            "Action": "sts:AssumeRoleWithWebIdentity",
            "Condition": {"StringLike": {"ci.example/pipelines:sub": "repo:ours/*"}},
        }
    )
    role = iam.create_role(RoleName="ci", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    iam.attach_role_policy(RoleName="ci", PolicyArn="arn:aws:iam::aws:policy/AmazonEC2ReadOnlyAccess")

    def token(**claims):
        now = int(time.time())
        claims = {"iss": issuer, "aud": "deploy", "sub": "repo:ours/app", "iat": now, "exp": now + 300} | claims
        parts = [url64(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "1"}, claims)]
        return ".".join([*parts, url64(rsa.sign(".".join(parts).encode(), private, "SHA-256"))])

    # Without credentials.
    sts = boto3.client(
        "sts", endpoint_url=cloud.endpoint, region_name="eu-local-1",
        config=Config(signature_version=botocore.UNSIGNED, retries={"total_max_attempts": 1}),
    )  # fmt: skip

    def assume(**claims):
        return sts.assume_role_with_web_identity(RoleArn=role, RoleSessionName="run-1", WebIdentityToken=token(**claims))

    refused("IDPCommunicationError", assume)
    assert cloud.terroir("issuer", "set", issuer, "--jwks", str(tmp_path / "none"), check=False).returncode != 0
    cloud.terroir("issuer", "set", issuer, "--jwks", str(keys))
    assert [found["url"] for found in json.loads(cloud.terroir("issuer", "list", "--json").stdout)] == [issuer]
    answer = assume()
    assert answer["SubjectFromWebIdentityToken"] == "repo:ours/app"
    assert of_session(cloud, "ec2", answer["Credentials"]).describe_vpcs()["Vpcs"]
    refused("AccessDenied", assume, sub="repo:theirs/app", status=403)
    refused("InvalidIdentityToken", assume, aud="other", status=400)
    refused("ExpiredTokenException", assume, exp=int(time.time()) - 1, status=400)
    cloud.terroir("issuer", "remove", issuer)
    refused("IDPCommunicationError", assume)
    assert cloud.terroir("issuer", "remove", issuer, check=False).returncode != 0


def test_passwords_alias_and_report(shared_cloud):
    cloud = shared_cloud
    iam = cloud.client("iam")
    make_user(cloud, "person")
    iam.create_account_alias(AccountAlias="our-cloud")
    assert iam.list_account_aliases()["AccountAliases"] == ["our-cloud"]
    iam.update_account_password_policy(MinimumPasswordLength=12, AllowUsersToChangePassword=True)
    refused("PasswordPolicyViolation", iam.create_login_profile, UserName="person", Password="Short-1", status=400)
    profile = iam.create_login_profile(UserName="person", Password="Long-Enough-1")["LoginProfile"]
    assert profile["UserName"] == "person"
    report = until("the report", lambda: iam.generate_credential_report()["State"] == "COMPLETE" and iam.get_credential_report())
    rows = [row.split(",") for row in report["Content"].decode().splitlines()]
    [row] = [dict(zip(rows[0], row, strict=True)) for row in rows[1:] if row[0] == "person"]
    assert (row["password_enabled"], row["mfa_active"], row["access_key_1_active"]) == ("true", "false", "true")
    refused("DeleteConflict", iam.delete_user, UserName="person", status=409)
    assert iam.get_account_summary()["SummaryMap"]["Users"] >= 1
    names = {user["UserName"] for user in iam.get_account_authorization_details(Filter=["User"])["UserDetailList"]}
    assert "person" in names


def test_a_key_knows_when_it_was_used(shared_cloud):
    iam = shared_cloud.client("iam")
    key = make_user(shared_cloud, "used")
    assert "LastUsedDate" not in iam.get_access_key_last_used(AccessKeyId=key["AccessKeyId"])["AccessKeyLastUsed"]
    [sts] = clients(shared_cloud, key, "sts")
    sts.get_caller_identity()

    def used():
        return iam.get_access_key_last_used(AccessKeyId=key["AccessKeyId"])["AccessKeyLastUsed"].get("LastUsedDate")

    assert until("the use is noted", used)
    assert iam.get_access_key_last_used(AccessKeyId=key["AccessKeyId"])["AccessKeyLastUsed"]["ServiceName"] == "sts"


@pytest.mark.parametrize("anonymous", [True, False])
def test_nothing_else_comes_unsigned(shared_cloud, anonymous):
    config = Config(signature_version=botocore.UNSIGNED, retries={"total_max_attempts": 1})
    for service, call in (("sts", "get_caller_identity"), ("iam", "list_users"), ("ec2", "describe_vpcs")):
        if anonymous:
            client = boto3.client(service, endpoint_url=shared_cloud.endpoint, region_name="eu-local-1", config=config)
            refused("MissingAuthenticationToken", getattr(client, call), status=403)
        else:
            getattr(shared_cloud.client(service), call)()
