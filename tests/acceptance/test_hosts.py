"""Hosts that join, are used, and go: over the real door, with simulated guests."""

import concurrent.futures
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from cloud import CLEAN, TERROIR, Cloud, free_port, run
from waiting import until

SERVER_NAME = "control-plane.terroir.internal"


class Joined:
    """A machine of its own, as far as folders go."""

    def __init__(self, prefix=()):
        self.data_dir = Path(tempfile.mkdtemp(prefix="terroir-host-", dir="/var/tmp"))
        self.data_dir.chmod(0o755)
        self.prefix = list(prefix)

    def terroir(self, *arguments, check=True, **options):
        options.setdefault("env", CLEAN)
        return run([*self.prefix, TERROIR, "--data-dir", str(self.data_dir), *arguments], check=check, **options)

    def join(self, token, *arguments, check=True):
        return self.terroir("host", "join", token, "--detach", *arguments, check=check)

    def status(self):
        return json.loads(self.terroir("status", "--json", check=False).stdout)

    @property
    def id(self):
        return (self.data_dir / "agent/host-id").read_text().strip()

    def membership(self):
        return json.loads((self.data_dir / "agent/membership.json").read_text())

    def destroy(self):
        self.terroir("down", check=False)
        shutil.rmtree(self.data_dir, ignore_errors=True)


@pytest.fixture
def cloud():
    cloud = Cloud("simulated")
    cloud.hosts_port = free_port()
    cloud.extra_arguments = ["--hosts-listen", f"127.0.0.1:{cloud.hosts_port}"]
    try:
        yield cloud.start()
    finally:
        cloud.destroy()


@pytest.fixture
def machine():
    """Makes machines, and removes them."""
    made = []

    def make(prefix=()):
        made.append(Joined(prefix))
        return made[-1]

    try:
        yield make
    finally:
        for joined in made:
            joined.destroy()


def token(cloud, *arguments):
    return json.loads(cloud.terroir("host", "token", "--json", *arguments).stdout)["token"]


def hosts(cloud):
    return {row["id"]: row for row in json.loads(cloud.terroir("host", "list", "--json").stdout)}


def local_host(cloud):
    return (cloud.data_dir / "agent/host-id").read_text().strip()


def empty_image(cloud, tmp_path):
    disk = tmp_path / "empty.raw"
    disk.write_bytes(b"\0" * (1 << 20))
    cloud.terroir("image", "import", str(disk), "--name", "empty")
    [image] = cloud.client("ec2").describe_images(Filters=[{"Name": "name", "Values": ["empty"]}])["Images"]
    return image["ImageId"]


def state(ec2, instance):
    [reservation] = ec2.describe_instances(InstanceIds=[instance])["Reservations"]
    return reservation["Instances"][0]["State"]["Name"]


def crossing(cloud, authority_pem, membership, path, body):
    """One request to the hosts' door with a member's certificate, or without one: status and text."""
    context = ssl.create_default_context(cadata=authority_pem)
    with tempfile.NamedTemporaryFile("w") as file:
        if membership:
            file.write(membership["membership"]["certificate_pem"] + membership["key_pem"])
            file.flush()
            context.load_cert_chain(file.name)
    connection = http.client.HTTPSConnection("127.0.0.1", cloud.hosts_port, context=context, timeout=20)
    # By its name, whatever the address is.
    connection.sock = context.wrap_socket(connection_to(cloud), server_hostname=SERVER_NAME)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def connection_to(cloud):
    return socket.create_connection(("127.0.0.1", cloud.hosts_port), timeout=20)


