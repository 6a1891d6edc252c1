"""Instances as a user sees them: launched over the API, reached over SSH."""

import subprocess
from pathlib import Path

from waiting import until

BOOT_SECONDS = 120
SSH_OPTIONS = [
    *("-o", "StrictHostKeyChecking=no"),
    *("-o", "UserKnownHostsFile=/dev/null"),
    *("-o", "LogLevel=ERROR"),
    *("-o", "BatchMode=yes"),
    *("-o", "ConnectTimeout=10"),
]


class Guest:
    """One instance."""

    def __init__(self, tenant, instance_id):
        self.tenant = tenant
        self.id = instance_id

    def describe(self):
        [reservation] = self.tenant.ec2.describe_instances(InstanceIds=[self.id])["Reservations"]
        return reservation["Instances"][0]

    @property
    def state(self):
        return self.describe()["State"]["Name"]

    @property
    def public_ip(self):
        return self.describe()["PublicIpAddress"]

    @property
    def private_ip(self):
        return self.describe()["PrivateIpAddress"]

    def wait_for(self, state, seconds=BOOT_SECONDS):
        until(f"{self.id} is {state}", lambda: self.state == state, seconds, every=0.2)
        return self

    def ssh_command(self, command, user="root"):
        return ["ssh", "-n", "-i", str(self.tenant.key_file), *SSH_OPTIONS, f"{user}@{self.public_ip}", command]

    def ssh(self, command, check=True, seconds=60, user="root"):
        """Runs a command in the guest; returns its output, or the finished process without `check`."""
        done = subprocess.run(self.ssh_command(command, user), capture_output=True, text=True, timeout=seconds)
        if not check:
            return done
        assert done.returncode == 0, f"{self.id}: {command}: status {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def wait_for_ssh(self, seconds=BOOT_SECONDS):
        """Until a command runs. A first boot may take longer than one connection's own limit."""

        def console():
            output = self.tenant.ec2.get_console_output(InstanceId=self.id, Latest=True).get("Output", "")
            return output[-2000:]

        def runs():
            done = self.ssh("true", check=False, seconds=30)
            assert done.returncode == 0, f"{done.stderr}\n{console()}"
            return True

        until(f"{self.id}: SSH", runs, seconds, every=0.2)
        return self

    def terminate(self):
        self.tenant.ec2.terminate_instances(InstanceIds=[self.id])
        return self


class Tenant:
    """A user of a real cloud: a key pair on disk and a security group that lets SSH in."""

    def __init__(self, cloud, folder):
        self.cloud = cloud
        self.ec2 = cloud.client("ec2")
        self.key_file = Path(folder) / "key.pem"
        key = self.ec2.create_key_pair(KeyName="tests", KeyType="ed25519")
        self.key_file.write_text(key["KeyMaterial"])
        self.key_file.chmod(0o600)
        self.group = self.make_group("ssh", [("tcp", 22, "0.0.0.0/0")])

    @property
    def tiny(self):
        images = self.ec2.describe_images(Filters=[{"Name": "name", "Values": ["tiny"]}])["Images"]
        return max(images, key=lambda image: image["CreationDate"])["ImageId"]

    def make_group(self, name, rules=(), vpc=None):
        """A security group that lets in `rules`: (protocol, port, CIDR or group id)."""
        options = {"VpcId": vpc} if vpc else {}
        group = self.ec2.create_security_group(GroupName=name, Description=name, **options)["GroupId"]
        for rule in rules:
            self.allow(group, *rule)
        return group

    def allow(self, group, protocol, port, source):
        self.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[permission(protocol, port, source)])

    def forbid(self, group, protocol, port, source):
        self.ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[permission(protocol, port, source)])

    def launch(self, **options):
        options.setdefault("ImageId", self.tiny)
        options.setdefault("InstanceType", "tr1.pico")
        options.setdefault("KeyName", "tests")
        if "NetworkInterfaces" not in options:
            options.setdefault("SecurityGroupIds", [self.group])
        answer = self.ec2.run_instances(MinCount=1, MaxCount=1, **options)
        return Guest(self, answer["Instances"][0]["InstanceId"])

    def launch_and_wait(self, **options):
        return self.launch(**options).wait_for("running").wait_for_ssh()


def permission(protocol, port, source):
    result = {"IpProtocol": protocol}
    if protocol == "icmp":
        result |= {"FromPort": -1, "ToPort": -1}
    elif port is not None:
        result |= {"FromPort": port, "ToPort": port}
    if source.startswith("sg-"):
        return result | {"UserIdGroupPairs": [{"GroupId": source}]}
    return result | {"IpRanges": [{"CidrIp": source}]}
