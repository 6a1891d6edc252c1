"""S3 through the unmodified `aws` CLI and boto3."""

import hashlib
import os
import subprocess
import threading

import urllib3
from cloud import CLEAN, resident_bytes
from errors import refused

GIB = 1 << 30
MIB = 1 << 20


def test_the_tour_of_the_command_line(shared_cloud, tmp_path):
    """mb, cp, ls, sync, presign, mv, rm, rb: as the README shows them."""
    aws = shared_cloud.aws
    tree = tmp_path / "tree"
    (tree / "deep/er").mkdir(parents=True)
    (tree / "one.txt").write_text("one")
    (tree / "deep/er/ä ö+&.txt").write_text("two")
    (tree / "empty").write_bytes(b"")
    aws("s3", "mb", "s3://tour")
    aws("s3", "cp", tree / "one.txt", "s3://tour/single/one.txt")
    aws("s3", "sync", tree, "s3://tour/tree")
    listed = aws("s3", "ls", "s3://tour", "--recursive").stdout
    for name in ("single/one.txt", "tree/one.txt", "tree/deep/er/ä ö+&.txt", "tree/empty"):
        assert name in listed
    back = tmp_path / "back"
    aws("s3", "sync", "s3://tour/tree", back)
    assert subprocess.run(["diff", "-r", tree, back]).returncode == 0
    assert aws("s3", "sync", tree, "s3://tour/tree").stdout == "", "nothing changed, nothing to do"
    (tree / "empty").unlink()
    assert "delete" in aws("s3", "sync", "--delete", tree, "s3://tour/tree").stdout

    url = aws("s3", "presign", "s3://tour/single/one.txt", "--expires-in", "60").stdout.strip()
    answer = urllib3.request("GET", url, retries=False)
    assert (answer.status, answer.data) == (200, b"one")
    assert urllib3.request("GET", url.replace("one.txt", "two.txt"), retries=False).status == 403

    aws("s3", "mv", "s3://tour/single/one.txt", "s3://tour/moved.txt")
    assert aws("s3", "cp", "s3://tour/moved.txt", "-").stdout == "one"
    done = aws("s3", "rb", "s3://tour", check=False)
    assert done.returncode != 0 and "BucketNotEmpty" in done.stderr
    aws("s3", "rb", "s3://tour", "--force")
    assert "tour" not in aws("s3", "ls").stdout


