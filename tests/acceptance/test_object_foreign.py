"""The bytes of larger objects in a foreign S3, which is another cloud; the server is killed while it writes."""

import os
import random
import signal
import threading
import uuid

import botocore.exceptions
import pytest
from cloud import Cloud
from errors import refused
from waiting import until
from writing import writing

REFUSED = (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)


@pytest.fixture
def far():
    cloud = Cloud("simulated")
    try:
        yield cloud.start()
    finally:
        cloud.destroy()


class Writer(threading.Thread):
    """Writes and deletes until told to stop, and remembers what was acknowledged."""

    def __init__(self, cloud):
        super().__init__()
        self.s3, self.objects = cloud.client("s3"), {}
        self.stopped = threading.Event()

    def run(self):
        while not self.stopped.is_set():
            try:
                key, body = str(uuid.uuid4()), random.randbytes(random.choice([100, 50_000, 300_000, 9_000_000]))
                self.s3.put_object(Bucket="near", Key=key, Body=body)
                self.objects[key] = body
                if len(self.objects) > 20:
                    gone = random.choice(list(self.objects))
                    del self.objects[gone]
                    self.s3.delete_object(Bucket="near", Key=gone)
            except REFUSED:
                # Not acknowledged: the server is dead at the moment.
                self.stopped.wait(0.02)


def listed(s3, bucket):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [item for page in pages for item in page.get("Contents", [])]


def holds(cloud, canary):
    """Whether anything in the data folder has these bytes."""
    files = [path for path in cloud.data_dir.rglob("*") if path.is_file() and not path.is_symlink()]
    return any(canary in path.read_bytes() for path in files)


def test_kill_9_loses_nothing_and_leaves_nothing(cloud, far, tmp_path):
    account = far.account("engine")
    secret = tmp_path / "secret"
    secret.write_text(account["secret_access_key"])
    there = far.client("s3", key=account["access_key_id"], secret=account["secret_access_key"])
    there.create_bucket(Bucket="bytes-only")
    place = ["--s3", far.endpoint, "--s3-region", "eu-local-1", "--access-key-id", account["access_key_id"]]
    place += ["--secret-file", str(secret), "--bucket", "bytes-only"]
    cloud.terroir("objects", "target", "add", "far", *place)
    done = cloud.terroir("objects", "engine", "--target", "nowhere", check=False)
    assert done.returncode != 0 and "no target" in done.stderr
    assert "disk" in cloud.terroir("objects", "engine").stdout
    assert "target far" in cloud.terroir("objects", "engine", "--target", "far").stdout
    done = cloud.terroir("objects", "target", "remove", "far", check=False)
    assert done.returncode != 0 and "bytes of objects" in done.stderr
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="near")
    # The foreign store is blind; that the search finds what is there shows with one that was planted.
    canary, planted = os.urandom(32).hex().encode(), os.urandom(32).hex().encode()
    for size in (1, 100_000):
        s3.put_object(Bucket="near", Key=f"canary-{size}", Body=canary * (size // 64 + 600), Metadata={"c": canary.decode()})
    there.create_bucket(Bucket="planted")
    there.put_object(Bucket="planted", Key="large", Body=planted * 2000)
    assert len(listed(there, "bytes-only")) == 2
    assert holds(far, planted) and not holds(far, canary)
    done = cloud.terroir("objects", "engine").stdout
    assert "at far: 2 contents" in done and "nobody has stated where it is" in done
    for size in (1, 100_000):
        s3.delete_object(Bucket="near", Key=f"canary-{size}")
    writers = [Writer(cloud) for _ in range(3)]
    with writing(writers):
        for _ in range(3):
            known = sum(len(writer.objects) for writer in writers)
            until("more is written", lambda known=known: sum(len(w.objects) for w in writers) > min(known + 8, 50), 90)
            cloud.end_server()
    for key, body in [item for writer in writers for item in writer.objects.items()]:
        assert s3.get_object(Bucket="near", Key=key)["Body"].read() == body, key
    # What was never named is swept by the next start.
    cloud.end_server(signal.SIGTERM)
    large = sum(item["Size"] > 32 << 10 for item in listed(s3, "near"))
    until("there are as many there", lambda: len(listed(there, "bytes-only")) == large, 90)
    until("no upload is left", lambda: "Uploads" not in there.list_multipart_uploads(Bucket="bytes-only"), 60)
    assert all(item["Key"].startswith("terroir/") for item in listed(there, "bytes-only"))
    # Away: clear words, and what needs no bytes goes on.
    stopped = far.pid_of("server")
    os.kill(stopped, signal.SIGSTOP)
    try:
        s3.put_object(Bucket="near", Key="small", Body=b"x")
    finally:
        os.kill(stopped, signal.SIGCONT)
    far.stop()
    refused("ServiceUnavailable", s3.put_object, Bucket="near", Key="large", Body=b"x" * 100_000, status=503)
    assert s3.get_object(Bucket="near", Key="small")["Body"].read() == b"x"
    assert "disk" in cloud.terroir("objects", "engine", "--local").stdout
    s3.put_object(Bucket="near", Key="large", Body=b"x" * 100_000)
