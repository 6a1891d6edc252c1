"""The bytes of objects in a real Ceph, by its radosgw; an OSD dies while they are written."""

import random
import threading
import uuid

import botocore.exceptions
import boto3
import pytest
from botocore.config import Config
from ceph import Ceph
from waiting import until
from writing import writing

pytestmark = [pytest.mark.ceph, pytest.mark.timeout(600)]
WRITERS = 8
REFUSED = (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)


@pytest.fixture
def ceph():
    ceph = Ceph()
    try:
        yield ceph.start()
    finally:
        ceph.destroy()


class Writer(threading.Thread):
    """Writes until told to stop, and remembers what was acknowledged."""

    def __init__(self, cloud, seed):
        super().__init__()
        self.s3, self.objects, self.refused = cloud.client("s3"), {}, 0
        self.random, self.stopped = random.Random(seed), threading.Event()

    def run(self):
        while not self.stopped.is_set():
            key = str(uuid.UUID(int=self.random.getrandbits(128)))
            body = self.random.randbytes(self.random.choice([100, 40_000, 300_000, 300_000, 9_000_000]))
            try:
                self.s3.put_object(Bucket="near", Key=key, Body=body)
                self.objects[key] = body
            except REFUSED:
                self.refused += 1
                self.stopped.wait(0.1)


def test_an_osd_dies_under_writers_and_nothing_acknowledged_is_lost(ceph, cloud, tmp_path):
    key, secret = ceph.user()
    path = tmp_path / "secret"
    path.write_text(secret)
    config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 10})
    there = boto3.client(
        "s3", endpoint_url=ceph.endpoint, region_name="default", aws_access_key_id=key, aws_secret_access_key=secret, config=config
    )
    there.create_bucket(Bucket="bytes-only")
    place = ["--s3", ceph.endpoint, "--s3-region", "default", "--access-key-id", key, "--secret-file", str(path)]
    cloud.terroir("objects", "target", "add", "ceph", *place, "--bucket", "bytes-only")
    assert "target ceph" in cloud.terroir("objects", "engine", "--target", "ceph").stdout
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="near")
    writers = [Writer(cloud, seed) for seed in range(WRITERS)]

    def written():
        return sum(len(writer.objects) for writer in writers)

    def more(count):
        known = written()
        until(f"{count} more are written", lambda: written() >= known + count, 120)

    with writing(writers):
        more(20)
        ceph.kill_osd(2)
        more(30)
        until("Ceph has noticed", lambda: ceph.osds_up() == 2, 60)
        more(10)
        ceph.start_osd(2)
        until("the OSD is back", lambda: ceph.osds_up() == 3, 60)
        more(10)
    acknowledged = {key: body for writer in writers for key, body in writer.objects.items()}
    print(f"{len(acknowledged)} acknowledged, {sum(writer.refused for writer in writers)} refused")
    for key, body in acknowledged.items():
        assert s3.get_object(Bucket="near", Key=key)["Body"].read() == body, key
    until("Ceph is whole again", ceph.is_clean, 120)
    large = {key: body for key, body in acknowledged.items() if len(body) > 32 << 10}
    key, body = max(large.items(), key=lambda item: len(item[1]))
    part = s3.get_object(Bucket="near", Key=key, Range="bytes=70000-99999")["Body"].read()
    assert part == body[70_000:100_000]
    s3.copy_object(Bucket="near", Key="copy", CopySource={"Bucket": "near", "Key": key})
    s3.delete_object(Bucket="near", Key=key)
    assert s3.get_object(Bucket="near", Key="copy")["Body"].read() == body
    stored = [item for page in there.get_paginator("list_objects_v2").paginate(Bucket="bytes-only") for item in page["Contents"]]
    assert len(stored) >= len(large) and all(item["Key"].startswith("terroir/") for item in stored)
    sample = there.get_object(Bucket="bytes-only", Key=stored[0]["Key"])["Body"].read()
    assert not any(sample[:64] in body or body[:64] in sample for body in large.values())
