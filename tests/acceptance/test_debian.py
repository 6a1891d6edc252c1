"""A stock Debian with cloud-init accepts this cloud as EC2. Minutes without acceleration, so only in full runs."""

import pytest
from waiting import until

pytestmark = [pytest.mark.vm, pytest.mark.debian]

USER_DATA = """#cloud-config
write_files:
  - path: /root/by-cloud-init
    content: written
runcmd:
  - [sh, -c, 'echo ran > /root/command']
"""


def ask_cloud_init(guest):
    return guest.ssh("cloud-init status", check=False, user="debian").stdout


def test_debian_boots_with_cloud_init(vm_cloud, tenant):
    vm_cloud.terroir("image", "build", "debian-12", timeout=1200)
    [image] = tenant.ec2.describe_images(Filters=[{"Name": "name", "Values": ["debian-12"]}])["Images"]
    guest = tenant.launch(ImageId=image["ImageId"], InstanceType="t3.small", UserData=USER_DATA).wait_for("running")
    until("SSH", lambda: guest.ssh("true", check=False, user="debian").returncode == 0, 600, every=2)
    # Without acceleration and with other work beside it, this takes longer than the boot.
    over = ("done", "error", "degraded", "disabled")
    status = until("cloud-init has ended", lambda: (said := ask_cloud_init(guest)) and any(w in said for w in over) and said, 1200, 5)
    assert "done" in status, guest.ssh("cloud-init status --long; sudo tail -50 /var/log/cloud-init.log", check=False, user="debian").stdout
    assert guest.ssh("sudo cat /root/by-cloud-init", user="debian") == "written"
    assert guest.ssh("sudo cat /root/command", user="debian") == "ran"
    assert "Ec2" in guest.ssh("cloud-init query platform; cloud-id; sudo cat /run/cloud-init/ds-identify.log", user="debian")
    assert guest.ssh("hostname -f", user="debian").startswith("ip-")
    guest.terminate().wait_for("terminated")
