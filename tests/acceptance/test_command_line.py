"""What `terroir` says and does when it is started, asked and stopped, and when it cannot."""

import os
import shutil
import signal
import socket
import tempfile
from pathlib import Path

import pytest
from cloud import CLEAN, TERROIR, Cloud, run
from waiting import until


def test_up_status_env_down(cloud):
    status = cloud.status()
    assert status["ready"] is True
    assert status["endpoint"] == cloud.endpoint
    assert status["hypervisor"] == "simulated"
    assert status["instances"] == {} or set(status["instances"].values()) <= {0}
    assert Path(f"/proc/{status['pid']}").exists()

    environment = cloud.environment()
    assert environment["AWS_ENDPOINT_URL"] == cloud.endpoint
    assert set(environment) == {
        "AWS_ENDPOINT_URL",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_DEFAULT_REGION",
    }
    identity = cloud.aws_json("sts", "get-caller-identity")
    assert identity["Arn"].endswith(f"{identity['Account']}:root")

    for text in ("simulated", cloud.endpoint):
        assert text in cloud.terroir("status").stdout.lower()
    cloud.stop()
    assert cloud.status()["ready"] is False
    assert "instances: not known" in cloud.terroir("status", check=False).stdout
    assert cloud.processes() == []


def test_a_restart_keeps_accounts_and_credentials(cloud):
    before = cloud.environment()
    tenant = cloud.account("orchard")
    vpc = cloud.client("ec2").create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    cloud.stop()
    cloud.start()
    assert cloud.environment() == before
    assert tenant["account_id"] in cloud.terroir("account", "list").stdout
    sts = cloud.client("sts", tenant["access_key_id"], tenant["secret_access_key"])
    assert sts.get_caller_identity()["Account"] == tenant["account_id"]
    assert cloud.client("ec2").describe_vpcs(VpcIds=[vpc])["Vpcs"][0]["CidrBlock"] == "10.9.0.0/16"


def test_accounts_do_not_see_each_other(cloud):
    mine = cloud.client("ec2")
    tenant = cloud.account("orchard")
    theirs = cloud.client("ec2", tenant["access_key_id"], tenant["secret_access_key"])
    vpc = mine.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["VpcId"]
    assert vpc not in {found["VpcId"] for found in theirs.describe_vpcs()["Vpcs"]}
    with pytest.raises(theirs.exceptions.ClientError, match="InvalidVpcID.NotFound"):
        theirs.delete_vpc(VpcId=vpc)
    again = cloud.terroir("account", "add", "orchard", check=False)
    assert again.returncode != 0 and "orchard" in again.stderr


def test_a_port_in_use_is_named():
    cloud = Cloud("simulated")
    try:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", cloud.port))
            taken.listen()
            done = cloud.terroir(*cloud.up_arguments(), check=False)
        assert done.returncode != 0
        assert str(cloud.port) in done.stderr and "--listen" in done.stderr, done.stderr
        assert cloud.processes() == []
    finally:
        shutil.rmtree(cloud.data_dir)


def test_two_clouds_do_not_share_a_folder(cloud):
    done = cloud.terroir("up", "--listen", "127.0.0.1:1", "--hypervisor", "simulated", check=False)
    assert done.returncode != 0
    assert "already running" in done.stderr, done.stderr
    assert cloud.status()["ready"] is True


def test_logs_are_bounded():
    """Under the hands of a process that goes on writing, of its successor, and of the next supervisor."""
    cloud = Cloud("simulated")
    limit = 16 << 20
    log = cloud.data_dir / "logs/server.log"

    def part(number):
        return log.with_name(f"server.log.{number}")

    def flood():
        with log.open("ab") as file:
            file.write(b"a line that was written by nobody\n" * (limit // 32))
        until("the log is rotated", lambda: log.stat().st_size < limit, 30)

    def goes_on():
        client = cloud.client("ec2")
        before = log.stat().st_size
        client.describe_vpcs()
        until("the server logs what it does", lambda: log.stat().st_size > before, 30)
        assert log.read_bytes().strip(b"\0 ").isascii()

    try:
        cloud.start(detach=True)
        flood()
        assert part(1).stat().st_size > limit
        goes_on()
        cloud.end_server()
        goes_on()
        flood()
        assert part(2).exists()
        goes_on()
        supervisor = cloud.status()["supervisor_pid"]
        os.kill(supervisor, signal.SIGKILL)
        until("the supervisor is dead", lambda: cloud.status()["supervisor_pid"] != supervisor)
        cloud.start(detach=True)
        for _ in range(2):
            flood()
        goes_on()
        parts = sorted(path.name for path in log.parent.glob("server.log*"))
        assert parts == ["server.log", "server.log.1", "server.log.2", "server.log.3"]
        assert sum(path.stat().st_size for path in log.parent.glob("server.log*")) < 7 * limit
    finally:
        cloud.destroy()


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED: becoming an ordinary user needs root")
def test_an_ordinary_user_is_told_what_needs_root():
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    folder = tempfile.mkdtemp(prefix="terroir-test-", dir="/var/tmp")
    binary = shutil.copy(TERROIR, f"{folder}/terroir")
    os.chmod(folder, 0o777)
    try:
        command = [*as_nobody, binary, "--data-dir", f"{folder}/data"]
        done = run([*command, "up", "--listen", "127.0.0.1:1"], check=False, env=CLEAN | {"HOME": folder})
        assert done.returncode != 0
        assert "sudo" in done.stderr and "simulated" in done.stderr, done.stderr
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["status"], "not"),
        (["env"], "up"),
        (["account", "add", "x"], "up"),
        (["image", "build", "tiny"], "up"),
        (["up", "--listen", "nowhere"], "nowhere"),
        (["up", "--hypervisor", "magic"], "magic"),
        (["fly"], "fly"),
    ],
)
def test_errors_say_what_to_do(arguments, expected, tmp_path):
    done = run([TERROIR, "--data-dir", str(tmp_path / "none"), *arguments], check=False, env=CLEAN)
    assert done.returncode != 0
    assert expected in done.stderr + done.stdout, done.stderr


def test_doctor_names_what_it_looked_at(cloud):
    text = cloud.terroir("doctor", check=False).stdout.lower()
    for subject in ("processor", "kvm", "nft", "disk", "time"):
        assert subject in text, text


def test_images_are_imported_listed_and_exported(cloud, tmp_path):
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"terroir" + bytes((1 << 20) - 7))
    cloud.terroir("image", "import", str(disk), "--name", "mine")
    assert "mine" in cloud.terroir("image", "list").stdout
    [image] = cloud.client("ec2").describe_images(Filters=[{"Name": "name", "Values": ["mine"]}])["Images"]
    assert image["Architecture"] == "x86_64" and image["State"] == "available" and image["Public"] is True
    [mapping] = image["BlockDeviceMappings"]
    assert mapping["Ebs"]["SnapshotId"].startswith("snap-")
    cloud.terroir("image", "export", "mine", str(tmp_path / "out.raw"))
    assert (tmp_path / "out.raw").read_bytes() == disk.read_bytes()
    for source, options, expected in [
        (tmp_path / "absent", [], "No such file"),
        (disk, ["--sha256", "0" * 64], "checksum"),
        (Path(__file__), [], "512"),
    ]:
        done = cloud.terroir("image", "import", str(source), *options, check=False)
        assert done.returncode != 0 and expected in done.stderr, done.stderr
