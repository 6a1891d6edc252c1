"""Targets that the operator names, and the events of buckets that are sent to them."""

import json
import random
import re
import signal
import threading

import botocore.exceptions
import pytest
from errors import refused
from hook import Hook
from waiting import until
from writing import writing

REFUSED = (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)
SECRET = "a secret of more than sixteen letters"


@pytest.fixture
def hook():
    hook = Hook(SECRET)
    yield hook
    hook.close()


def name_target(cloud, tmp_path, name, hook, *arguments):
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    done = cloud.terroir(
        "objects", "target", "add", name, "--webhook", hook.url, "--secret-file", str(secret), *arguments
    )
    return done.stdout.split()


def targets(cloud):
    return {target["name"]: target for target in json.loads(cloud.terroir("objects", "target", "list", "--json").stdout)}


def test_targets_are_the_operator_s(shared_cloud, tmp_path, hook):
    cloud = shared_cloud
    [topic, queue] = name_target(cloud, tmp_path, "hook", hook)
    assert topic == "arn:aws:sns:eu-local-1:000000000000:hook"
    assert queue == "arn:aws:sqs:eu-local-1:000000000000:hook"
    assert "test event" in cloud.terroir("objects", "target", "test", "hook").stdout
    assert hook.got[-1][1]["Event"] == "s3:TestEvent"
    listed = cloud.terroir("objects", "target", "list").stdout + json.dumps(targets(cloud))
    assert topic in listed and hook.url in listed and SECRET not in listed
    for arguments, says in [
        (["hook", "--webhook", hook.url], "already"),
        (["Bad", "--webhook", hook.url], "no name"),
        (["bad", "--webhook", "file:///etc/passwd"], "http"),
        (["bad", "--webhook", "http://user:word@127.0.0.1/"], "apart from the address"),
        (["bad", "--webhook", hook.url, "--account", "000000000001"], "no account"),
        (["bad", "--webhook", hook.url, "--secret-file", "/nonexistent"], "cannot read"),
        (["bad", "--webhook", hook.url, "--max-queued", "0"], "between 1 and"),
        (["bad", "--s3", "https://s3.example.org"], "--access-key-id"),
        (["bad"], "--webhook"),
    ]:
        done = cloud.terroir("objects", "target", "add", *arguments, check=False)
        assert done.returncode != 0 and says in done.stderr, (arguments, done.stderr)
    hook.refuses = lambda document: True
    done = cloud.terroir("objects", "target", "test", "hook", check=False)
    assert done.returncode != 0 and "503" in done.stderr
    cloud.terroir("objects", "target", "remove", "hook")
    done = cloud.terroir("objects", "target", "remove", "hook", check=False)
    assert done.returncode != 0 and "no target" in done.stderr
    assert "hook" not in targets(cloud)


def test_a_foreign_s3_is_tried_out(shared_cloud, tmp_path):
    """The foreign one is this cloud itself, under an account of its own."""
    cloud = shared_cloud
    far = cloud.account("far")
    secret = tmp_path / "far"
    secret.write_text(far["secret_access_key"])
    s3 = cloud.client("s3", key=far["access_key_id"], secret=far["secret_access_key"])
    s3.create_bucket(Bucket="far-away")
    place = ["--s3", cloud.endpoint, "--s3-region", "eu-local-1", "--access-key-id", far["access_key_id"]]
    place += ["--secret-file", str(secret)]
    added = cloud.terroir("objects", "target", "add", "far", *place, "--bucket", "far-away")
    assert added.stdout.strip() == "arn:aws:s3:eu-local-1:000000000000:target/far"
    assert "wrote, read and deleted" in cloud.terroir("objects", "target", "test", "far").stdout
    assert "Contents" not in s3.list_objects_v2(Bucket="far-away")
    cloud.terroir("objects", "target", "add", "nowhere", *place, "--bucket", "not-there")
    done = cloud.terroir("objects", "target", "test", "nowhere", check=False)
    assert done.returncode != 0 and "NoSuchBucket" in done.stderr
    assert far["secret_access_key"] not in json.dumps(targets(cloud)) + done.stderr


