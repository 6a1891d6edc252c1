"""Keys and what they encrypt, through boto3 and the AWS CLI as they are."""

import base64
import json

from errors import refused


def grantee(cloud, name):
    """A user without any policy: its ARN, and KMS as that user."""
    iam = cloud.client("iam")
    arn = iam.create_user(UserName=name)["User"]["Arn"]
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return arn, cloud.client("kms", key["AccessKeyId"], key["SecretAccessKey"])


def test_a_key_and_what_it_encrypts(shared_cloud):
    kms = shared_cloud.client("kms")
    made = kms.create_key(Description="mine", Tags=[{"TagKey": "team", "TagValue": "t"}])["KeyMetadata"]
    key = made["KeyId"]
    assert made["KeyState"] == "Enabled" and made["KeyManager"] == "CUSTOMER" and made["Arn"].endswith(key)
    assert made["CreationDate"].year >= 2020
    kms.create_alias(AliasName="alias/mine", TargetKeyId=key)
    context = {"app": "a", "ünï": "c&d=<e>"}
    sealed = kms.encrypt(KeyId="alias/mine", Plaintext=b"text", EncryptionContext=context)
    blob = sealed["CiphertextBlob"]
    assert sealed["KeyId"] == made["Arn"] and b"text" not in blob
    assert kms.decrypt(CiphertextBlob=blob, EncryptionContext=context)["Plaintext"] == b"text"
    refused("InvalidCiphertextException", kms.decrypt, CiphertextBlob=blob, status=400)
    altered = blob[:-1] + bytes([blob[-1] ^ 1])
    refused("InvalidCiphertextException", kms.decrypt, CiphertextBlob=altered, EncryptionContext=context)
    data_key = kms.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=context)
    assert len(data_key["Plaintext"]) == 32
    opened = kms.decrypt(CiphertextBlob=data_key["CiphertextBlob"], EncryptionContext=context, KeyId=key)
    assert opened["Plaintext"] == data_key["Plaintext"]
    other = kms.create_key()["KeyMetadata"]["KeyId"]
    refused("IncorrectKeyException", kms.decrypt, CiphertextBlob=blob, EncryptionContext=context, KeyId=other)
    moved = kms.re_encrypt(CiphertextBlob=blob, SourceEncryptionContext=context, DestinationKeyId=other)
    assert kms.decrypt(CiphertextBlob=moved["CiphertextBlob"])["KeyId"].endswith(other)
    kms.disable_key(KeyId=other)
    refused("DisabledException", kms.decrypt, CiphertextBlob=moved["CiphertextBlob"])
    kms.rotate_key_on_demand(KeyId=key)
    assert kms.decrypt(CiphertextBlob=blob, EncryptionContext=context)["Plaintext"] == b"text"
    assert [entry["RotationType"] for entry in kms.list_key_rotations(KeyId=key)["Rotations"]] == ["ON_DEMAND"]
    assert kms.list_resource_tags(KeyId=key)["Tags"] == [{"TagKey": "team", "TagValue": "t"}]
    assert len(kms.generate_random(NumberOfBytes=7)["Plaintext"]) == 7
    refused("NotFoundException", kms.describe_key, KeyId="alias/none", status=400)
    refused("ValidationException", kms.generate_data_key, KeyId=key)
    refused("DryRunOperationException", kms.encrypt, KeyId=key, Plaintext=b"x", DryRun=True)
    refused("UnsupportedOperationException", kms.get_public_key, KeyId=key)


def test_keys_are_listed_in_pages(shared_cloud):
    kms = shared_cloud.client("kms")
    made = {kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(5)}
    pages = list(kms.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 2}))
    assert len(pages) >= 3 and all(len(page["Keys"]) <= 2 for page in pages)
    assert made <= {entry["KeyId"] for page in pages for entry in page["Keys"]}
    refused("InvalidMarkerException", kms.list_keys, Marker="none")


def test_the_end_of_a_key(shared_cloud):
    kms = shared_cloud.client("kms")
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key, Plaintext=b"text")["CiphertextBlob"]
    refused("ValidationException", kms.schedule_key_deletion, KeyId=key, PendingWindowInDays=6)
    gone = kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
    created = kms.describe_key(KeyId=key)["KeyMetadata"]["CreationDate"]
    assert 6.9 < (gone["DeletionDate"] - created).total_seconds() / 86400 < 7.1
    refused("KMSInvalidStateException", kms.decrypt, CiphertextBlob=blob)
    kms.cancel_key_deletion(KeyId=key)
    refused("DisabledException", kms.decrypt, CiphertextBlob=blob)
    kms.enable_key(KeyId=key)
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"text"


