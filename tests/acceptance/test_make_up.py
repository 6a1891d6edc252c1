"""`make up` and `make down`, as somebody does who has just cloned the repository."""

import os
import re
import shlex
import subprocess
import time

import pytest
from cloud import AWS, CLEAN, ROOT, Cloud

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]


def test_make_up_again_and_down():
    cloud = Cloud("qemu")
    environment = CLEAN | {
        "TERROIR_DATA_DIR": str(cloud.data_dir),
        "TERROIR_LISTEN": f"127.0.0.1:{cloud.port}",
        "TERROIR_PUBLIC_POOL": cloud.public_pool,
        "TERROIR_EDGE_POOL": cloud.edge_pool,
        "PROFILE": "dev",
        "CARGO_TARGET_DIR": os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target")),
    }

    def make(target):
        done = subprocess.run(["make", target], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"make {target}\n{done.stdout}{done.stderr}\n{cloud.log_text()}"
        return done.stdout

    def ssh_line(output):
        [line] = re.findall(r"^\s*(ssh .*)$", output, re.MULTILINE)
        return line

    try:
        first = make("up")
        line = ssh_line(first)
        said = subprocess.run(
            [*shlex.split(line), "-o", "BatchMode=yes", "echo hello from $(hostname)"],
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
        assert "hello from ip-" in said.stdout, said.stderr
        [hint] = re.findall(r"^\s*(eval .*)$", first, re.MULTILINE)
        states = f"{hint} && {AWS} ec2 describe-instances --query 'Reservations[].Instances[].State.Name' --output text"
        said = subprocess.run(["bash", "-c", states], env=CLEAN, capture_output=True, text=True, timeout=60)
        assert said.stdout.strip() == "running", said.stderr
        started = time.monotonic()
        assert ssh_line(make("up")) == line
        took = time.monotonic() - started
        assert took < 20, f"the second `make up` took {took:.1f} s"
        make("down")
        assert cloud.leftovers() == []
    finally:
        cloud.destroy()
