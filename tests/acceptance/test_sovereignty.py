"""Operators, sites, hosts and sovereignty policies: what is stated, what is demanded, and what a refusal says."""

import json
import os
import signal

import pytest
from cloud import Cloud
from errors import refused
from waiting import until

POLICY_TAG = "terroir:policy"
NO_PLACE = "InsufficientInstanceCapacity"


def cloud_of(operator, country):
    cloud = Cloud()
    (cloud.data_dir / "terroir.toml").write_text(f'operator = "{operator}"\ncountry = "{country}"\n')
    return cloud.start()


@pytest.fixture(scope="module")
def own():
    cloud = cloud_of("own.example", "FR")
    yield cloud
    cloud.destroy()


@pytest.fixture(scope="module")
def other():
    cloud = cloud_of("other.example", "DE")
    yield cloud
    cloud.destroy()


@pytest.fixture(scope="module")
def image(own, tmp_path_factory):
    """An empty disk, since nothing boots there."""
    disk = tmp_path_factory.mktemp("image") / "empty.raw"
    disk.touch()
    os.truncate(disk, 1 << 20)
    own.terroir("image", "import", str(disk), "--name", "empty")
    [found] = own.client("ec2").describe_images(Filters=[{"Name": "name", "Values": ["empty"]}])["Images"]
    return found["ImageId"]


@pytest.fixture
def tenant(own, request):
    """An account of its own, and its client."""
    made = own.account(request.node.name[:50])
    made["ec2"] = own.client("ec2", made["access_key_id"], made["secret_access_key"])
    return made


def policy(cloud, account, document, name=None, check=True):
    named = ["--name", name] if name else []
    arguments = ["account", "policy", "set", "--account", account["account_id"], *named, "-"]
    return cloud.terroir(*arguments, input=json.dumps(document), check=check)


def launch(account, image, **options):
    answer = account["ec2"].run_instances(ImageId=image, InstanceType="t3.nano", MinCount=1, MaxCount=1, **options)
    return answer["Instances"][0]["InstanceId"]


def tags(kind, name):
    return {"TagSpecifications": [{"ResourceType": kind, "Tags": [{"Key": POLICY_TAG, "Value": name}]}]}


def test_what_is_not_stated_fulfils_no_rule_until_it_is(own, tenant, image):
    policy(own, tenant, {"jurisdictions": {"deny": ["US"]}})
    silent = "1 host: 1 forbidden: the policy has a rule about the jurisdiction, which is not stated"
    refused(NO_PLACE, launch, tenant, image, contains=silent)
    stated = ["--name", "Own SAS", "--seat", "FR", "--parent", "Own SAS", "--parent-country", "FR", "--jurisdiction", "EU"]
    own.terroir("operator", "set", *stated)
    launch(tenant, image)
    own.terroir("operator", "set", "--parent-country", "US")
    refused(NO_PLACE, launch, tenant, image, contains="the policy denies the jurisdiction 'US'")
    own.terroir("operator", "set", "--parent-country", "FR", "--certification", "C5")
    [operator] = json.loads(own.terroir("operator", "list", "--json").stdout)
    assert (operator["id"], operator["parent_country"], operator["certifications"]) == ("own.example", "FR", ["C5"])
    assert operator["generation"] == 4 and operator["key"].startswith("own.example+")
    for wrong in (["--seat", "UK"], ["--jurisdiction", "fr"]):
        done = own.terroir("operator", "set", *wrong, check=False)
        assert done.returncode != 0 and "ISO 3166" in done.stderr


def test_a_refusal_names_the_rule_for_instances_and_volumes(own, tenant, image):
    zone = own.terroir("site", "list").stdout.split()[0]
    volume = {"AvailabilityZone": zone, "Size": 1}
    for document, words in [
        ({"countries": {"allow": ["DE"]}}, "the policy does not allow the country of the site 'FR'"),
        ({"operators": {"deny": ["own.example"]}}, "the policy denies the operator 'own.example'"),
        ({"certifications": ["SecNumCloud"]}, "the policy wants the certification 'SecNumCloud'"),
        ({"key_custody": "customer"}, "the policy wants keys held by the customer, not by the operator"),
    ]:
        policy(own, tenant, document)
        refused(NO_PLACE, launch, tenant, image, contains=words)
        refused("InsufficientVolumeCapacity", tenant["ec2"].create_volume, contains=words, **volume)
    keys = {"key": tenant["access_key_id"], "secret": tenant["secret_access_key"]}
    said = own.aws("ec2", "run-instances", "--image-id", image, "--instance-type", "t3.nano", check=False, **keys).stderr
    assert f"({NO_PLACE})" in said and "1 host: 1 forbidden: the policy wants keys held by the customer" in said
    policy(own, tenant, {"countries": {"allow": ["EU"]}})
    launch(tenant, image)
    tenant["ec2"].create_volume(**volume)


