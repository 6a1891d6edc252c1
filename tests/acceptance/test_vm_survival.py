"""Guests do not notice when Terroir's own processes die, and what comes back takes over what runs."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from guest import SSH_OPTIONS
from test_vm_network import METADATA, TOKEN
from cloud import qemu_of
from waiting import until

pytestmark = pytest.mark.vm

PROCESSES = ["server", "agent", "guest-services"]


@pytest.fixture(scope="module")
def guest(tenant):
    return tenant.launch_and_wait()


@pytest.fixture(scope="module")
def session(guest):
    """An SSH session that prints a number now and then; `ticks` waits for it to go on."""
    command = ["ssh", "-n", "-i", str(guest.tenant.key_file), *SSH_OPTIONS, f"root@{guest.public_ip}"]
    command.append("n=0; while :; do n=$((n + 1)); echo $n; usleep 200000; done")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1)

    def ticks():
        os.set_blocking(process.stdout.fileno(), False)
        while process.stdout.read(4096):
            pass

        def ticked():
            assert process.poll() is None, "the session ended"
            return process.stdout.read(4096)

        return until("the session goes on", ticked, 20)

    yield ticks
    process.kill()
    process.wait()


def kill(pid):
    os.kill(pid, signal.SIGKILL)
    until(f"{pid} is dead", lambda: not alive(pid), 10)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_dies_and_is_started_again(vm_cloud, tenant, guest, session, name):
    session()
    qemu = qemu_of(guest.id)
    assert len(qemu) == 1
    vpc = tenant.ec2.create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"]
    old = vm_cloud.pid_of(name)
    kill(old)
    session()
    until(f"{name} is back", lambda: vm_cloud.pid_of(name) not in (None, old) and vm_cloud.status()["ready"], 60)
    session()
    assert qemu_of(guest.id) == qemu, "the guest was adopted, not started again"
    assert guest.state == "running"
    assert tenant.ec2.describe_vpcs(VpcIds=[vpc])["Vpcs"], "what was acknowledged is there"
    # It is in control again, not only alive.
    other = tenant.launch_and_wait()
    other.terminate().wait_for("terminated")


def test_a_guest_needs_neither_server_nor_agent(vm_cloud, guest, session):
    qemu = qemu_of(guest.id)
    name = guest.describe()["PrivateDnsName"]
    address, command = guest.private_ip, guest.ssh_command("true")[:-1]
    status = vm_cloud.status()
    # First who would start them again.
    kill(status["supervisor_pid"])
    for process in ("server", "agent"):
        [found] = [each for each in status["processes"] if each["name"] == process]
        kill(found["pid"])

    def in_guest(script):
        done = subprocess.run([*command, script], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
        return done.stdout

    session()
    renewals = in_guest("grep -c renew /run/dhcp.eth0.log || true")
    in_guest("kill -USR1 $(cat /run/udhcpc.eth0.pid)")
    until("the lease is renewed", lambda: in_guest("grep -c renew /run/dhcp.eth0.log || true") != renewals, 20)
    assert address in in_guest(f"nslookup {name}")
    identity = in_guest(f'{TOKEN} wget -q -O - --header "X-aws-ec2-metadata-token: $T" {METADATA}/instance-id')
    assert identity.strip() == guest.id
    session()
    assert vm_cloud.status()["ready"] is False
    vm_cloud.start()
    until("the host has reported", lambda: vm_cloud.status()["ready"], 60)
    assert qemu_of(guest.id) == qemu
    assert guest.state == "running"
    session()


def test_keeping_on_dying_is_said(vm_cloud, guest, session):
    def process():
        [found] = [each for each in vm_cloud.status()["processes"] if each["name"] == "server"]
        return found

    restarts = process()["restarts"]

    def kill_again():
        found = process()
        if found["state"] == "keeps-dying":
            return True
        if found["pid"] and alive(found["pid"]):
            os.kill(found["pid"], signal.SIGKILL)
        return False

    until("status says that it keeps dying", kill_again, 90, every=0.2)
    assert process()["restarts"] > restarts
    assert "dying" in vm_cloud.terroir("status", check=False).stdout
    until("left alone, it comes back", lambda: vm_cloud.status()["ready"], 120)
    session()
    assert guest.state == "running"


def test_an_agent_that_was_dead_while_things_changed(vm_cloud, tenant, guest, session):
    """`down --keep-instances` and `up`: the same guests, and the network follows what was asked meanwhile."""
    qemu = qemu_of(guest.id)
    done = vm_cloud.terroir("down", "--keep-instances")
    assert done.returncode == 0
    session()
    assert qemu_of(guest.id) == qemu
    vm_cloud.start()
    until("the host has reported", lambda: vm_cloud.status()["ready"], 60)
    assert guest.state == "running"
    assert qemu_of(guest.id) == qemu
    session()


def test_a_guest_that_ends_is_not_started_again(tenant, guest):
    """QEMU that dies alone, and a guest that powers itself off; later both start when asked."""
    guest.ssh("echo kept > /root/kept && sync")
    [qemu] = qemu_of(guest.id)
    os.kill(qemu, signal.SIGKILL)
    guest.wait_for("stopped")
    assert guest.describe()["StateReason"]["Code"] == "Server.InternalError"
    tenant.ec2.start_instances(InstanceIds=[guest.id])
    guest.wait_for("running").wait_for_ssh()
    assert guest.ssh("cat /root/kept") == "kept"
    guest.ssh("poweroff", check=False)
    guest.wait_for("stopped")
    assert qemu_of(guest.id) == []

    tenant.ec2.start_instances(InstanceIds=[guest.id])
    guest.wait_for("running").wait_for_ssh()
    tenant.ec2.modify_instance_attribute(
        InstanceId=guest.id, InstanceInitiatedShutdownBehavior={"Value": "terminate"}
    )
    guest.ssh("poweroff", check=False)
    guest.wait_for("terminated")


def test_after_a_reboot_of_the_machine_guests_start_again(vm_cloud, tenant):
    """`down` is what a shutdown of the machine does: guests end, and the next `up` starts what was running."""
    guest = tenant.launch_and_wait()
    guest.ssh("echo kept > /root/kept && sync")
    before = guest.describe()
    vm_cloud.stop()
    assert vm_cloud.leftovers() == []
    vm_cloud.start()
    guest.wait_for("running").wait_for_ssh()
    after = guest.describe()
    for field in ("PrivateIpAddress", "PublicIpAddress"):
        assert after[field] == before[field]
    assert guest.ssh("cat /root/kept") == "kept"
    guest.terminate().wait_for("terminated")


def test_an_agent_that_dies_while_guests_start(vm_cloud, tenant):
    """Every instance runs in the end, in one QEMU; a start that was cut off is no fault of the guest."""
    agent = vm_cloud.pid_of("agent")
    guests = [tenant.launch() for _ in range(3)]

    def starts():
        """What tells one start of a guest from the next: its monitor's socket, made anew just before its QEMU."""
        found = []
        for guest in guests:
            # A socket goes away between any two looks at it.
            with contextlib.suppress(FileNotFoundError):
                found.append((vm_cloud.data_dir / f"agent/instances/{guest.id}/qmp.sock").stat().st_mtime_ns)
        return found

    seen = []
    for _ in range(4):
        deadline = time.monotonic() + 10
        while starts() == seen and time.monotonic() < deadline:
            time.sleep(0.001)
        kill(agent)
        seen = starts()
        agent = until("the agent is back", lambda: vm_cloud.pid_of("agent"), 60, every=0.05)
    for guest in guests:
        guest.wait_for("running").wait_for_ssh()
    for guest in guests:
        assert len(qemu_of(guest.id)) == 1
        assert guest.state == "running"
    statuses = tenant.ec2.describe_instance_status(InstanceIds=[guest.id for guest in guests])["InstanceStatuses"]
    print("starts that were cut off:", sum(len(status.get("Events", [])) for status in statuses))
    for guest in guests:
        guest.terminate()
    for guest in guests:
        guest.wait_for("terminated")
        assert qemu_of(guest.id) == []
