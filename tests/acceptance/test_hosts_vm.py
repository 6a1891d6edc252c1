"""Two real hosts: this machine, and one in a network namespace of its own, which is all that it has in common with
another machine. Its agent dials out over a link between the two."""

import functools
import json
import os
import random
import shlex
import signal
import subprocess

import pytest
from cloud import Cloud, run
from guest import SSH_OPTIONS, Guest, Tenant
from test_hosts import Joined, hosts, local_host, token
from waiting import until

pytestmark = pytest.mark.vm


class Elsewhere:
    """A network namespace behind a bridge of this machine."""

    def __init__(self):
        number = random.SystemRandom().randrange(1, 250)
        self.name = f"trt-far-{number}"
        self.bridge, self.near, self.far = f"trtb{number}", f"trtn{number}", f"trtf{number}"
        self.here, self.there = f"10.213.{number}.1", f"10.213.{number}.2"

    @property
    def prefix(self):
        # Only its network is another one: `ip netns exec` would hide its mounts from this test, too.
        return ["nsenter", f"--net=/run/netns/{self.name}"]

    def make(self):
        for command in [
            f"ip netns add {self.name}",
            f"ip link add {self.bridge} type bridge",
            f"ip addr add {self.here}/24 dev {self.bridge}",
            f"ip link set {self.bridge} up",
            f"ip link add {self.near} type veth peer name {self.far} netns {self.name}",
            f"ip link set {self.near} master {self.bridge} up",
            f"ip -n {self.name} link set lo up",
            f"ip -n {self.name} addr add {self.there}/24 dev {self.far}",
            f"ip -n {self.name} link set {self.far} up",
            f"ip -n {self.name} route add default via {self.here}",
        ]:
            run(shlex.split(command))

    def remove(self):
        for command in [f"ip link del {self.near}", f"ip link del {self.bridge}", f"ip netns del {self.name}"]:
            run(shlex.split(command), check=False)


class FarGuest(Guest):
    """An instance on the other host: reached from there."""

    def __init__(self, tenant, instance_id, prefix):
        super().__init__(tenant, instance_id)
        self.prefix = prefix

    @functools.cached_property
    def public_ip(self):
        """Asked once: the API may be away later."""
        return self.describe()["PublicIpAddress"]

    def ssh_command(self, command, user="root"):
        return [*self.prefix, *super().ssh_command(command, user)]


@pytest.fixture(scope="module")
def elsewhere():
    place = Elsewhere()
    try:
        place.make()
        yield place
    finally:
        place.remove()


@pytest.fixture(scope="module")
def cloud(elsewhere):
    cloud = Cloud("qemu")
    cloud.extra_arguments = ["--hosts-listen", f"{elsewhere.here}:9002"]
    (cloud.data_dir / "terroir.toml").write_text("host_certificate_secs = 120\n")
    try:
        cloud.start()
        cloud.terroir("image", "build", "tiny", timeout=300)
        yield cloud
    finally:
        cloud.destroy()


@pytest.fixture(scope="module")
def far(cloud, elsewhere):
    host = Joined(elsewhere.prefix)
    try:
        host.join(token(cloud), "--edge-pool", "100.121.7.0/24")
        yield host
    finally:
        done = host.terroir("down", check=False)
        left = run([*elsewhere.prefix, "ip", "-o", "link"], check=False).stdout
        host.destroy()
        assert done.returncode == 0, done.stderr
        assert len(left.splitlines()) == 2, f"`terroir down` left links: {left}"


def test_an_instance_on_the_second_host(cloud, far, elsewhere, tmp_path):
    assert set(hosts(cloud)) == {local_host(cloud), far.id}
    cloud.terroir("host", "cordon", local_host(cloud))
    tenant = Tenant(cloud, tmp_path)
    [made] = tenant.ec2.run_instances(
        ImageId=tenant.tiny,
        InstanceType="tr1.pico",
        MinCount=1,
        MaxCount=1,
        KeyName="tests",
        SecurityGroupIds=[tenant.group],
    )["Instances"]
    guest = FarGuest(tenant, made["InstanceId"], elsewhere.prefix)
    guest.wait_for("running")
    drained = json.loads(cloud.terroir("host", "drain", far.id, "--json", check=False).stdout)
    assert [left["instance_id"] for left in drained["instances"]] == [guest.id]
    assert any((far.data_dir / "agent/images").iterdir()), "its image came over the link"
    guest.wait_for_ssh()

    output = tenant.ec2.get_console_output(InstanceId=guest.id, Latest=True)["Output"]
    assert f"{guest.id} ssh ready" in output, "the console, through the second host's agent"
    # There is no overlay yet: nobody outside of that host reaches it.
    from_here = subprocess.run(
        ["ssh", "-n", "-i", str(tenant.key_file), *SSH_OPTIONS, "-o", "ConnectTimeout=2", f"root@{guest.public_ip}", "true"],
        capture_output=True,
        timeout=60,
    )
    assert from_here.returncode != 0

    # Nothing of the control plane is needed for what runs.
    certificate = far.membership()["membership"]["certificate_pem"]
    server = cloud.pid_of("server")
    os.kill(server, signal.SIGKILL)
    assert guest.ssh("echo alive") == "alive"
    until("the server is back", lambda: cloud.pid_of("server") != server and cloud.status()["ready"])
    until("the host has found it", lambda: far.status()["ready"], seconds=60)

    def console_answers():
        return tenant.ec2.get_console_output(InstanceId=guest.id, Latest=True)["Output"]

    until("the console answers again", console_answers)
    until(
        "its certificate was renewed meanwhile",
        lambda: far.membership()["membership"]["certificate_pem"] != certificate,
        seconds=120,
    )
    assert guest.ssh("echo alive") == "alive" and guest.state == "running"

    # Cut off from the control plane, its own supervisor and a new agent take over what runs.
    run(["ip", "link", "set", elsewhere.near, "down"])
    [agent] = [process["pid"] for process in far.status()["processes"] if process["name"] == "agent"]
    os.kill(agent, signal.SIGKILL)

    def another_agent():
        [now] = [process["pid"] for process in far.status()["processes"] if process["name"] == "agent"]
        return now and now != agent

    until("there is another agent", another_agent)
    assert guest.ssh("echo alive") == "alive"
    run(["ip", "link", "set", elsewhere.near, "up"])
    until("the host is back", lambda: far.status()["ready"], seconds=90)
    assert guest.state == "running"

    guest.terminate().wait_for("terminated")
    until("nothing is left", lambda: cloud.terroir("host", "drain", far.id, check=False).returncode == 0)
    cloud.terroir("host", "remove", far.id)
    until("it is refused", lambda: "removed" in str(far.status()["problems"]), seconds=60)