def test_notifications_as_boto3_sees_them(shared_cloud, tmp_path, hook):
    cloud = shared_cloud
    other = cloud.account("others")
    [topic, queue] = name_target(cloud, tmp_path, "events", hook, "--max-queued", "50")
    [closed, _] = name_target(cloud, tmp_path, "closed", hook, "--account", other["account_id"])
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="tells")
    rules = {
        "TopicConfigurations": [
            {
                "Id": "images",
                "TopicArn": topic,
                "Events": ["s3:ObjectCreated:*"],
                "Filter": {"Key": {"FilterRules": [{"Name": "suffix", "Value": ".jpg"}]}},
            }
        ],
        "QueueConfigurations": [{"Id": "gone", "QueueArn": queue, "Events": ["s3:ObjectRemoved:*"]}],
    }
    put = s3.put_bucket_notification_configuration
    put(Bucket="tells", NotificationConfiguration=rules)
    shown = s3.get_bucket_notification_configuration(Bucket="tells")
    assert {name: shown[name] for name in rules} == rules
    s3.put_object(Bucket="tells", Key="a b/ü.jpg", Body=b"12345")
    s3.put_object(Bucket="tells", Key="plain.txt", Body=b"1")
    s3.delete_object(Bucket="tells", Key="plain.txt")
    until("both are told", lambda: len(hook.records) >= 2, 20)
    created, removed = sorted(hook.records, key=lambda record: record["eventName"])
    assert created["eventName"] == "ObjectCreated:Put" and created["s3"]["configurationId"] == "images"
    assert created["s3"]["object"]["key"] == "a+b/%C3%BC.jpg" and created["s3"]["object"]["size"] == 5
    assert created["requestParameters"]["sourceIPAddress"] == "127.0.0.1"
    assert removed["eventName"] == "ObjectRemoved:Delete" and removed["s3"]["object"]["key"] == "plain.txt"
    [first] = [document for _, document in hook.got if document.get("Event") == "s3:TestEvent"][:1]
    assert first["Bucket"] == "tells"
    one = {"Events": ["s3:ObjectCreated:*"]}
    for arn in [closed, hook.url, "arn:aws:sns:eu-local-1:000000000000:absent"]:
        bad = {"TopicConfigurations": [{**one, "TopicArn": arn}]}
        refused("InvalidArgument", put, Bucket="tells", NotificationConfiguration=bad)
    twice = {"TopicConfigurations": [{**one, "TopicArn": topic}], "QueueConfigurations": [{**one, "QueueArn": queue}]}
    refused("InvalidArgument", put, Bucket="tells", NotificationConfiguration=twice, contains="overlap")
    # Away: what happens meanwhile waits, is seen, and is bounded.
    hook.refuses = lambda document: True
    for number in range(60):
        s3.put_object(Bucket="tells", Key=f"{number}.jpg", Body=b"")
    until("they wait", lambda: targets(cloud)["events"]["queued"] == 50, 20)
    until("it is known why", lambda: "503" in (targets(cloud)["events"]["trouble"] or ""), 20)
    assert targets(cloud)["events"]["dropped"] == 10 and targets(cloud)["events"]["oldest"]
    assert any("events/events" in problem for problem in cloud.status()["problems"])
    stats = json.loads(cloud.terroir("objects", "stats", "--json").stdout)
    assert {queue["name"]: queue["entries"] for queue in stats["queues"]}["events/events"] == 50
    done = cloud.terroir("objects", "target", "remove", "events", check=False)
    assert done.returncode != 0 and "50 messages wait" in done.stderr
    assert "50 messages were dropped" in cloud.terroir("objects", "target", "remove", "events", "--force").stdout
    s3.put_object(Bucket="tells", Key="x.jpg", Body=b"")


