"""The README's tour on real virtual machines, through the unmodified `aws` CLI."""

import base64
import re
import subprocess

import pytest
from errors import refused
from guest import Guest
from waiting import until

pytestmark = pytest.mark.vm

USER_DATA = """#!/bin/sh
echo "user data ran on $(hostname)" > /root/user-data
echo "a line for the console" > /dev/console
"""


@pytest.fixture(scope="module")
def guest(tenant, tmp_path_factory):
    """An instance with user data, launched with the CLI."""
    script = tmp_path_factory.mktemp("user-data") / "script"
    script.write_text(USER_DATA)
    command = ["ec2", "run-instances", "--image-id", tenant.tiny, "--instance-type", "tr1.pico"]
    command += ["--key-name", "tests", "--security-group-ids", tenant.group, "--user-data", f"file://{script}"]
    instance = tenant.cloud.aws_json(*command)["Instances"][0]["InstanceId"]
    tenant.cloud.aws("ec2", "wait", "instance-running", "--instance-ids", instance)
    return Guest(tenant, instance).wait_for_ssh()


def test_the_guest_is_what_was_asked_for(guest):
    described = guest.describe()
    assert described["State"]["Name"] == "running"
    assert guest.ssh("id -un") == "root"
    assert guest.ssh("id -un", user="ec2-user") == "ec2-user"
    assert guest.ssh("hostname") == described["PrivateDnsName"]
    assert described["PrivateIpAddress"] in guest.ssh("ip -4 addr show dev eth0")
    until("user data has run", lambda: guest.ssh("cat /root/user-data", check=False).returncode == 0)
    assert guest.ssh("cat /root/user-data") == f"user data ran on {described['PrivateDnsName']}"


def test_the_console_is_shown(guest):
    aws = guest.tenant.cloud.aws
    command = ["ec2", "get-console-output", "--instance-id", guest.id, "--latest", "--output", "text"]
    text = until("the console shows the end of the boot", lambda: (said := aws(*command).stdout) and "up" in said and said)
    assert "a line for the console" in text
    # What the console says of the host key is what the guest answers with.
    fingerprint = re.search(r"SHA256:\S+", text)[0]
    scanned = subprocess.run(["ssh-keyscan", "-T", "20", guest.public_ip], capture_output=True, text=True).stdout
    shown = subprocess.run(["ssh-keygen", "-lf", "-"], input=scanned, capture_output=True, text=True).stdout
    assert fingerprint in shown
    shot = guest.tenant.ec2.get_console_screenshot(InstanceId=guest.id)["ImageData"]
    assert base64.b64decode(shot)[:3] == b"\xff\xd8\xff" or base64.b64decode(shot)[:4] == b"\x89PNG"


