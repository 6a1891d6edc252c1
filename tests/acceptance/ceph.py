"""A Ceph of a test's own on loopback: one monitor, one manager, three OSDs, one radosgw; processes ended by their number."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path

from cloud import free_port
from waiting import until

CONFIGURATION = """
[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{mon_v2}/0,v1:127.0.0.1:{mon_v1}/0]
mon_initial_members = a
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
keyring = {dir}/admin.keyring
run_dir = {dir}/run
admin_socket = {dir}/run/$name.$pid.asok
log_file = {dir}/log/$name.log
crash_dir = {dir}/crash
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
osd_pool_default_size = 3
osd_pool_default_min_size = 2
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
mon_max_pg_per_osd = 1000
ms_async_op_threads = 1
[mon]
mon_data = {dir}/mon.$id
mon_data_avail_warn = 2
mon_data_avail_crit = 1
mon_osd_down_out_interval = 600
mon_osd_min_down_reporters = 1
mon_osd_adjust_heartbeat_grace = false
mon_allow_pool_delete = true
auth_allow_insecure_global_id_reclaim = false
[mgr]
mgr_data = {dir}/mgr.$id
mgr_initial_modules = iostat
keyring = $mgr_data/keyring
[osd]
osd_data = {dir}/osd.$id
keyring = $osd_data/keyring
osd_objectstore = bluestore
bluestore_block_create = true
bluestore_block_size = 4294967296
bluestore_cache_autotune = false
bluestore_cache_size = 67108864
osd_memory_target = 939524096
osd_op_num_shards = 2
osd_op_num_threads_per_shard = 1
osd_heartbeat_interval = 1
osd_heartbeat_grace = 5
osd_class_update_on_start = false
osd_crush_chooseleaf_type = 1
[client.rgw.a]
keyring = {dir}/rgw.keyring
rgw_frontends = beast endpoint=127.0.0.1:{rgw}
rgw_enable_usage_log = false
"""


class Ceph:
    def __init__(self):
        self.dir = Path(tempfile.mkdtemp(prefix="terroir-test-ceph-", dir="/var/tmp"))
        self.rgw = free_port()
        self.processes = {}

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.rgw}"

    def run(self, *command, text=None, timeout=60):
        environment = os.environ | {"CEPH_CONF": str(self.dir / "ceph.conf")}
        done = subprocess.run(
            list(map(str, command)), input=text, capture_output=True, text=True, timeout=timeout, env=environment
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def ceph(self, *arguments, text=None):
        return self.run("ceph", "--connect-timeout", "20", *arguments, text=text)

    def spawn(self, name, *command):
        environment = os.environ | {"CEPH_CONF": str(self.dir / "ceph.conf")}
        with open(self.dir / "log" / f"{name}.out", "ab") as log:
            self.processes[name] = subprocess.Popen([*command, "-f"], stdout=log, stderr=log, env=environment)

    def start(self):
        for name in ("run", "log", "crash", "mon.a", "mgr.x"):
            (self.dir / name).mkdir()
        fsid, mon_v2, mon_v1 = uuid.uuid4(), free_port(), free_port()
        settings = CONFIGURATION.format(fsid=fsid, mon_v2=mon_v2, mon_v1=mon_v1, dir=self.dir, rgw=self.rgw)
        (self.dir / "ceph.conf").write_text(settings)
        mon, admin = self.dir / "mon.keyring", self.dir / "admin.keyring"
        self.run("ceph-authtool", "--create-keyring", mon, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        caps = [word for kind in ("mon", "osd", "mds", "mgr") for word in ("--cap", kind, "allow *")]
        self.run("ceph-authtool", "--create-keyring", admin, "--gen-key", "-n", "client.admin", *caps)
        self.run("ceph-authtool", mon, "--import-keyring", admin)
        monmap, at = self.dir / "monmap", f"[v2:127.0.0.1:{mon_v2},v1:127.0.0.1:{mon_v1}]"
        self.run("monmaptool", "--create", "--addv", "a", at, "--fsid", fsid, monmap)
        self.run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", mon)
        self.spawn("mon.a", "ceph-mon", "-i", "a")
        until("the monitor answers", lambda: self.ceph("mon", "stat"), 60)
        caps = ["mon", "allow profile mgr", "osd", "allow *", "mds", "allow *"]
        self.ceph("auth", "get-or-create", "mgr.x", *caps, "-o", str(self.dir / "mgr.x/keyring"))
        self.spawn("mgr.x", "ceph-mgr", "-i", "x")
        for number in range(3):
            self.make_osd(number)
        until("all OSDs are up", lambda: self.osds_up() == 3, 60)
        caps = ["mon", "allow rwx", "osd", "allow rwx"]
        self.ceph("auth", "get-or-create", "client.rgw.a", *caps, "-o", str(self.dir / "rgw.keyring"))
        self.spawn("rgw", "radosgw", "-n", "client.rgw.a")
        until("radosgw answers", self.answers, 120)
        return self

    def answers(self):
        with socket.create_connection(("127.0.0.1", self.rgw), timeout=2):
            return True

    def make_osd(self, number):
        folder, key, osd = self.dir / f"osd.{number}", self.run("ceph-authtool", "--gen-print-key").strip(), uuid.uuid4()
        folder.mkdir()
        self.ceph("osd", "new", str(osd), str(number), "-i", "-", text=json.dumps({"cephx_secret": key}))
        keyring = folder / "keyring"
        self.run("ceph-authtool", "--create-keyring", keyring, "--name", f"osd.{number}", "--add-key", key)
        self.run("ceph-osd", "-i", number, "--mkfs", "--osd-uuid", osd)
        self.start_osd(number)

    def start_osd(self, number):
        location = f"root=default host=h{number}"
        self.spawn(f"osd.{number}", "ceph-osd", "-i", str(number), "--crush-location", location)

    def kill_osd(self, number):
        process = self.processes[f"osd.{number}"]
        process.kill()
        process.wait()

    def osds_up(self):
        return json.loads(self.ceph("osd", "stat", "-f", "json"))["num_up_osds"]

    def is_clean(self):
        states = json.loads(self.ceph("pg", "stat", "-f", "json"))["pg_summary"]["num_pg_by_state"]
        return [state["name"] for state in states] == ["active+clean"]

    def user(self):
        """Key id and secret of a new user of radosgw."""
        made = self.run("radosgw-admin", "user", "create", "--uid", "terroir", "--display-name", "Terroir", timeout=120)
        [key] = json.loads(made)["keys"]
        return key["access_key"], key["secret_key"]

    def destroy(self):
        for name in reversed(self.processes):
            self.processes[name].kill()
            self.processes[name].wait()
        shutil.rmtree(self.dir, ignore_errors=True)