def test_a_tag_chooses_a_stricter_policy(own, tenant, image):
    policy(own, tenant, {"certifications": ["SecNumCloud"]}, name="strict")
    policy(own, tenant, {}, name="loose")
    launch(tenant, image, **tags("instance", "loose"))
    for kind in ("instance", "volume"):
        refused(NO_PLACE, launch, tenant, image, contains="SecNumCloud", **tags(kind, "strict"))
    refused("InvalidParameterValue", launch, tenant, image, **tags("instance", "unknown"))
    policy(own, tenant, {"countries": {"deny": ["FR"]}})
    refused(NO_PLACE, launch, tenant, image, contains="denies the country", **tags("instance", "loose"))


def test_the_command_line_refuses_documents_that_are_none(own, tenant):
    for document, words in [
        ({"countries": {"allow": ["UK"]}}, "'UK' is no country of ISO 3166"),
        ({"countries": {"allow": []}}, "allow is empty"),
        ({"operators": {"allow": ["nobody.example"]}}, "there is no operator 'nobody.example'"),
        ({"countries": {"allow": ["US"]}, "jurisdictions": {"deny": ["US"]}}, "nothing is left"),
        ({"country": {}}, "unknown field"),
    ]:
        done = policy(own, tenant, document, check=False)
        assert done.returncode != 0 and words in done.stderr
    policy(own, tenant, {"seats": {"allow": ["EU", "CH"]}})
    policy(own, tenant, {"separation": {"fire_zones": 2}}, name="apart")
    shown = json.loads(own.terroir("account", "policy", "show", "--account", tenant["account_id"]).stdout)
    assert shown["policy"] == {"seats": {"allow": ["CH", "EU"]}}
    assert shown["named"] == {"apart": {"separation": {"operators": 1, "fire_zones": 2}}}
    own.terroir("account", "policy", "remove", "--account", tenant["account_id"], "--name", "apart")


def test_a_site_of_another_operator_is_a_zone_as_it_was_signed(own, other, tenant, tmp_path):
    other.terroir("site", "add", "eu-local-1b", "--country", "DE", "--city", "Falkenstein", "--pue", "1.1")
    statement = tmp_path / "statement"
    statement.write_text(other.terroir("site", "export", "eu-local-1b").stdout)
    add_site = ["site", "add", "--statement", str(statement)]
    assert "there is no operator 'other.example'" in own.terroir(*add_site, check=False).stderr
    own.terroir("operator", "add", "-", input=other.terroir("operator", "export").stdout)
    own.terroir(*add_site)
    zones = tenant["ec2"].describe_availability_zones()["AvailabilityZones"]
    assert [(zone["ZoneName"], zone["ZoneId"]) for zone in zones] == [
        ("eu-local-1a", "el1-az1"),
        ("eu-local-1b", "el1-az2"),
    ]
    changed = own.terroir("site", "set", "eu-local-1b", "--country", "US", check=False)
    assert changed.returncode != 0 and "a site of other.example" in changed.stderr
    statement.write_text(statement.read_text().replace('"DE"', '"FR"'))
    forged = own.terroir(*add_site, check=False)
    assert forged.returncode != 0 and "not valid" in forged.stderr
    policy(own, tenant, {"operators": {"allow": ["other.example"]}})