def test_policies_and_grants(shared_cloud):
    kms = shared_cloud.client("kms")
    key = kms.create_key()["KeyMetadata"]["Arn"]
    arn, user = grantee(shared_cloud, "kms-grantee")
    refused("AccessDeniedException", user.encrypt, KeyId=key, Plaintext=b"x", status=400)
    constraint = {"EncryptionContextSubset": {"app": "a"}}
    grant = kms.create_grant(
        KeyId=key, GranteePrincipal=arn, RetiringPrincipal=arn, Operations=["Encrypt", "Decrypt"], Constraints=constraint
    )
    blob = user.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext={"app": "a", "more": "b"})["CiphertextBlob"]
    assert user.decrypt(CiphertextBlob=blob, EncryptionContext={"app": "a", "more": "b"})["Plaintext"] == b"x"
    refused("AccessDeniedException", user.encrypt, KeyId=key, Plaintext=b"x")
    [listed] = kms.list_grants(KeyId=key)["Grants"]
    assert listed["GranteePrincipal"] == arn and listed["Constraints"] == constraint
    user.retire_grant(GrantToken=grant["GrantToken"])
    refused("AccessDeniedException", user.encrypt, KeyId=key, Plaintext=b"x", EncryptionContext={"app": "a"})

    statement = {"Sid": "a user", "Effect": "Allow", "Principal": {"AWS": arn}, "Action": "kms:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    refused("MalformedPolicyDocumentException", kms.put_key_policy, KeyId=key, Policy=policy)
    kms.put_key_policy(KeyId=key, Policy=policy, BypassPolicyLockoutSafetyCheck=True)
    assert json.loads(user.get_key_policy(KeyId=key)["Policy"]) == json.loads(policy)
    refused("AccessDeniedException", kms.encrypt, KeyId=key, Plaintext=b"x", contains="resource-based policy")


def test_another_account(shared_cloud):
    kms = shared_cloud.client("kms")
    account = shared_cloud.account("kms-other")
    other = shared_cloud.client("kms", account["access_key_id"], account["secret_access_key"])
    key = kms.create_key()["KeyMetadata"]
    blob = kms.encrypt(KeyId=key["KeyId"], Plaintext=b"x")["CiphertextBlob"]
    refused("AccessDeniedException", other.decrypt, CiphertextBlob=blob)
    refused("AccessDeniedException", other.describe_key, KeyId=key["Arn"])
    refused("NotFoundException", other.describe_key, KeyId=key["KeyId"])
    policy = json.loads(kms.get_key_policy(KeyId=key["KeyId"])["Policy"])
    shared = {"Effect": "Allow", "Principal": {"AWS": account["account_id"]}, "Action": "kms:Decrypt", "Resource": "*"}
    policy["Statement"].append(shared)
    kms.put_key_policy(KeyId=key["KeyId"], Policy=json.dumps(policy))
    assert other.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    refused("AccessDeniedException", other.encrypt, KeyId=key["Arn"], Plaintext=b"x")


def test_the_command_line(shared_cloud, tmp_path):
    cloud = shared_cloud
    key = cloud.aws_json("kms", "create-key", "--description", "by hand")["KeyMetadata"]["KeyId"]
    cloud.aws("kms", "create-alias", "--alias-name", "alias/by-hand", "--target-key-id", key)
    text = tmp_path / "text"
    text.write_bytes(b"hello\n")
    sealed = cloud.aws_json("kms", "encrypt", "--key-id", "alias/by-hand", "--plaintext", f"fileb://{text}")
    blob = tmp_path / "blob"
    blob.write_bytes(base64.b64decode(sealed["CiphertextBlob"]))
    opened = cloud.aws_json("kms", "decrypt", "--ciphertext-blob", f"fileb://{blob}")
    assert base64.b64decode(opened["Plaintext"]) == b"hello\n"
    aliases = cloud.aws_json("kms", "list-aliases", "--key-id", key)["Aliases"]
    assert [alias["AliasName"] for alias in aliases] == ["alias/by-hand"]
    failed = cloud.aws("kms", "describe-key", "--key-id", "alias/none", check=False)
    assert failed.returncode != 0 and "NotFoundException" in failed.stderr


def test_keys_survive_a_restart(cloud):
    kms = cloud.client("kms")
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key, Plaintext=b"text")["CiphertextBlob"]
    cloud.stop()
    cloud.start()
    assert cloud.client("kms").decrypt(CiphertextBlob=blob)["Plaintext"] == b"text"
