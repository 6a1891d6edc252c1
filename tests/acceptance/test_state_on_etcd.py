"""A cloud whose state is on a three-member etcd: what it answers, members that die, and moving there and back."""

import os
import shutil
import subprocess
import threading
import time

import pytest
from cloud import CLEAN, TERROIR, Cloud
from etcd import Etcd
from waiting import until

# Within which an API call is answered again after etcd's leader was killed; asserted at three times that.
GAP_SECONDS = 5


@pytest.fixture(scope="module")
def etcd():
    etcd = Etcd(3)
    try:
        yield etcd.start()
    finally:
        etcd.destroy()


@pytest.fixture
def clouds():
    """Makes clouds that are destroyed in the end."""
    made = []

    def make(settings=""):
        cloud = Cloud("simulated")
        made.append(cloud)
        (cloud.data_dir / "terroir.toml").write_text(settings)
        return cloud

    try:
        yield make
    finally:
        for cloud in made:
            cloud.destroy()


def stock(cloud):
    """Something of every kind."""
    ec2, iam, s3 = (cloud.client(service) for service in ("ec2", "iam", "s3"))
    group = ec2.create_security_group(GroupName="web", Description="x")["GroupId"]
    permission = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": "192.0.2.0/24"}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[permission])
    ec2.create_tags(Resources=[group], Tags=[{"Key": "name", "Value": "front"}])
    zone = ec2.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]
    ec2.create_volume(AvailabilityZone=zone, Size=1)
    until("the volume is there", lambda: ec2.describe_volumes()["Volumes"][0]["State"] == "available")
    iam.create_user(UserName="ada", Tags=[{"Key": "team", "Value": "engines"}])
    iam.put_user_policy(
        UserName="ada",
        PolicyName="read",
        PolicyDocument='{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:Get*","Resource":"*"}]}',
    )
    s3.create_bucket(Bucket="bucket-one")
    s3.put_bucket_tagging(Bucket="bucket-one", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    s3.put_object(Bucket="bucket-one", Key="hello", Body=b"world")


def answers(cloud):
    """What the API says of it all."""
    ec2, iam, s3 = (cloud.client(service) for service in ("ec2", "iam", "s3"))
    return {
        "groups": ec2.describe_security_groups()["SecurityGroups"],
        "vpcs": ec2.describe_vpcs()["Vpcs"],
        "subnets": ec2.describe_subnets()["Subnets"],
        "volumes": ec2.describe_volumes()["Volumes"],
        "tags": ec2.describe_tags()["Tags"],
        "users": iam.list_users()["Users"],
        "policy": iam.get_user_policy(UserName="ada", PolicyName="read")["PolicyDocument"],
        "user tags": iam.list_user_tags(UserName="ada")["Tags"],
        "buckets": s3.list_buckets()["Buckets"],
        "bucket tags": s3.get_bucket_tagging(Bucket="bucket-one")["TagSet"],
        "accounts": cloud.terroir("account", "list").stdout,
    }


def write_on(cloud, stop, done, times, errors):
    """Creates groups, users and instances for ever, with the client's own retries; keeps what was acknowledged."""
    retries = {"mode": "standard", "total_max_attempts": 6}
    ec2, iam = cloud.client("ec2", retries=retries), cloud.client("iam", retries=retries)
    number = 0
    while not stop.is_set():
        number += 1
        try:
            group = ec2.create_security_group(GroupName=f"g{number}", Description="x")["GroupId"]
            done["groups"].append(group)
            times.append(time.monotonic())
            iam.create_user(UserName=f"u{number}")
            done["users"].append(f"u{number}")
            times.append(time.monotonic())
        except Exception as error:  # noqa: BLE001
            errors.append(str(error))


def test_a_leader_that_dies_takes_nothing_along(etcd, clouds, tmp_path):
    cloud = clouds(etcd.settings("leader")).start()
    stock(cloud)
    assert not (cloud.data_dir / "state/terroir.db").exists()
    disk = tmp_path / "empty.raw"
    disk.write_bytes(b"")
    os.truncate(disk, 1 << 20)
    cloud.terroir("image", "import", str(disk), "--name", "empty")
    ec2 = cloud.client("ec2")
    image = ec2.describe_images()["Images"][0]["ImageId"]

    stop, done, times, errors = threading.Event(), {"groups": [], "users": []}, [], []
    writer = threading.Thread(target=write_on, args=(cloud, stop, done, times, errors))
    writer.start()
    launched = []
    try:
        for _ in range(2):
            until("writes go on", lambda mark=len(times): len(times) > mark + 10, 60)
            [leader] = etcd.leader()
            etcd.kill(leader)
            killed = time.monotonic()
            # A launch asks for more than one member of the state, and is asked once.
            retries = {"mode": "standard", "total_max_attempts": 6}
            run = cloud.client("ec2", retries=retries).run_instances
            answer = run(ImageId=image, InstanceType="t3.nano", MinCount=2, MaxCount=2)
            launched += [instance["InstanceId"] for instance in answer["Instances"]]
            took = time.monotonic() - killed
            until("writes go on", lambda mark=len(times): len(times) > mark + 10, 60)
            gap = max(after - before for before, after in zip(times, times[1:], strict=False))
            print(f"leader killed: launch answered after {took:.1f} s, longest gap {gap:.1f} s (stated {GAP_SECONDS} s)")
            assert took < 3 * GAP_SECONDS and gap < 3 * GAP_SECONDS
            etcd.start_member(leader)
            until("the member is back", etcd.leader, 30)
    finally:
        stop.set()
        writer.join(60)
    assert not errors, errors
    groups = [group["GroupId"] for group in ec2.describe_security_groups()["SecurityGroups"]]
    assert set(done["groups"]) <= set(groups) and len(groups) == len(set(groups))
    assert len(groups) == len(done["groups"]) + 2, "nothing was made twice"
    users = [user["UserName"] for user in cloud.client("iam").list_users()["Users"]]
    assert set(users) == set(done["users"]) | {"ada"}
    pages = ec2.describe_instances()["Reservations"]
    assert sorted(i["InstanceId"] for group in pages for i in group["Instances"]) == sorted(launched)

    # The server forgets nothing when it dies, either.
    os.kill(cloud.pid_of("server"), 9)
    until("the server is back", cloud.is_ready, 60)
    after = [group["GroupId"] for group in ec2.describe_security_groups()["SecurityGroups"]]
    assert sorted(after) == sorted(groups)
    assert cloud.client("s3").get_object(Bucket="bucket-one", Key="hello")["Body"].read() == b"world"


def serve(cloud):
    """What `terroir server` says when it refuses to start."""
    command = [TERROIR, "--data-dir", str(cloud.data_dir), "server"]
    ended = subprocess.run(command, env=CLEAN, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    return ended.stderr.splitlines()[-1]


def test_what_cannot_work_is_refused(etcd, clouds):
    first = clouds(etcd.settings("refused")).start()
    second = clouds()
    second.start()
    second.stop()
    settings = second.data_dir / "terroir.toml"
    embedded = settings.read_text()
    on_etcd = embedded.replace("store = \"embedded\"", "").replace("etcd_endpoints = []", "")
    on_etcd = on_etcd.replace("etcd_prefix = \"terroir\"", "") + etcd.settings("refused")
    settings.write_text(on_etcd)
    assert "terroir store migrate --to etcd" in serve(second)
    refused = second.terroir("store", "migrate", "--to", "etcd", check=False)
    assert refused.returncode == 1 and "state below this prefix in etcd already" in refused.stderr
    (second.data_dir / "state/terroir.db").rename(second.data_dir / "away.db")
    assert "key file does not belong to this state" in serve(second)
    shutil.copy(first.data_dir / "state/metadata.key", second.data_dir / "state/metadata.key")
    assert "belongs to another data folder" in serve(second)
    assert "is running" in serve(first)
    settings.write_text(on_etcd.replace("http://127.0.0.1", "http://192.0.2.1"))
    assert "without TLS" in serve(second)
    settings.write_text(embedded)
    assert first.is_ready()


def test_there_and_back(etcd, clouds):
    cloud = clouds().start()
    stock(cloud)
    before = answers(cloud)
    to_etcd = ["store", "migrate", "--to", "etcd", "--etcd-endpoints", ",".join(etcd.endpoints), "--etcd-prefix", "moved"]
    running = cloud.terroir(*to_etcd, check=False)
    assert running.returncode == 1 and "is running: `terroir down` first" in running.stderr
    cloud.stop()
    file = cloud.data_dir / "state/terroir.db"
    # Killed when all is there but nothing has been decided: nothing has happened.
    killed = cloud.terroir(*to_etcd, check=False, env=CLEAN | {"TERROIR_STOP_MIGRATION": "filled"})
    assert killed.returncode == -9 and file.exists()
    cloud.start()
    cloud.client("iam").create_user(UserName="late")
    before = answers(cloud)
    cloud.stop()
    # Killed when the file is retired: it cannot be started until the move is finished.
    killed = cloud.terroir(*to_etcd, check=False, env=CLEAN | {"TERROIR_STOP_MIGRATION": "retired"})
    assert killed.returncode == -9 and not file.exists()
    assert "migrate` again" in serve(cloud)
    assert "finished what an earlier run" in cloud.terroir(*to_etcd).stdout
    cloud.start()
    assert answers(cloud) == before
    assert cloud.client("s3").get_object(Bucket="bucket-one", Key="hello")["Body"].read() == b"world"
    cloud.client("iam").create_user(UserName="on-etcd")
    before = answers(cloud)
    cloud.stop()

    back = ["store", "migrate", "--to", "embedded"]
    killed = cloud.terroir(*back, check=False, env=CLEAN | {"TERROIR_STOP_MIGRATION": "retired"})
    assert killed.returncode == -9 and not file.exists()
    assert "moved from here to somewhere else" in serve(cloud)
    cloud.terroir(*back)
    assert file.exists()
    cloud.start()
    assert answers(cloud) == before
    cloud.stop()
    # And once more, over what was left behind.
    assert "moved" in cloud.terroir(*to_etcd).stdout
    cloud.start()
    assert answers(cloud) == before
