"""Versions copied to another bucket and to a foreign S3, while the server is killed."""

import json
import random
import threading

import botocore.exceptions
from errors import refused
from waiting import until
from writing import writing

REFUSED = (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "s3.amazonaws.com"}, "Action": "sts:AssumeRole"}
    ],
}
MAY_COPY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["s3:Get*", "s3:Replicate*"], "Resource": "*"}],
}


def make_role(cloud):
    iam = cloud.client("iam")
    role = iam.create_role(RoleName="copier", AssumeRolePolicyDocument=json.dumps(TRUST))["Role"]["Arn"]
    iam.put_role_policy(RoleName="copier", PolicyName="copy", PolicyDocument=json.dumps(MAY_COPY))
    return role


def make_bucket(s3, name):
    s3.create_bucket(Bucket=name)
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})


def name_foreign(cloud, tmp_path):
    """The foreign S3 is this cloud itself, under another account."""
    far = cloud.account("far")
    secret = tmp_path / "far"
    secret.write_text(far["secret_access_key"])
    s3 = cloud.client("s3", key=far["access_key_id"], secret=far["secret_access_key"])
    s3.create_bucket(Bucket="far-away")
    arguments = ["--s3", cloud.endpoint, "--s3-region", "eu-local-1", "--access-key-id", far["access_key_id"]]
    arguments += ["--secret-file", str(secret), "--bucket", "far-away"]
    added = cloud.terroir("objects", "target", "add", "far", *arguments)
    return added.stdout.strip(), s3


def rule(name, priority, bucket):
    return {
        "ID": name,
        "Priority": priority,
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "DeleteMarkerReplication": {"Status": "Enabled"},
        "Destination": {"Bucket": bucket},
    }


def versions(s3, bucket):
    """Of each key: version ids and ETags (none for a delete marker), as they are listed."""
    found = {}
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        for item in page.get("Versions", []) + page.get("DeleteMarkers", []):
            found.setdefault(item["Key"], set()).add((item["VersionId"], item.get("ETag"), item["IsLatest"]))
    return found


class Writer(threading.Thread):
    """Writes and deletes its own keys until told to stop."""

    def __init__(self, cloud, name):
        super().__init__()
        self.s3, self.name, self.acknowledged = cloud.client("s3"), name, 0
        self.stopped = threading.Event()

    def run(self):
        while not self.stopped.is_set():
            key = f"{self.name}-{random.randrange(4)}"
            try:
                if random.random() < 0.2:
                    self.s3.delete_object(Bucket="source", Key=key)
                else:
                    body = random.randbytes(random.choice([10, 50_000, 300_000]))
                    self.s3.put_object(Bucket="source", Key=key, Body=body, Tagging="a=b")
                self.acknowledged += 1
            except REFUSED:
                # Not acknowledged: the server is dead at the moment.
                self.stopped.wait(0.02)


def waiting(cloud):
    stats = json.loads(cloud.terroir("objects", "stats", "--json").stdout)
    return sum(queue["entries"] for queue in stats["queues"] if queue["name"].startswith("replicate/"))


def test_kill_9_in_the_middle_of_copying(cloud, tmp_path):
    s3, role = cloud.client("s3"), make_role(cloud)
    make_bucket(s3, "source")
    make_bucket(s3, "copies")
    far_arn, far = name_foreign(cloud, tmp_path)
    rules = {"Role": role, "Rules": [rule("here", 1, "arn:aws:s3:::copies"), rule("away", 2, far_arn)]}
    s3.put_bucket_replication(Bucket="source", ReplicationConfiguration=rules)
    shown = s3.get_bucket_replication(Bucket="source")["ReplicationConfiguration"]
    assert shown["Role"] == role and [item["Destination"] for item in shown["Rules"]] == [
        item["Destination"] for item in rules["Rules"]
    ]
    writers = [Writer(cloud, f"writer{number}") for number in range(4)]
    with writing(writers):
        for _ in range(3):
            known = sum(writer.acknowledged for writer in writers)
            until("more is written", lambda known=known: sum(w.acknowledged for w in writers) > known + 40, 90)
            cloud.end_server()
    until("nothing waits any more", lambda: waiting(cloud) == 0, 180)
    source = versions(s3, "source")
    assert sum(map(len, source.values())) > 100
    assert versions(s3, "copies") == source
    for key, found in source.items():
        for version, etag, latest in found:
            if etag is None:
                continue
            head = s3.head_object(Bucket="source", Key=key, VersionId=version)
            assert head["ReplicationStatus"] == "COMPLETED", key
            copy = s3.head_object(Bucket="copies", Key=key, VersionId=version)
            assert copy["ReplicationStatus"] == "REPLICA" and copy["LastModified"] == head["LastModified"]
    # The foreign one has the newest of each key, or nothing where that is a delete marker.
    account = cloud.client("sts").get_caller_identity()["Account"]
    listed = far.get_paginator("list_objects_v2").paginate(Bucket="far-away")
    away = {item["Key"]: item["ETag"] for page in listed for item in page.get("Contents", [])}
    newest = {
        f"{account}/source/{key}": etag
        for key, found in source.items()
        for _, etag, latest in found
        if latest and etag is not None
    }
    assert away == newest
    report = cloud.terroir("objects", "verify", "--json")
    assert json.loads(report.stdout)["found"] == 0


def test_replication_is_refused_as_aws_refuses_it(shared_cloud):
    cloud = shared_cloud
    s3, role = cloud.client("s3"), make_role(cloud)
    make_bucket(s3, "from-here")
    make_bucket(s3, "to-there")
    s3.create_bucket(Bucket="unversioned")

    def put(bucket="from-here", role=role, **changes):
        rules = [{**rule("r", 1, "arn:aws:s3:::to-there"), **changes}]
        s3.put_bucket_replication(Bucket=bucket, ReplicationConfiguration={"Role": role, "Rules": rules})

    put()
    refused("InvalidRequest", put, bucket="unversioned", contains="versioning")
    refused("InvalidRequest", put, Destination={"Bucket": "arn:aws:s3:::unversioned"}, contains="versioning")
    refused("InvalidRequest", put, Destination={"Bucket": "arn:aws:s3:::absent-bucket"}, contains="must exist")
    far = "arn:aws:s3:eu-local-1:000000000000:target/absent"
    refused("InvalidRequest", put, Destination={"Bucket": far}, contains="must exist")
    refused("InvalidArgument", put, Destination={"Bucket": "https://s3.example.org"})
    refused("InvalidArgument", put, role="nobody")
    s3.delete_bucket_replication(Bucket="from-here")
    refused("ReplicationConfigurationNotFoundError", s3.get_bucket_replication, Bucket="from-here", status=404)