def test_a_host_joins_works_and_leaves(cloud, machine, tmp_path):
    image = empty_image(cloud, tmp_path)
    ec2 = cloud.client("ec2")
    first = machine()
    once = token(cloud)
    assert "is a host of eu-local-1 at eu-local-1a" in first.join(once, "--hypervisor", "simulated").stdout
    assert first.status()["ready"]
    assert [process["name"] for process in first.status()["processes"]] == ["guest-services", "agent"]
    assert set(hosts(cloud)) == {local_host(cloud), first.id}
    assert (first.data_dir / "agent/membership.json").stat().st_mode & 0o777 == 0o600
    assert not (first.data_dir / "state").exists(), "nothing of a control plane"

    cloud.terroir("host", "cordon", local_host(cloud))
    launched = ec2.run_instances(ImageId=image, InstanceType="tr1.pico", MinCount=2, MaxCount=2)["Instances"]
    ids = [instance["InstanceId"] for instance in launched]
    until("they run on the host that joined", lambda: {state(ec2, one) for one in ids} == {"running"})

    drained = cloud.terroir("host", "drain", first.id, check=False)
    assert drained.returncode != 0 and all(one in drained.stdout for one in ids), drained
    assert "cannot be moved" in drained.stderr
    assert hosts(cloud)[first.id]["mode"] == "cordoned"
    refused = cloud.terroir("host", "remove", first.id, check=False)
    assert refused.returncode != 0 and "declare-lost" in refused.stderr, refused.stderr
    with pytest.raises(Exception, match="2 cordoned"):
        ec2.run_instances(ImageId=image, InstanceType="tr1.pico", MinCount=1, MaxCount=1)

    ec2.terminate_instances(InstanceIds=ids)
    until("they are gone", lambda: {state(ec2, one) for one in ids} == {"terminated"})
    until("nothing is left", lambda: cloud.terroir("host", "drain", first.id, check=False).returncode == 0)
    cloud.terroir("host", "remove", first.id)
    until("the host is refused", lambda: "removed" in str(first.status()["problems"]))
    assert set(hosts(cloud)) == {local_host(cloud)}

    # With a new token it may come back, under its old name.
    first.terroir("down")
    again = first.join(once, check=False)
    assert again.returncode != 0 and "does not count" in again.stderr, again.stderr
    first.join(token(cloud))
    assert first.id in hosts(cloud) and first.status()["ready"]

    moved = cloud.terroir("up", "--hosts-listen", f"127.0.0.1:{free_port()}", check=False)
    assert moved.returncode != 0 and "already running" in moved.stderr, "nothing is ignored silently"


def test_tokens_that_do_not_count(cloud, machine):
    first = machine()
    once = token(cloud)
    first.join(once, "--hypervisor", "simulated")
    short = token(cloud, "--ttl", "1s")
    made = time.monotonic()
    until("the token is too old", lambda: time.monotonic() > made + 1, 10)
    middle = len(once) // 2
    other = "A" if once[middle] != "A" else "B"
    for what, text, words in [
        ("used", once, "does not count"),
        ("expired", short, "does not count"),
        ("changed", once[:middle] + other + once[middle + 1 :], ""),
        ("cut off", once[:middle], "no token"),
        ("nothing", "hello", "no token"),
    ]:
        refused = machine().join(text, "--hypervisor", "simulated", check=False)
        assert refused.returncode != 0 and words in refused.stderr, f"{what}: {refused}"
    assert set(hosts(cloud)) == {local_host(cloud), first.id}
    for arguments, words in [
        (["--site", "eu-local-1z"], "no site"),
        (["--ttl", "30d"], "seven days"),
        (["--server", "0.0.0.0:1"], "could dial"),
        (["--host", "host-00000000000000000"], "does not exist"),
    ]:
        refused = cloud.terroir("host", "token", *arguments, check=False)
        assert refused.returncode != 0 and words in refused.stderr, refused

    racing = token(cloud)
    racers = [machine() for _ in range(3)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda one: one.join(racing, "--hypervisor", "simulated", check=False), racers))
    assert sorted(one.returncode == 0 for one in done) == [False, False, True], done
    assert len(hosts(cloud)) == 3


def test_a_token_of_another_cloud_and_other_certificates(cloud, machine):
    """Whoever has the token believes only its authority; the door lets in only its own."""
    first, stranger = machine(), machine()
    first.join(token(cloud), "--hypervisor", "simulated")
    other = Cloud("simulated")
    other.hosts_port = free_port()
    other.extra_arguments = ["--hosts-listen", f"127.0.0.1:{other.hosts_port}"]
    try:
        other.start()
        # The other cloud's authority, this cloud's address.
        foreign = token(other, "--server", f"127.0.0.1:{cloud.hosts_port}")
        refused = stranger.join(foreign, "--hypervisor", "simulated", check=False)
        assert refused.returncode != 0 and "no server answers as the token's" in refused.stderr, refused.stderr
        stranger.join(token(other))
        ours, theirs = first.membership(), stranger.membership()
    finally:
        stranger.terroir("down", check=False)
        other.destroy()
    authority = ours["membership"]["authority_pem"]
    pull = {"host": first.id, "cursor": 0, "wait_ms": 0}
    status, text = crossing(cloud, authority, ours, "/v1/pull-spec", pull)
    assert status == 200 and json.loads(text)["full"], text
    for host in [local_host(cloud), stranger.id]:
        status, text = crossing(cloud, authority, ours, "/v1/pull-spec", pull | {"host": host})
        assert status == 403 and f"not of {host}" in text, text
    status, text = crossing(cloud, authority, None, "/v1/pull-spec", pull)
    assert status == 403 and "may only join" in text, text
    with pytest.raises((ssl.SSLError, OSError)):
        crossing(cloud, authority, theirs, "/v1/pull-spec", pull)