def test_a_volume_is_seen_kept_and_moved(guest):
    ec2 = guest.tenant.ec2
    zone = guest.describe()["Placement"]["AvailabilityZone"]
    volume = ec2.create_volume(AvailabilityZone=zone, Size=1)["VolumeId"]
    serial = volume.replace("-", "")
    device = f"/dev/disk/by-id/virtio-{serial}"

    def state():
        [found] = ec2.describe_volumes(VolumeIds=[volume])["Volumes"]
        return found["State"]

    until("available", lambda: state() == "available")
    ec2.attach_volume(VolumeId=volume, InstanceId=guest.id, Device="/dev/sdf")
    until("the guest sees it", lambda: guest.ssh(f"test -b {device}", check=False).returncode == 0, 30)
    assert guest.ssh(f"cat /sys/block/$(basename $(readlink {device}))/size") == str((1 << 30) // 512)
    guest.ssh(f"mkfs.ext4 -q {device} && mount {device} /mnt && echo kept > /mnt/file && umount /mnt")
    ec2.detach_volume(VolumeId=volume)
    until("free again", lambda: state() == "available")
    assert guest.ssh(f"test -b {device}", check=False).returncode != 0
    ec2.attach_volume(VolumeId=volume, InstanceId=guest.id, Device="/dev/sdg")
    until("seen again", lambda: guest.ssh(f"test -b {device}", check=False).returncode == 0, 30)
    assert guest.ssh(f"mount {device} /mnt && cat /mnt/file && umount /mnt") == "kept"
    ec2.detach_volume(VolumeId=volume)
    until("free at the end", lambda: state() == "available")
    ec2.delete_volume(VolumeId=volume)


def test_too_many_for_the_host_are_refused_with_the_reason(tenant, guest):
    """All or nothing."""
    wish = {"ImageId": tenant.tiny, "InstanceType": "m5.2xlarge", "MinCount": 50, "MaxCount": 50}
    error = refused("InsufficientInstanceCapacity", tenant.ec2.run_instances, status=500, **wish)
    assert any(word in error["Error"]["Message"] for word in ("GiB", "MiB", "vCPU")), error
    assert len(tenant.ec2.describe_instances()["Reservations"]) == 1
    assert guest.state == "running"


def test_stop_and_start_keep_the_disk(guest):
    before = guest.describe()
    guest.ssh("echo kept > /root/kept && sync")
    guest.tenant.ec2.stop_instances(InstanceIds=[guest.id])
    guest.wait_for("stopped")
    assert guest.describe()["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    guest.tenant.ec2.start_instances(InstanceIds=[guest.id])
    guest.wait_for("running").wait_for_ssh()
    assert guest.ssh("cat /root/kept") == "kept"
    assert guest.describe()["PrivateIpAddress"] == before["PrivateIpAddress"]
    assert guest.ssh("wc -l < /root/user-data") == "1", "user data runs once"


def test_reboot_is_the_same_machine(guest):
    boot = guest.ssh("cat /proc/sys/kernel/random/boot_id")
    guest.tenant.ec2.reboot_instances(InstanceIds=[guest.id])

    def rebooted():
        done = guest.ssh("cat /proc/sys/kernel/random/boot_id", check=False)
        return done.returncode == 0 and done.stdout.strip() != boot

    until("the guest has booted again", rebooted, 120, every=0.5)
    assert guest.state == "running"
    assert guest.ssh("cat /root/kept") == "kept"


def test_an_elastic_address_stays_over_stop_and_start(guest):
    ec2 = guest.tenant.ec2
    own = guest.public_ip
    address = ec2.allocate_address(Domain="vpc")
    ec2.associate_address(AllocationId=address["AllocationId"], InstanceId=guest.id)
    assert guest.public_ip == address["PublicIp"] != own
    guest.wait_for_ssh()
    ec2.stop_instances(InstanceIds=[guest.id])
    guest.wait_for("stopped")
    ec2.start_instances(InstanceIds=[guest.id])
    guest.wait_for("running").wait_for_ssh()
    assert guest.public_ip == address["PublicIp"]
    [described] = ec2.describe_addresses(AllocationIds=[address["AllocationId"]])["Addresses"]
    ec2.disassociate_address(AssociationId=described["AssociationId"])
    ec2.release_address(AllocationId=address["AllocationId"])
    refused("InvalidAllocationID.NotFound", ec2.release_address, AllocationId=address["AllocationId"])


def test_an_image_of_one_s_own(tenant, tmp_path):
    """From an object and from a snapshot; both boot."""
    cloud, ec2 = tenant.cloud, tenant.ec2
    disk = tmp_path / "disk.raw"
    cloud.terroir("image", "export", "tiny", str(disk))
    cloud.aws("s3", "mb", "s3://own-images")
    cloud.aws("s3", "cp", str(disk), "s3://own-images/disk.raw")
    refused("NoSuchKey", ec2.register_image, Name="absent", ImageLocation="own-images/absent.raw")
    by_object = ec2.register_image(Name="by-object", ImageLocation="own-images/disk.raw", RootDeviceName="/dev/sda1")
    [described] = ec2.describe_images(ImageIds=[by_object["ImageId"]])["Images"]
    assert described["ImageLocation"] == "own-images/disk.raw" and not described["Public"]
    snapshot = described["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    mapping = {"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": snapshot}}
    by_snapshot = ec2.register_image(Name="by-snapshot", RootDeviceName="/dev/sda1", BlockDeviceMappings=[mapping])
    # The image no longer needs the object that it came from.
    cloud.aws("s3", "rb", "--force", "s3://own-images")
    guests = [tenant.launch(ImageId=image["ImageId"]) for image in (by_object, by_snapshot)]
    for guest in guests:
        guest.wait_for("running").wait_for_ssh()
        guest.terminate()
    for guest in guests:
        guest.wait_for("terminated")
    for image in (by_object, by_snapshot):
        ec2.deregister_image(ImageId=image["ImageId"])
        launch = {"ImageId": image["ImageId"], "InstanceType": "tr1.pico", "MinCount": 1, "MaxCount": 1}
        refused("InvalidAMIID.NotFound", ec2.run_instances, **launch)


def test_terminate_leaves_nothing(guest):
    ec2 = guest.tenant.ec2
    [mapping] = guest.describe()["BlockDeviceMappings"]
    root = mapping["Ebs"]["VolumeId"]
    guest.terminate().wait_for("terminated")
    until("its root volume is gone", lambda: not [v for v in ec2.describe_volumes()["Volumes"] if v["VolumeId"] == root])
    until("its process is gone", lambda: not [pid for pid in guest.tenant.cloud.processes() if is_qemu(pid)])


def is_qemu(pid):
    try:
        with open(f"/proc/{pid}/comm") as comm:
            return comm.read().startswith("qemu")
    except OSError:
        return False