def test_hosts_are_cordoned_and_used_again(own, tenant, image):
    [host] = json.loads(own.terroir("host", "list", "--json").stdout)
    assert (host["mode"], host["site"]) == ("active", "eu-local-1a")
    assert "cordon it first" in own.terroir("host", "remove", host["id"], check=False).stderr
    own.terroir("host", "cordon", host["id"])
    refused(NO_PLACE, launch, tenant, image, contains="1 host: 1 cordoned")
    own.terroir("host", "uncordon", host["id"])
    instance = launch(tenant, image)
    own.terroir("site", "set", "eu-local-1a", "--fire-zone", "east", "--fire-zone", "west")
    assert "no fire zone 'north'" in own.terroir("host", "set", host["id"], "--fire-zone", "north", check=False).stderr
    own.terroir("host", "set", host["id"], "--fire-zone", "west")
    [host] = json.loads(own.terroir("host", "list", "--json").stdout)
    assert host["fire_zone"] == "west"

    def running():
        found = tenant["ec2"].describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
        return found["State"]["Name"] == "running"

    until("the instance runs", running)


def verify(own, receipt, *options, check=True):
    keys = receipt.with_name("operators.keys")
    keys.write_text(own.terroir("operator", "keys").stdout)
    return own.terroir("verify", str(receipt), "--keys", str(keys), *options, check=check)


def receipt_of(own, tenant, resource, path, *options, ended=None):
    """Waits until the log has it, and if asked how it ended: entries are shipped once a second."""

    def written():
        arguments = ["receipt", resource, "--account", tenant["account_id"], "--output", str(path), *options]
        if own.terroir(*arguments, check=False).returncode != 0:
            return False
        events = [json.loads(entry["entry"])["event"] for entry in json.loads(path.read_text())["entries"]]
        return ended is None or events[-1] == ended

    until(f"the log tells of {resource}", written)
    return json.loads(path.read_text())


def test_receipts_are_verified_offline_and_a_flipped_byte_is_caught(own, tenant, image, tmp_path):
    instance = launch(tenant, image)
    described = tenant["ec2"].describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    path = tmp_path / "receipt.json"
    receipt = receipt_of(own, tenant, instance, path)
    quorum = ["--quorum", "1"]
    report = json.loads(verify(own, path, *quorum, "--json").stdout)
    [stay] = report["residences"]
    assert (report["kind"], report["account"]) == ("instance", tenant["account_id"])
    assert (stay["site"]["id"], stay["site"]["country"]) == (described["Placement"]["AvailabilityZone"], "FR")
    assert stay["operator"]["id"] == "own.example" and stay["until"] is None
    [host] = json.loads(own.terroir("host", "list", "--json").stdout)
    assert stay["place"]["host"] == host["id"]

    flipped = tmp_path / "flipped.json"

    def flip(text, at):
        return text[:at] + ("x" if text[at] != "x" else "y") + text[at + 1 :]

    [only] = receipt["entries"]
    statement, *others = receipt["statements"]
    for spoilt in (
        receipt | {"entries": [only | {"entry": flip(only["entry"], 50)}]},
        receipt | {"entries": [only | {"index": only["index"] + 1}]},
        receipt | {"entries": [only | {"proof": [flip(only["proof"][0], 3), *only["proof"][1:]]}]},
        receipt | {"entries": []},
        receipt | {"checkpoint": receipt["checkpoint"].replace("eu-local-1", "eu-local-2")},
        receipt | {"statements": [flip(statement, 60), *others]},
        receipt | {"statements": others},
        receipt | {"resource": "i-0123456789abcdef0"},
    ):
        flipped.write_text(json.dumps(spoilt))
        done = verify(own, flipped, *quorum, check=False)
        assert done.returncode != 0 and "not to be trusted" in done.stderr, done.stdout
    flipped.write_text(json.dumps(receipt))
    verify(own, flipped, *quorum)

    tenant["ec2"].terminate_instances(InstanceIds=[instance])
    [volume] = [mapping["Ebs"]["VolumeId"] for mapping in described["BlockDeviceMappings"]] or [None]
    for resource in (instance, volume):
        ended = tmp_path / f"{resource}.json"
        receipt_of(own, tenant, resource, ended, "--since", str(path), ended="erased")
        report = json.loads(verify(own, ended, *quorum, "--known", str(path), "--json").stdout)
        assert report["residences"][-1]["until"][1] == "erased"
    unknown = ["receipt", instance, "--account", own.account("stranger")["account_id"]]
    assert "nothing is in the log" in own.terroir(*unknown, check=False).stderr