def test_access_logs_are_delivered_at_the_end_at_the_latest(cloud):
    s3 = cloud.client("s3")
    for bucket in ["logged", "logs-here"]:
        s3.create_bucket(Bucket=bucket)
    target = {"TargetBucket": "logs-here", "TargetPrefix": "logged/"}
    status = {"LoggingEnabled": target}
    refused("InvalidTargetBucketForLogging", s3.put_bucket_logging, Bucket="logged", BucketLoggingStatus=status)
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "logging.s3.amazonaws.com"},
        "Action": "s3:PutObject",
        "Resource": "arn:aws:s3:::logs-here/logged/*",
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    s3.put_bucket_policy(Bucket="logs-here", Policy=policy)
    s3.put_bucket_logging(Bucket="logged", BucketLoggingStatus=status)
    assert s3.get_bucket_logging(Bucket="logged")["LoggingEnabled"] == target
    s3.put_object(Bucket="logged", Key="a b", Body=b"12345")
    s3.get_object(Bucket="logged", Key="a b")["Body"].read()
    cloud.end_server(signal.SIGTERM)
    [log] = s3.list_objects_v2(Bucket="logs-here", Prefix="logged/")["Contents"]
    lines = s3.get_object(Bucket="logs-here", Key=log["Key"])["Body"].read().decode().splitlines()
    assert re.fullmatch(r"logged/\d{4}-\d\d-\d\d-\d\d-\d\d-\d\d-[0-9A-F]{16}", log["Key"])
    operations = [line.split(" ")[7] for line in lines]
    assert operations[-2:] == ["REST.PUT.OBJECT", "REST.GET.OBJECT"] and " a%20b " in lines[-1]


class Writer(threading.Thread):
    """Writes and deletes its own keys until told to stop, and remembers what was acknowledged of each, in order."""

    def __init__(self, cloud, name):
        super().__init__()
        self.s3, self.name, self.done = cloud.client("s3"), name, {}
        self.stopped = threading.Event()

    def run(self):
        number = 0
        while not self.stopped.is_set():
            number += 1
            key = f"{self.name}-{random.randrange(4)}"
            try:
                if number % 5 == 0:
                    answer = self.s3.delete_object(Bucket="told", Key=key)
                    event = "ObjectRemoved:DeleteMarkerCreated"
                else:
                    body = random.randbytes(random.choice([10, 50_000]))
                    answer = self.s3.put_object(Bucket="told", Key=key, Body=body)
                    event = "ObjectCreated:Put"
                self.done.setdefault(key, []).append((event, answer["VersionId"]))
            except REFUSED:
                # Not acknowledged: the server is dead at the moment. Whether it was done is not known.
                self.stopped.wait(0.02)


def test_kill_9_loses_no_event_of_what_was_acknowledged(cloud, tmp_path, hook):
    [topic, _] = name_target(cloud, tmp_path, "all", hook)
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="told")
    s3.put_bucket_versioning(Bucket="told", VersioningConfiguration={"Status": "Enabled"})
    events = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
    rules = {"TopicConfigurations": [{"TopicArn": topic, "Events": events}]}
    s3.put_bucket_notification_configuration(Bucket="told", NotificationConfiguration=rules)
    hook.refuses = lambda document: random.random() < 0.2
    writers = [Writer(cloud, f"writer{number}") for number in range(4)]
    with writing(writers):
        for _ in range(3):
            known = sum(map(len, [w.done for w in writers])), len(hook.records)
            until("more is told", lambda known=known: len(hook.records) > known[1] + 20, 90)
            cloud.end_server()
    hook.refuses = lambda document: False
    until("nothing waits any more", lambda: targets(cloud)["all"]["queued"] == 0, 120)
    told = {}
    for record in hook.records:
        entry = record["s3"]["object"]
        told.setdefault(entry["key"], []).append((entry["sequencer"], record["eventName"], entry["versionId"]))
    done = {key: events for writer in writers for key, events in writer.done.items()}
    assert sum(map(len, done.values())) > 60
    for key, expected in done.items():
        # Some may be told twice, and some that were done without an answer.
        once = sorted(set(told[key]))
        assert [sequencer for sequencer, *_ in once] == list(dict.fromkeys(s for s, *_ in once))
        in_order = [(event, version) for _, event, version in once if (event, version) in expected]
        assert in_order == expected, key
        first_arrivals = list(dict.fromkeys(told[key]))
        assert first_arrivals == once, f"{key}: told out of order"
