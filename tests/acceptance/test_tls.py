"""The APIs over TLS with a certificate of the cloud's own, through unmodified clients."""

import http.client
import json
import os
import signal
import socket
import ssl
import time
import urllib.request

import boto3
import botocore.exceptions
import pytest
from botocore.config import Config
from cloud import CLEAN, TERROIR, Cloud, run
from waiting import until


class TlsCloud(Cloud):
    scheme = "https"

    @property
    def authorities(self):
        return str(self.data_dir / "tls/ca.pem")

    def context(self):
        return ssl.create_default_context(cafile=self.authorities)

    def serial(self):
        """Of the certificate that a new connection is shown."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as stream:
            with self.context().wrap_socket(stream, server_hostname="localhost") as tls:
                return tls.getpeercert()["serialNumber"]


@pytest.fixture(scope="module")
def tls_cloud():
    cloud = TlsCloud("simulated")
    try:
        cloud.terroir("tls", "init", "--name", "api.example.org")
        yield cloud.start()
    finally:
        cloud.destroy()


def test_no_other_machine_without_tls(tmp_path):
    done = run([TERROIR, "--data-dir", tmp_path, "up", "--listen", "0.0.0.0:9000"], check=False, env=CLEAN)
    assert done.returncode != 0 and "terroir tls init" in done.stderr, done.stderr
    assert not list(tmp_path.iterdir()), "nothing was begun"


def test_clients(tls_cloud):
    environment = tls_cloud.environment()
    assert environment["AWS_ENDPOINT_URL"] == tls_cloud.endpoint
    assert environment["AWS_CA_BUNDLE"] == tls_cloud.authorities
    assert tls_cloud.aws_json("sts", "get-caller-identity")["Arn"].endswith(":root")
    s3 = tls_cloud.client("s3")
    s3.create_bucket(Bucket="encrypted")
    s3.put_object(Bucket="encrypted", Key="k", Body=b"body" * 1000)
    assert s3.get_object(Bucket="encrypted", Key="k")["Body"].read() == b"body" * 1000
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "encrypted", "Key": "k"})
    with urllib.request.urlopen(url, context=tls_cloud.context(), timeout=20) as answer:
        assert len(answer.read()) == 4000
    key = os.urandom(32)
    options = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": key}
    s3.put_object(Bucket="encrypted", Key="own", Body=b"own", **options)
    assert s3.get_object(Bucket="encrypted", Key="own", **options)["Body"].read() == b"own"


def test_who_is_not_believed_and_not_served(tls_cloud):
    sts = boto3.client(
        "sts",
        endpoint_url=tls_cloud.endpoint,
        region_name="eu-local-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
        config=Config(retries={"total_max_attempts": 1}),
    )
    with pytest.raises(botocore.exceptions.SSLError):
        sts.get_caller_identity()
    plain = http.client.HTTPConnection("127.0.0.1", tls_cloud.port, timeout=20)
    plain.request("GET", "/healthz")
    answer = plain.getresponse()
    assert answer.status == 400 and b"https://" in answer.read()


def secure_only(bucket):
    everything = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    condition = {"Bool": {"aws:SecureTransport": "false"}}
    statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": everything, "Condition": condition}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def test_secure_transport_is_what_the_connection_is(tls_cloud, shared_cloud):
    """The policy that AWS's own guides recommend: deny what does not come over TLS."""
    for cloud, passes in [(tls_cloud, True), (shared_cloud, False)]:
        s3 = cloud.client("s3")
        s3.create_bucket(Bucket="secure-only")
        s3.put_object(Bucket="secure-only", Key="k", Body=b"x")
        s3.put_bucket_policy(Bucket="secure-only", Policy=secure_only("secure-only"))
        if passes:
            assert s3.get_object(Bucket="secure-only", Key="k")["Body"].read() == b"x"
        else:
            with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
                s3.get_object(Bucket="secure-only", Key="k")


def test_a_new_certificate_without_a_restart(tls_cloud):
    again = tls_cloud.terroir("tls", "init", check=False)
    assert again.returncode != 0 and "tls renew" in again.stderr, "nothing is overwritten silently"
    for file, mode in [("tls/ca.key", 0o600), ("tls/server.key", 0o600)]:
        assert (tls_cloud.data_dir / file).stat().st_mode & 0o777 == mode, file
    before, server = tls_cloud.serial(), tls_cloud.pid_of("server")
    living = http.client.HTTPSConnection("localhost", tls_cloud.port, context=tls_cloud.context(), timeout=20)

    def answers():
        living.request("GET", "/healthz")
        answer = living.getresponse()
        return answer.status == 200 and answer.read() == b"ok\n"

    assert answers()
    stream = living.sock
    named = tls_cloud.terroir("tls", "renew").stdout
    assert "api.example.org" in named, "the names of the one before"
    os.kill(server, signal.SIGHUP)
    until("the new certificate is shown", lambda: tls_cloud.serial() != before)
    assert answers() and living.sock is stream, "the connection from before goes on"

    # Without a signal the files are looked at now and then.
    before = tls_cloud.serial()
    tls_cloud.terroir("tls", "renew")
    start = time.monotonic()
    until("the next one is shown", lambda: tls_cloud.serial() != before)
    print(f"a changed certificate was used after {time.monotonic() - start:.1f} s")

    key = tls_cloud.data_dir / "tls/server.key"
    good = key.read_bytes()
    key.write_bytes(b"nonsense")
    until("the operator is told", lambda: any("still in use" in text for text in tls_cloud.status()["problems"]))
    assert answers() and tls_cloud.serial() != before
    key.write_bytes(good)
    until("it is well again", lambda: not any("still in use" in text for text in tls_cloud.status()["problems"]))
    assert tls_cloud.pid_of("server") == server
