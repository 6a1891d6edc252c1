"""`terroir store backup` while the cloud works, and a cloud restored elsewhere."""

import os
import shutil
import threading

import pytest
from cloud import Cloud
from etcd import Etcd
from test_state_on_etcd import answers, stock
from waiting import until


@pytest.fixture
def elsewhere():
    """A folder for another cloud, which is destroyed in the end."""
    cloud = Cloud("simulated")
    cloud.data_dir.rmdir()
    try:
        yield cloud
    finally:
        cloud.destroy()


def restore(elsewhere, *arguments, check=True):
    return elsewhere.terroir("store", "restore", *map(str, arguments), check=check)


def test_backup_under_work_and_restore_elsewhere(cloud, elsewhere, tmp_path):
    stock(cloud)
    before = answers(cloud)
    audit = cloud.data_dir / "state/audit-log/audit-00000001.jsonl"
    until("the log has something that left the outbox", lambda: audit.exists() and audit.stat().st_size > 0)
    key, file = tmp_path / "backup.key", tmp_path / "one.backup"
    stop, made = threading.Event(), []

    def work():
        ec2 = cloud.client("ec2")
        while not stop.is_set():
            group = ec2.create_security_group(GroupName=f"g{len(made)}", Description="x")["GroupId"]
            made.append(group)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        until("work is done", lambda: len(made) >= 10)
        first = len(made)
        done = cloud.terroir("store", "backup", str(file), "--key-file", str(key))
        last = len(made) + 1
    finally:
        stop.set()
        worker.join()
    assert "records" in done.stdout and "made a new key" in done.stdout
    assert oct(file.stat().st_mode & 0o777) == oct(key.stat().st_mode & 0o777) == "0o600"
    whole = file.read_bytes()
    assert b"ada" not in whole and (cloud.data_dir / "state/metadata.key").read_bytes() not in whole
    again = cloud.terroir("store", "backup", str(file), "--key-file", str(key), check=False)
    assert again.returncode == 1 and "exists" in again.stderr

    # What is no whole backup of this key makes no folder.
    def refused(complaint, path, with_key=key):
        done = restore(elsewhere, path, "--key-file", with_key, check=False)
        assert done.returncode == 1 and complaint in done.stderr, done.stderr
        assert not elsewhere.data_dir.exists()

    bad = tmp_path / "bad.backup"
    for complaint, damage in [
        ("damaged", whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]),
        ("cut off", whole[:-1]),
        ("cut off", whole[: len(whole) // 2]),
        ("no backup", b"x" + whole[1:]),
        ("newer version", whole[:16] + b"\x02" + whole[17:]),
    ]:
        bad.write_bytes(damage)
        refused(complaint, bad)
    other = tmp_path / "other.key"
    other.write_bytes(os.urandom(32))
    other.chmod(0o600)
    refused("not the key of this backup", file, other)
    other.chmod(0o644)
    refused("chmod 600", file, other)

    restore(elsewhere, file, "--key-file", key)
    occupied = restore(elsewhere, file, "--key-file", key, check=False)
    assert occupied.returncode == 1 and "not empty" in occupied.stderr
    # The audit log is the one of the moment of the backup.
    log = (elsewhere.data_dir / "state/audit-log/audit-00000001.jsonl").read_bytes()
    assert log and audit.read_bytes().startswith(log)
    assert "each chained" in elsewhere.terroir("audit", "verify").stdout
    elsewhere.start()
    after = answers(elsewhere)
    groups = {group["GroupId"] for group in after["groups"]}
    assert set(made[:first]) <= groups, "what was acknowledged before the backup is in it"
    assert groups - {group["GroupId"] for group in before["groups"]} <= set(made[:last])
    for what, answer in before.items():
        if what != "groups":
            assert after[what] == answer, what
    restored = {group["GroupId"]: group for group in after["groups"]}
    assert all(restored[group["GroupId"]] == group for group in before["groups"])
    # It goes on working, with the same keys.
    elsewhere.client("iam").create_user(UserName="new")
    key_pair = cloud.environment()["AWS_SECRET_ACCESS_KEY"]
    assert elsewhere.environment()["AWS_SECRET_ACCESS_KEY"] == key_pair


def test_backup_of_a_stopped_cloud_and_of_one_on_etcd(elsewhere, tmp_path):
    etcd = Etcd(1)
    cloud = Cloud("simulated")
    key = tmp_path / "backup.key"
    try:
        etcd.start()
        (cloud.data_dir / "terroir.toml").write_text(etcd.settings())
        cloud.start()
        stock(cloud)
        before = answers(cloud)
        cloud.terroir("store", "backup", str(tmp_path / "running.backup"), "--key-file", str(key))
        cloud.stop()
        cloud.terroir("store", "backup", str(tmp_path / "stopped.backup"), "--key-file", str(key))
        for name in ("running.backup", "stopped.backup"):
            # From etcd to a folder that needs none.
            restore(elsewhere, tmp_path / name, "--key-file", key)
            elsewhere.start()
            assert answers(elsewhere) == before, name
            elsewhere.stop()
            if name == "running.backup":
                # A cloud on the embedded engine that is stopped can be backed up, too.
                elsewhere.terroir("store", "backup", str(tmp_path / "file.backup"), "--key-file", str(key))
                elsewhere.start()
                elsewhere.stop()
            shutil.rmtree(elsewhere.data_dir)
        restore(elsewhere, tmp_path / "file.backup", "--key-file", key)
        elsewhere.start()
        assert answers(elsewhere) == before
    finally:
        cloud.destroy()
        etcd.destroy()