def test_certificates_are_renewed_and_a_killed_server_is_found_again(machine):
    cloud = Cloud("simulated")
    cloud.hosts_port = free_port()
    cloud.extra_arguments = ["--hosts-listen", f"127.0.0.1:{cloud.hosts_port}"]
    cloud.data_dir.mkdir(exist_ok=True)
    (cloud.data_dir / "terroir.toml").write_text("host_certificate_secs = 16\n")
    try:
        cloud.start()
        host = machine()
        # The first of the two addresses answers nobody.
        dead = f"127.0.0.1:{free_port()}"
        host.join(
            token(cloud, "--server", dead, "--server", f"127.0.0.1:{cloud.hosts_port}"), "--hypervisor", "simulated"
        )
        seen = {host.membership()["membership"]["certificate_pem"]}
        keys = {host.membership()["key_pem"]}

        def renewed():
            seen.add(host.membership()["membership"]["certificate_pem"])
            keys.add(host.membership()["key_pem"])
            return len(seen) >= 3

        until("it was renewed twice", renewed, seconds=60)
        assert len(keys) == len(seen), "each with a new key"
        assert host.status()["ready"]
        killed = cloud.pid_of("server")
        subprocess.run(["kill", "-9", str(killed)], check=True)
        until("the host noticed", lambda: not host.status()["ready"], seconds=60)
        until("the server is back", lambda: cloud.status()["ready"] and cloud.pid_of("server") != killed)
        until("the host is back", lambda: host.status()["ready"])
        before = len(seen)
        until("renewals go on", lambda: renewed() and len(seen) > before, seconds=60)
    finally:
        cloud.destroy()


def test_a_lost_host_is_refused_and_its_instances_are_stopped(cloud, machine, tmp_path):
    image = empty_image(cloud, tmp_path)
    ec2 = cloud.client("ec2")
    host = machine()
    host.join(token(cloud), "--hypervisor", "simulated")
    cloud.terroir("host", "cordon", local_host(cloud))
    [one] = ec2.run_instances(ImageId=image, InstanceType="tr1.pico", MinCount=1, MaxCount=1)["Instances"]
    one = one["InstanceId"]
    until("it runs", lambda: state(ec2, one) == "running")
    unsure = cloud.terroir("host", "declare-lost", host.id, check=False)
    assert unsure.returncode != 0 and "--yes" in unsure.stderr and hosts(cloud)[host.id]["mode"] == "active"
    cloud.terroir("host", "declare-lost", host.id, "--yes")
    until("it is stopped", lambda: state(ec2, one) == "stopped")
    until("the host is refused", lambda: "lost" in str(host.status()["problems"]))
    refused = cloud.terroir("host", "remove", host.id, check=False)
    assert refused.returncode != 0 and "not deleted yet" in refused.stderr, refused.stderr
    assert hosts(cloud)[host.id]["mode"] == "lost"


def test_the_first_machine_may_be_no_host(cloud):
    """Removed for good, also over a restart, until it is let in again."""
    local = local_host(cloud)
    cloud.terroir("host", "cordon", local)
    cloud.terroir("host", "remove", local)
    subprocess.run(["kill", "-9", str(cloud.pid_of("agent"))], check=True)
    server = cloud.pid_of("server")
    subprocess.run(["kill", "-9", str(server)], check=True)
    until("the cloud is ready without a host", lambda: cloud.status()["ready"] and cloud.pid_of("server") != server)
    assert hosts(cloud) == {}
    cloud.terroir("host", "readmit", local)
    until("it is back", lambda: set(hosts(cloud)) == {local})
