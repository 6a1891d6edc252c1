"""Keys that their owner holds elsewhere: R3. The key manager is in this process; the cloud reaches it over mutual TLS."""

import os

import pytest
from cloud import Cloud
from errors import refused
from waiting import until
from xks_proxy import ACCESS_KEY_ID, PATH, SECRET, Proxy, make_certificates

REGION = "eu-local-1"
CANARY = b"canary-4f1d7c2a-in-plain-sight"


@pytest.fixture(scope="module")
def manager(tmp_path_factory):
    folder = tmp_path_factory.mktemp("xks")
    make_certificates(folder, REGION)
    manager = Proxy(folder, REGION)
    for name in ("one", "two", "three", "four"):
        manager.add_key(name)
    yield manager.start()
    manager.stop()


@pytest.fixture(scope="module")
def cloud(manager):
    cloud = Cloud("simulated")
    # Not in the test's own folder, which the server's user may not pass through.
    certificates = cloud.data_dir.with_suffix(".xks")
    certificates.mkdir(mode=0o755)
    for name in ("ca.pem", "client.pem"):
        (certificates / name).write_bytes((manager.folder / name).read_bytes())
        (certificates / name).chmod(0o644)
    (cloud.data_dir / "terroir.toml").write_text(
        f'xks_authorities = "{certificates}/ca.pem"\n'
        f'xks_client_certificate = "{certificates}/client.pem"\n'
        'xks_networks = ["127.0.0.0/8"]\n'
    )
    try:
        yield cloud.start()
    finally:
        cloud.destroy()
        for path in certificates.iterdir():
            path.unlink()
        certificates.rmdir()


def create_store(kms, manager, name, **changes):
    credential = {"AccessKeyId": ACCESS_KEY_ID, "RawSecretAccessKey": SECRET}
    arguments = {
        "CustomKeyStoreName": name,
        "CustomKeyStoreType": "EXTERNAL_KEY_STORE",
        "XksProxyConnectivity": "PUBLIC_ENDPOINT",
        "XksProxyUriEndpoint": manager.endpoint,
        "XksProxyUriPath": PATH,
        "XksProxyAuthenticationCredential": credential,
    }
    return kms.create_custom_key_store(**arguments | changes)["CustomKeyStoreId"]


@pytest.fixture(scope="module")
def store(cloud, manager):
    kms = cloud.client("kms")
    store = create_store(kms, manager, "mine")
    kms.connect_custom_key_store(CustomKeyStoreId=store)
    [described] = kms.describe_custom_key_stores(CustomKeyStoreId=store)["CustomKeyStores"]
    assert described["ConnectionState"] == "CONNECTED", described
    return store


def new_key(kms, store, name):
    made = kms.create_key(Origin="EXTERNAL_KEY_STORE", CustomKeyStoreId=store, XksKeyId=name)["KeyMetadata"]
    assert made["Origin"] == "EXTERNAL_KEY_STORE" and made["XksKeyConfiguration"] == {"Id": name}
    return made["Arn"]


def test_who_the_proxy_is_and_who_asks(cloud, manager, store):
    kms = cloud.client("kms")
    for changes, code in [
        ({"XksProxyUriPath": "/nowhere/kms/xks/v1"}, "XksProxyInvalidConfigurationException"),
        ({"XksProxyUriEndpoint": "https://localhost:9"}, "XksProxyUriUnreachableException"),
        ({"XksProxyUriEndpoint": f"https://127.0.0.1:{manager.port}"}, "ValidationException"),
        ({"XksProxyUriEndpoint": f"http://localhost:{manager.port}"}, "ValidationException"),
        (
            {"XksProxyAuthenticationCredential": {"AccessKeyId": ACCESS_KEY_ID, "RawSecretAccessKey": "x" * 43}},
            "XksProxyIncorrectAuthenticationCredentialException",
        ),
    ]:
        path = {"XksProxyUriPath": "/other/kms/xks/v1"} if "XksProxyUriPath" not in changes else {}
        refused(code, create_store, kms, manager, "other", **path | changes)
    refused("XksProxyUriInUseException", create_store, kms, manager, "other")
    refused("XksKeyNotFoundException", new_key, kms, store, "none")


def test_nothing_inside_is_reached(manager):
    """Without the operator's word, an address inside is none that a tenant can have asked."""
    cloud = Cloud("simulated")
    try:
        kms = cloud.start().client("kms")
        before = len(manager.requests)
        refused("XksProxyUriUnreachableException", create_store, kms, manager, "mine")
        assert len(manager.requests) == before
    finally:
        cloud.destroy()


@pytest.fixture(scope="module")
def instance(cloud, tmp_path_factory):
    """One that runs, simulated."""
    disk = tmp_path_factory.mktemp("image") / "empty.raw"
    disk.write_bytes(b"")
    os.truncate(disk, 1 << 20)
    cloud.terroir("image", "import", str(disk), "--name", "empty")
    ec2 = cloud.client("ec2")
    [image] = ec2.describe_images(Filters=[{"Name": "name", "Values": ["empty"]}])["Images"]
    started = ec2.run_instances(ImageId=image["ImageId"], InstanceType="t3.nano", MinCount=1, MaxCount=1)
    instance = started["Instances"][0]["InstanceId"]
    until("the instance runs", lambda: state_of(ec2, instance) == "running")
    return instance


def state_of(ec2, instance):
    [reservation] = ec2.describe_instances(InstanceIds=[instance])["Reservations"]
    return reservation["Instances"][0]["State"]["Name"]


