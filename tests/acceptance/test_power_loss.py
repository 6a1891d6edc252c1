"""Terroir inside a virtual machine whose power is cut while it is used: what was acknowledged is there afterwards."""

import os
import random
import re
import shutil
import subprocess
import threading
import uuid
from pathlib import Path

import boto3
import botocore.exceptions
import pytest
import urllib3
from botocore.config import Config
from cloud import CLEAN, ROOT, TERROIR, free_port, run
from waiting import until

pytestmark = [pytest.mark.power, pytest.mark.timeout(1500)]

ROUNDS = 20 if os.environ.get("TERROIR_FULL") == "1" else 3
# A new instance id at every boot makes `tiny` run this at every boot.
USER_DATA = """#!/bin/sh
exec > /dev/console 2>&1
mkdir -p /opt/terroir && mount -o ro /dev/vdb /opt/terroir
# Anew at each boot: what the last one copied was never synced.
cp /opt/terroir/lib/libgcc_s.so.1 /opt/terroir/lib/libm.so.6 /lib/x86_64-linux-gnu/
export HOME=/root
/opt/terroir/terroir --data-dir /srv/terroir up --hypervisor simulated --detach
/opt/terroir/terroir --data-dir /srv/terroir env
nc -ll -p 9001 -e nc 127.0.0.1 9000 &
echo "ready for work"
"""


class Machine:
    """A virtual machine with Terroir on a disk that outlives it."""

    def __init__(self, folder):
        self.folder = folder
        run([TERROIR, "image", "build", "tiny", "--output", str(folder)], env=CLEAN, timeout=300)
        self.disk = folder / "machine.raw"
        run(["cp", "--sparse=always", str(folder / "tiny.raw"), str(self.disk)])
        os.truncate(self.disk, 4 << 30)
        self.program_disk()
        (folder / "user-data").write_text(USER_DATA)
        self.boots = 0
        self.qemu = None

    def program_disk(self):
        """A file system with the binary and the libraries that `tiny` does not have."""
        tree = self.folder / "tree"
        (tree / "lib").mkdir(parents=True)
        shutil.copy(TERROIR, tree / "terroir")
        run(["strip", "--strip-debug", str(tree / "terroir")])
        for library in re.findall(r"=> (/\S+)", run(["ldd", TERROIR]).stdout):
            shutil.copy(library, tree / "lib")
        disk = self.folder / "program.ext4"
        run(["mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(disk), "256M"])
        shutil.rmtree(tree)

    def power_on(self):
        self.boots += 1
        self.port = free_port()
        self.console = self.folder / f"console.{self.boots}"
        script = ROOT / "crates/image-builder/tests/metadata_once.py"
        metadata = f"python3 {script} i-{self.boots:017x} {self.folder / 'user-data'}"
        network = (
            "user,id=net,net=169.254.169.0/24,host=169.254.169.2,dhcpstart=169.254.169.15,restrict=on,"
            f"hostfwd=tcp:127.0.0.1:{self.port}-:9001,guestfwd=tcp:169.254.169.254:80-cmd:{metadata}"
        )
        command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-M", "q35"]
        command += ["-accel", "tcg,thread=multi", "-cpu", "max", "-m", "768", "-smp", "1"]
        for name, path in (("root", self.disk), ("program", self.folder / "program.ext4")):
            command += ["-drive", f"if=none,id={name},format=raw,file={path}"]
            command += ["-device", f"virtio-blk-pci,drive={name}"]
        command += ["-netdev", network, "-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci"]
        command += ["-kernel", str(self.folder / "tiny.vmlinuz"), "-initrd", str(self.folder / "tiny.initrd")]
        command += ["-append", "root=/dev/vda1 rw console=ttyS0,115200 quiet reboot=t panic=-1 net.ifnames=0"]
        command += ["-serial", f"file:{self.console}"]
        self.qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        text = until("Terroir runs in the machine", lambda: self.has_said("ready for work"), 180)
        self.environment = dict(re.findall(r"export (\w+)=(\S+)", text))
        assert self.environment, text
        until("it answers", lambda: self.get("/readyz").status == 200, 120)

    def has_said(self, words):
        text = self.console.read_text(errors="replace").replace("\r", "")
        assert self.qemu.poll() is None, text
        if "user data ended with status" in text and words not in text:
            raise SystemExit(text)
        return text if words in text else None

    def get(self, path):
        return urllib3.request("GET", f"http://127.0.0.1:{self.port}{path}", timeout=5, retries=False)

    def cut_power(self):
        self.qemu.kill()
        self.qemu.wait()

    def client(self, service):
        return boto3.client(
            service,
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name=self.environment["AWS_DEFAULT_REGION"],
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=30),
        )


@pytest.fixture
def machine(tmp_path):
    machine = Machine(Path(tmp_path))
    yield machine
    if machine.qemu:
        machine.cut_power()


class Writers:
    """Threads that write until the machine is gone and remember what was acknowledged."""

    def __init__(self, machine, objects, groups):
        self.objects, self.groups = objects, groups
        self.threads = [threading.Thread(target=self.put, args=(machine, number)) for number in range(2)]
        self.threads.append(threading.Thread(target=self.create, args=(machine,)))
        self.count = 0
        self.stop = threading.Event()
        for thread in self.threads:
            thread.start()

    def until_refused(self, call):
        while not self.stop.is_set():
            try:
                call()
                self.count += 1
            except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
                # Either the power is off, which ends the round, or the call was not acknowledged.
                self.stop.wait(0.05)

    def put(self, machine, number):
        s3 = machine.client("s3")

        def put():
            key, body = f"{number}/{uuid.uuid4()}", random.randbytes(random.choice([0, 100, 5000, 300_000]))
            s3.put_object(Bucket="durable", Key=key, Body=body)
            self.objects[key] = body

        self.until_refused(put)

    def create(self, machine):
        ec2 = machine.client("ec2")

        def create():
            name = f"group-{uuid.uuid4()}"
            self.groups[name] = ec2.create_security_group(GroupName=name, Description="acknowledged")["GroupId"]

        self.until_refused(create)

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join()


def test_nothing_acknowledged_is_lost(machine):
    objects, groups = {}, {}
    machine.power_on()
    machine.client("s3").create_bucket(Bucket="durable")
    for number in range(ROUNDS):
        writers = Writers(machine, objects, groups)
        goal = random.randrange(20, 60)
        until("enough is acknowledged", lambda writers=writers, goal=goal: writers.count >= goal, 120, every=0.01)
        machine.cut_power()
        writers.end()
        machine.power_on()
        s3, ec2 = machine.client("s3"), machine.client("ec2")
        for key, body in objects.items():
            assert s3.get_object(Bucket="durable", Key=key)["Body"].read() == body, f"round {number}: {key}"
        pages = ec2.get_paginator("describe_security_groups").paginate()
        found = {group["GroupName"]: group["GroupId"] for page in pages for group in page["SecurityGroups"]}
        lost = {name for name, group in groups.items() if found.get(name) != group}
        assert not lost, f"round {number}: {lost}"
    assert len(objects) > 10 and len(groups) > 3