def test_other_operators_witness_the_log(own, other, tenant, image, tmp_path):
    for statement, cloud in ((own, other), (other, own)):
        cloud.terroir("operator", "add", "-", input=statement.terroir("operator", "export").stdout)
    path = tmp_path / "receipt.json"
    instance = launch(tenant, image)
    receipt_of(own, tenant, instance, path)
    alone = verify(own, path, check=False)
    assert "1 of 2 operators signed the checkpoint, and 2 must have" in alone.stderr
    request = own.terroir("witness", "request", "other.example").stdout
    signature = other.terroir("witness", "cosign", "-", input=request).stdout
    own.terroir("witness", "accept", "other.example", "-", input=signature)
    receipt_of(own, tenant, instance, path)
    assert "signed by own.example, other.example" in verify(own, path).stdout

    forged = request.replace("old 0", "old 7")
    assert "the witness saw the log at" in other.terroir("witness", "cosign", "-", input=forged, check=False).stderr
    assert "not valid" in other.terroir("witness", "cosign", "-", input=request[:-8] + "AAAAAA=\n", check=False).stderr
    wrong = own.terroir("witness", "accept", "other.example", "-", input=signature.replace("other", "third"), check=False)
    assert wrong.returncode != 0

    # Again, from where the witness saw it last.
    later = launch(tenant, image)
    receipt_of(own, tenant, later, path)
    request = own.terroir("witness", "request", "other.example").stdout
    assert not request.startswith("old 0\n")
    signature = other.terroir("witness", "cosign", "-", input=request).stdout
    own.terroir("witness", "accept", "other.example", "-", input=signature)
    receipt_of(own, tenant, later, path)
    verify(own, path)


def test_the_log_survives_kill_and_restart(own, tenant, image, tmp_path):
    instances = [launch(tenant, image) for _ in range(3)]
    os.kill(own.pid_of("server"), signal.SIGKILL)
    until("the cloud is back", own.is_ready)
    instances.append(launch(tenant, image))
    for instance in instances:
        path = tmp_path / f"{instance}.json"
        receipt = receipt_of(own, tenant, instance, path)
        assert len(receipt["entries"]) == 1
        verify(own, path, "--quorum", "1")


def test_the_object_store_is_a_place_too(own, tenant, tmp_path):
    s3 = own.client("s3", tenant["access_key_id"], tenant["secret_access_key"])
    bucket = f"bucket-{tenant['account_id']}"
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="before", Body=b"x")
    parts = s3.create_multipart_upload(Bucket=bucket, Key="parts")
    image = {"RootDeviceName": "/dev/xvda", "Architecture": "x86_64", "ImageLocation": f"{bucket}/before"}
    for document, words in [
        ({"countries": {"deny": ["FR"]}}, "the object store is at eu-local-1a, and the policy denies the country"),
        ({"separation": {"operators": 2}}, "the policy wants copies at 2 operators, and there would be 1"),
    ]:
        policy(own, tenant, document)
        refused("AccessDenied", s3.create_bucket, contains=words, Bucket=f"{bucket}-2")
        refused("AccessDenied", s3.put_object, contains=words, Bucket=bucket, Key="after", Body=b"x")
        copy = {"Bucket": bucket, "Key": "copy", "CopySource": f"{bucket}/before"}
        refused("AccessDenied", s3.copy_object, contains=words, **copy)
        part = {"Bucket": bucket, "Key": "parts", "PartNumber": 1, "UploadId": parts["UploadId"], "Body": b"x"}
        refused("AccessDenied", s3.upload_part, contains=words, **part)
        refused("OperationNotPermitted", tenant["ec2"].register_image, contains=words, Name="own", **image)
    assert s3.get_object(Bucket=bucket, Key="before")["Body"].read() == b"x", "what is there can be read and removed"
    s3.delete_object(Bucket=bucket, Key="before")
    policy(own, tenant, {"countries": {"allow": ["FR"]}})
    s3.put_object(Bucket=bucket, Key="after", Body=b"x")
    path = tmp_path / "receipt.json"
    receipt = receipt_of(own, tenant, bucket, path)
    assert bucket not in path.read_text(), "names stay out of the log"
    [stay] = json.loads(verify(own, path, "--quorum", "1", "--json").stdout)["residences"]
    assert stay["place"]["host"] is None and stay["site"]["country"] == "FR" and receipt["resource"] != bucket