def test_objects_under_a_key_held_elsewhere(cloud, manager, store, instance):
    """Stopped: what runs goes on, reads and writes fail cleanly; destroyed: every copy is unreadable."""
    kms, s3, ec2 = cloud.client("kms"), cloud.client("s3"), cloud.client("ec2")
    key = new_key(kms, store, "three")
    s3.create_bucket(Bucket="held", CreateBucketConfiguration={"LocationConstraint": REGION})
    sealed = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key}
    body = CANARY * 40_000
    s3.put_object(Bucket="held", Key="small", Body=CANARY, **sealed)
    s3.put_object(Bucket="held", Key="large", Body=body, **sealed)
    s3.copy_object(Bucket="held", Key="copy", CopySource="held/large", **sealed)
    s3.put_object(Bucket="held", Key="open", Body=b"no canary")
    assert s3.get_object(Bucket="held", Key="copy")["Body"].read() == body
    [asked] = [body for path, body in manager.requests if path.endswith("/three/encrypt")][:1]
    assert asked["requestMetadata"]["kmsViaService"] == "s3"

    manager.stop()
    for name in ("small", "large", "copy"):
        refused("KMS.KMSInvalidStateException", s3.get_object, status=400, Bucket="held", Key=name)
    refused("KMS.KMSInvalidStateException", s3.put_object, status=400, Bucket="held", Key="new", Body=b"x", **sealed)
    assert {entry["Key"] for entry in s3.list_objects_v2(Bucket="held")["Contents"]} == {"small", "large", "copy", "open"}
    assert s3.get_object(Bucket="held", Key="open")["Body"].read() == b"no canary"
    assert state_of(ec2, instance) == "running"
    files = [path for path in cloud.data_dir.rglob("*") if path.is_file()]
    assert not _holding(files, [CANARY])

    manager.start()
    assert s3.get_object(Bucket="held", Key="large")["Body"].read() == body
    assert s3.get_object(Bucket="held", Key="small")["Body"].read() == CANARY

    del manager.keys["three"]
    for name in ("small", "large", "copy"):
        refused("KMS.KMSInvalidStateException", s3.get_object, status=400, Bucket="held", Key=name)
    assert state_of(ec2, instance) == "running"


def test_stopped_started_and_destroyed(cloud, manager, store):
    """Stopped: what needs the key fails cleanly, all else goes on; destroyed: every copy is unreadable."""
    kms = cloud.client("kms")
    key = new_key(kms, store, "one")
    context = {"for": "tests"}
    sealed = kms.encrypt(KeyId=key, Plaintext=CANARY, EncryptionContext=context)["CiphertextBlob"]
    data_key = kms.generate_data_key(KeyId=key, KeySpec="AES_256")
    assert kms.decrypt(CiphertextBlob=sealed, EncryptionContext=context)["Plaintext"] == CANARY
    asked = [body for path, body in manager.requests if path.endswith("/one/encrypt")]
    assert asked[0]["requestMetadata"]["kmsOperation"] == "Encrypt"
    assert asked[0]["requestMetadata"]["kmsKeyArn"] == key

    manager.stop()
    until("the proxy is gone", lambda: not _opens(kms, sealed, context))
    refused("KMSInvalidStateException", kms.decrypt, CiphertextBlob=sealed, EncryptionContext=context, status=400)
    refused("KMSInvalidStateException", kms.generate_data_key, KeyId=key, KeySpec="AES_256")
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Enabled"
    # Everything that does not need the key goes on.
    local = kms.create_key()["KeyMetadata"]["KeyId"]
    assert kms.encrypt(KeyId=local, Plaintext=b"x")["CiphertextBlob"]

    manager.start()
    assert kms.decrypt(CiphertextBlob=sealed, EncryptionContext=context)["Plaintext"] == CANARY
    opened = kms.decrypt(CiphertextBlob=data_key["CiphertextBlob"])["Plaintext"]
    assert opened == data_key["Plaintext"]

    files = [path for path in cloud.data_dir.rglob("*") if path.is_file()]
    secrets = [CANARY, data_key["Plaintext"], SECRET.encode(), manager.keys["one"]]
    assert not _holding(files, secrets)
    planted = cloud.data_dir / "planted"
    planted.write_bytes(b"x" * 5000 + CANARY)
    assert _holding([*files, planted], secrets) == [planted], "the search finds what is there"
    planted.unlink()

    del manager.keys["one"]
    refused("KMSInvalidStateException", kms.decrypt, CiphertextBlob=sealed, EncryptionContext=context)
    manager.add_key("one")
    refused("InvalidCiphertextException", kms.decrypt, CiphertextBlob=sealed, EncryptionContext=context)


def test_a_store_that_is_disconnected(cloud, manager, store):
    kms = cloud.client("kms")
    key = new_key(kms, store, "two")
    sealed = kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    kms.disconnect_custom_key_store(CustomKeyStoreId=store)
    refused("KMSInvalidStateException", kms.decrypt, CiphertextBlob=sealed)
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Unavailable"
    refused("CustomKeyStoreInvalidStateException", new_key, kms, store, "four")
    refused("CustomKeyStoreHasCMKsException", kms.delete_custom_key_store, CustomKeyStoreId=store)
    kms.connect_custom_key_store(CustomKeyStoreId=store)
    assert kms.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"x"


def _opens(kms, blob, context):
    try:
        kms.decrypt(CiphertextBlob=blob, EncryptionContext=context)
    except kms.exceptions.KMSInvalidStateException:
        return False
    return True


def _holding(files, secrets):
    """The files that hold any of the secrets as they are."""
    return [path for path in files if any(secret in path.read_bytes() for secret in secrets)]
