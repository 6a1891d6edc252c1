"""The audit log: every call is in it, and whatever is done to it is found."""

import json
import os
import signal

from errors import refused
from waiting import until


def events(cloud):
    folder = cloud.data_dir / "state/audit-log"
    lines = [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    return [json.loads(line)["event"] for line in lines]


def verify(cloud):
    done = cloud.terroir("audit", "verify", "--json", check=False)
    found = json.loads(done.stdout)
    assert done.returncode == (1 if found["fault_count"] else 0), done.stderr
    return found


def test_every_call_is_recorded_and_whatever_is_done_to_the_log_is_found(cloud):
    iam, s3 = cloud.client("iam"), cloud.client("s3")
    iam.create_user(UserName="ada")
    iam.create_login_profile(UserName="ada", Password="Corr3ct-horse-battery")
    refused("EntityAlreadyExists", iam.create_user, UserName="ada")
    cloud.client("ec2").describe_instances()
    s3.create_bucket(Bucket="photos")
    s3.put_object(Bucket="photos", Key="a b.txt", Body=b"canary-body-7d1f")
    refused("NoSuchKey", s3.get_object, Bucket="photos", Key="none")
    until("everything is in the log", lambda: any(event.get("errorCode") == "NoSuchKey" for event in events(cloud)))

    told = {(event["eventSource"].split(".")[0], event["eventName"], event.get("errorCode")): event for event in events(cloud)}
    for call in [
        ("iam", "CreateUser", None),
        ("iam", "CreateUser", "EntityAlreadyExists"),
        ("iam", "CreateLoginProfile", None),
        ("ec2", "DescribeInstances", None),
        ("s3", "CreateBucket", None),
        ("s3", "PutObject", None),
        ("s3", "GetObject", "NoSuchKey"),
    ]:
        event = told[call]
        assert event["userIdentity"]["type"] == "Root" and event["sourceIPAddress"] == "127.0.0.1", event
        assert event["additionalEventData"]["latencyMicros"] > 0 and event["requestID"], event
    put = told["s3", "PutObject", None]
    assert put["requestParameters"] == {"bucketName": "photos", "key": "a b.txt"}
    assert put["eventCategory"] == "Data" and told["s3", "CreateBucket", None]["eventCategory"] == "Management"
    text = "".join(path.read_text() for path in (cloud.data_dir / "state/audit-log").iterdir())
    for secret in ("Corr3ct-horse-battery", "canary-body-7d1f", cloud.environment()["AWS_SECRET_ACCESS_KEY"]):
        assert secret not in text

    whole = verify(cloud)
    assert whole["faults"] == [] and whole["lines"] >= 7
    # A process that is killed loses no record of a change.
    iam.create_user(UserName="bob")
    os.kill(cloud.pid_of("server"), signal.SIGKILL)
    created = lambda: sum(event["eventName"] == "CreateUser" and "errorCode" not in event for event in events(cloud))
    until("the server is back and has written what was left", lambda: created() == 2)
    cloud.stop()
    assert verify(cloud)["faults"] == [], "of a cloud that is stopped, too"

    path = cloud.data_dir / "state/audit-log/audit-00000001.jsonl"
    text = path.read_bytes()
    lines = text.splitlines(keepends=True)
    for what, damaged in [
        ("a flipped byte", text.replace(b'"userName":"ada"', b'"userName":"eva"', 1)),
        ("a missing record", b"".join(lines[:2] + lines[3:])),
        ("a swapped order", b"".join([lines[1], lines[0], *lines[2:]])),
        ("an end that was cut off", b"".join(lines[:-1])),
        ("an end in the middle of a record", text[:-10]),
    ]:
        assert damaged != text, what
        path.write_bytes(damaged)
        found = verify(cloud)
        assert found["fault_count"] > 0, what
    path.unlink()
    assert "were acknowledged" in verify(cloud)["faults"][0], "a missing file"
    path.write_bytes(text)
    assert verify(cloud)["faults"] == []