def test_a_gibibyte_goes_up_and_down_in_bounded_memory(shared_cloud, tmp_path):
    """Equal hash, and the server's memory grows by less than 100 MiB."""
    source = tmp_path / "source"
    hash_up = hashlib.sha256()
    block = os.urandom(4 * MIB)
    with source.open("wb") as file:
        for number in range(GIB // len(block)):
            part = number.to_bytes(8, "big") + block[8:]
            file.write(part)
            hash_up.update(part)
    shared_cloud.aws("s3", "mb", "s3://large")
    pid = shared_cloud.pid_of("server")
    before = resident_bytes(pid)
    peak = [before]
    done = threading.Event()

    def watch():
        while not done.wait(0.05):
            peak[0] = max(peak[0], resident_bytes(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        shared_cloud.aws("s3", "cp", "--only-show-errors", source, "s3://large/object", timeout=280)
        source.unlink()
        target = tmp_path / "target"
        shared_cloud.aws("s3", "cp", "--only-show-errors", "s3://large/object", target, timeout=280)
    finally:
        done.set()
        watcher.join()
    with target.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == hash_up.hexdigest()
    target.unlink()
    assert peak[0] - before < 100 * MIB, f"grew by {(peak[0] - before) / MIB:.0f} MiB"
    shared_cloud.aws("s3", "rm", "s3://large/object")


def test_a_bucket_may_stand_in_the_path_or_in_the_host_name(shared_cloud):
    s3 = shared_cloud.client("s3", s3={"addressing_style": "path"})
    s3.create_bucket(Bucket="styles")
    s3.put_object(Bucket="styles", Key="a/b", Body=b"by path")
    # Not every resolver knows that names under localhost are this machine, so the connection is made by address.
    by_host = shared_cloud.client(
        "s3", endpoint=f"http://localhost:{shared_cloud.port}", s3={"addressing_style": "virtual"}
    )
    host = f"styles.localhost:{shared_cloud.port}"

    def request(method, operation, **options):
        url = by_host.generate_presigned_url(operation, {"Bucket": "styles", "Key": "a/b"})
        assert url.startswith(f"http://{host}/a/b?"), url
        url = url.replace(host, f"127.0.0.1:{shared_cloud.port}", 1)
        return urllib3.request(method, url, headers={"Host": host}, retries=False, **options)

    answer = request("GET", "get_object")
    assert (answer.status, answer.data) == (200, b"by path")
    assert request("PUT", "put_object", body=b"by host").status == 200
    assert s3.get_object(Bucket="styles", Key="a/b")["Body"].read() == b"by host"


def test_refusals_have_s3_s_words(shared_cloud):
    s3 = shared_cloud.client("s3")
    s3.create_bucket(Bucket="words")
    s3.put_object(Bucket="words", Key="k", Body=b"1")
    tenant = shared_cloud.account("other-tenant")
    theirs = shared_cloud.client("s3", tenant["access_key_id"], tenant["secret_access_key"])
    rows = [
        ("NoSuchBucket", 404, s3.list_objects_v2, {"Bucket": "absent"}),
        ("NoSuchKey", 404, s3.get_object, {"Bucket": "words", "Key": "absent"}),
        ("BucketAlreadyOwnedByYou", 409, s3.create_bucket, {"Bucket": "words"}),
        ("BucketAlreadyExists", 409, theirs.create_bucket, {"Bucket": "words"}),
        ("AccessDenied", 403, theirs.get_object, {"Bucket": "words", "Key": "k"}),
        ("InvalidBucketName", 400, s3.create_bucket, {"Bucket": "Upper_Case"}),
        ("BucketNotEmpty", 409, s3.delete_bucket, {"Bucket": "words"}),
        ("PreconditionFailed", 412, s3.put_object, {"Bucket": "words", "Key": "k", "Body": b"2", "IfNoneMatch": "*"}),
        ("InvalidRange", 416, s3.get_object, {"Bucket": "words", "Key": "k", "Range": "bytes=9-"}),
        ("BadDigest", 400, s3.put_object, {"Bucket": "words", "Key": "d", "Body": b"2", "ChecksumCRC32": "AAAAAA=="}),
        ("NoSuchUpload", 404, s3.list_parts, {"Bucket": "words", "Key": "k", "UploadId": "none"}),
    ]
    for code, status, call, arguments in rows:
        refused(code, call, status=status, **arguments)
    assert s3.get_object(Bucket="words", Key="k")["Body"].read() == b"1"


def test_an_empty_object_does_not_confuse_the_next_call(shared_cloud):
    """botocore keeps the status of an answer that came instead of `100 Continue` for the connection's next answer."""
    s3 = shared_cloud.client("s3")
    s3.create_bucket(Bucket="empty-object")
    s3.put_object(Bucket="empty-object", Key="k", Body=b"")
    wrong = {"Bucket": "empty-object", "Key": "k", "Body": b"2", "ChecksumCRC32": "AAAAAA=="}
    refused("BadDigest", s3.put_object, status=400, **wrong)


def test_of_racing_creations_one_wins(shared_cloud):
    s3 = shared_cloud.client("s3")
    s3.create_bucket(Bucket="race")
    for attempt in range(5):
        results = [None] * 8
        barrier = threading.Barrier(8)

        def create(number, key=f"k{attempt}", results=results, barrier=barrier):
            client = shared_cloud.client("s3")
            barrier.wait()
            try:
                client.put_object(Bucket="race", Key=key, Body=str(number).encode(), IfNoneMatch="*")
                results[number] = "won"
            except client.exceptions.ClientError as error:
                results[number] = error.response["Error"]["Code"]

        threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results.count("won") == 1, results
        assert set(results) <= {"won", "PreconditionFailed", "ConditionalRequestConflict"}, results
        winner = s3.get_object(Bucket="race", Key=f"k{attempt}")["Body"].read().decode()
        assert results[int(winner)] == "won"


def test_a_killed_upload_leaves_nothing_visible(shared_cloud, tmp_path):
    source = tmp_path / "large"
    with source.open("wb") as file:
        file.truncate(256 * MIB)
    shared_cloud.aws("s3", "mb", "s3://half")
    from cloud import AWS

    environment = CLEAN | shared_cloud.environment()
    upload = subprocess.Popen([AWS, "s3", "cp", str(source), "s3://half/large"], env=environment, stdout=subprocess.PIPE)
    # The first byte of the progress display: the transfer has begun.
    upload.stdout.read(1)
    upload.kill()
    upload.wait()
    assert shared_cloud.aws("s3", "ls", "s3://half").stdout == ""
