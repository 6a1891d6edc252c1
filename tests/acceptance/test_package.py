"""The Debian package: what is in it, its units as systemd reads them, and the parts started one by one as the units do."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from cloud import CLEAN, ROOT, TERROIR, Cloud, qemu_of, run
from waiting import until

PARTS = ("server", "agent", "guest-services")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module")
def package():
    """The package, and a folder with what is in it, to which the units' users get."""
    folder = Path(tempfile.mkdtemp(prefix="terroir-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield unpacked(folder)
    shutil.rmtree(folder)


def unpacked(folder):
    built = run([ROOT / "scripts/deb.sh", folder], env=CLEAN | {"TERROIR_BINARY": TERROIR}, timeout=300)
    file = Path(built.stdout.split()[-1])
    root = folder / "root"
    root.mkdir()
    run(["dpkg-deb", "--extract", file, root])
    return file, root


def units(root):
    return root / "usr/lib/systemd/system"


def settings_of(unit):
    """Each setting's values, in order."""
    found = {}
    for line in unit.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_what_is_in_it(package):
    file, root = package
    fields = dict(
        line.split(": ", 1) for line in run(["dpkg-deb", "--field", file]).stdout.splitlines() if ": " in line
    )
    assert fields["Package"] == "terroir" and fields["Architecture"] == "amd64"
    assert re.search(r"libc6 \(>= 2\.\d+\)", fields["Depends"]) and "qemu-system-x86" in fields["Depends"]
    version = run([root / "usr/bin/terroir", "--version"]).stdout.split()[1]
    assert fields["Version"] == version
    owners = {line.split()[1] for line in run(["dpkg-deb", "--contents", file]).stdout.splitlines()}
    assert owners == {"root/root"}
    for name in ("etc/default/terroir", "usr/lib/sysusers.d/terroir.conf", "usr/share/doc/terroir/README.md"):
        assert (root / name).is_file(), name
    scripts = file.parent / "scripts"
    run(["dpkg-deb", "--control", file, scripts])
    for script in ("postinst", "prerm", "postrm"):
        run(["sh", "-n", scripts / script])
        assert os.access(scripts / script, os.X_OK), script


def test_users_are_those_that_the_binary_expects(package):
    _, root = package
    (root / "etc").mkdir(exist_ok=True)
    run(["systemd-sysusers", f"--root={root}", "terroir.conf"])
    users = {line.split(":")[0]: line.split(":")[2] for line in (root / "etc/passwd").read_text().splitlines()}
    layout = (ROOT / "bin/terroir/src/layout.rs").read_text().replace("_", "")
    for user, constant in (("terroir", "SERVERUID"), ("terroir-guest", "GUESTSERVICESUID")):
        assert re.search(rf"const {constant}: u32 = {users[user]};", layout), user
        name = "server" if user == "terroir" else "guest-services"
        assert settings_of(units(root) / f"terroir-{name}.service")["User"] == [user]


def test_systemd_understands_the_units(package):
    _, root = package
    for name in ("passwd", "group"):
        target = root / "etc" / name
        if not target.exists():
            shutil.copy(Path("/etc") / name, target)
    files = sorted(units(root).glob("terroir*"))
    assert len(files) == 5
    # What the machine's own systemd brings is not there.
    for name in ("network.target", "multi-user.target", "sysinit.target", "basic.target", "shutdown.target"):
        (units(root) / name).write_text(f"[Unit]\nDescription={name}\n")
    said = run(["systemd-analyze", f"--root={root}", "verify", *[f"/{file.relative_to(root)}" for file in files]], check=False)
    complaints = [line for line in (said.stdout + said.stderr).splitlines() if "terroir" in line]
    assert not complaints, said.stdout + said.stderr
    for part in PARTS:
        settings = settings_of(units(root) / f"terroir-{part}.service")
        assert settings["KillMode"] == ["process"] and settings["Restart"] == ["always"], part
        assert settings["ExecStart"] == [f"/usr/bin/terroir {part}"]
    bad = units(root) / "terroir-bad.service"
    bad.write_text("[Service]\nExecStart=/usr/bin/terroir nothing\nKillMode=sometimes\n")
    said = run(["systemd-analyze", f"--root={root}", "verify", f"/{bad.relative_to(root)}"], check=False)
    bad.unlink()
    assert "kill mode" in said.stdout + said.stderr, "what systemd does not understand is found"


@pytest.mark.parametrize(("part", "most"), [("server", 1.5), ("guest-services", 2.0)])
def test_units_are_hardened(package, part, most):
    """`systemd-analyze security` counts from 0 (nothing to object to) to 10."""
    _, root = package
    file = f"/usr/lib/systemd/system/terroir-{part}.service"
    said = run(["systemd-analyze", f"--root={root}", "security", "--offline=true", file], check=False)
    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", said.stdout)
    assert level, said.stdout + said.stderr
    print(f"{part}: {level[1]}")
    assert float(level[1]) <= most, said.stdout


class Units:
    """The parts of a cloud, started as their units start them, by this test instead of systemd."""

    def __init__(self, root, hypervisor):
        self.root = root
        self.cloud = Cloud(hypervisor)
        self.processes = {}
        self.log = open(self.cloud.data_dir.with_suffix(".log"), "ab")  # noqa: SIM115

    def init(self):
        arguments = ["--listen", f"127.0.0.1:{self.cloud.port}", "--hypervisor", self.cloud.hypervisor]
        if self.cloud.hypervisor == "qemu":
            arguments += ["--public-pool", self.cloud.public_pool, "--edge-pool", self.cloud.edge_pool]
        self.cloud.terroir("init", *arguments)

    def start(self, part):
        settings = settings_of(units(self.root) / f"terroir-{part}.service")
        binary, *arguments = settings["ExecStart"][0].split()
        command = [str(self.root) + binary, "--data-dir", str(self.cloud.data_dir), *arguments]
        if os.geteuid() == 0:
            uids = {"terroir": "64701", "terroir-guest": "64702"}
            uid = uids.get(settings.get("User", [""])[0])
            capabilities = settings["CapabilityBoundingSet"][0].lower().replace("cap_", "").split()
            bounds = ",".join(["-all", *[f"+{name}" for name in capabilities]])
            limited = ["setpriv", f"--bounding-set={bounds}", "--inh-caps=-all", "--no-new-privs"]
            if uid:
                limited += [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
            command = [*limited, *command]
        # systemd sets this to the number of the process that it starts, and no child's number is the same.
        self.processes[part] = subprocess.Popen(
            ["sh", "-c", 'export SYSTEMD_EXEC_PID=$$; exec "$@"', "sh", *command],
            env=CLEAN, stdout=self.log, stderr=self.log, start_new_session=True,
        )

    def stop(self, part, how=signal.SIGTERM):
        """KillMode=process: the part alone."""
        process = self.processes.pop(part)
        process.send_signal(how)
        process.wait(timeout=30)

    def destroy(self):
        for part in list(self.processes):
            self.stop(part)
        self.log.close()
        self.cloud.destroy()


@pytest.fixture
def parts(package, request):
    made = Units(package[1], getattr(request, "param", "simulated"))
    yield made
    made.destroy()


def test_the_parts_without_a_supervisor(parts):
    cloud = parts.cloud
    parts.init()
    settings = (cloud.data_dir / "terroir.toml").read_text()
    cloud.terroir("init")
    assert (cloud.data_dir / "terroir.toml").read_text() == settings, "a second time changes nothing"
    for part in PARTS:
        parts.start(part)
    until("the cloud is ready", lambda: cloud.status()["ready"])
    status = cloud.status()
    assert status["pid"] == parts.processes["server"].pid
    assert status["problems"] == [] and status["processes"] == []
    for command in ("up", "down"):
        refused = cloud.terroir(command, check=False)
        assert refused.returncode != 0 and "systemctl" in refused.stderr, command
    ec2 = cloud.client("ec2")
    assert ec2.describe_vpcs()["Vpcs"]
    parts.stop("server", signal.SIGKILL)
    assert not cloud.status()["ready"]
    parts.start("server")
    until("the cloud is ready again", lambda: cloud.status()["ready"])
    assert ec2.describe_vpcs()["Vpcs"]


@needs_root
@pytest.mark.vm
@pytest.mark.parametrize("parts", ["qemu"], indirect=True)
def test_a_guest_outlives_the_units_of_an_upgrade(parts):
    """The agent has only the capabilities that its unit leaves it."""
    cloud = parts.cloud
    parts.init()
    for part in PARTS:
        parts.start(part)
    until("the cloud is ready", lambda: cloud.status()["ready"])
    cloud.terroir("image", "build", "tiny", timeout=300)
    ec2 = cloud.client("ec2")
    [image] = [image["ImageId"] for image in ec2.describe_images()["Images"] if image["Name"] == "tiny"]
    [made] = ec2.run_instances(ImageId=image, InstanceType="tr1.pico", MinCount=1, MaxCount=1)["Instances"]
    instance = made["InstanceId"]
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance], WaiterConfig={"Delay": 1})
    qemu = qemu_of(instance)
    assert len(qemu) == 1
    for part in PARTS:
        parts.stop(part)
    assert qemu_of(instance) == qemu
    for part in PARTS:
        parts.start(part)
    until("the cloud is ready again", lambda: cloud.status()["ready"])
    assert qemu_of(instance) == qemu, "the same process as before"
    [reservation] = ec2.describe_instances(InstanceIds=[instance])["Reservations"]
    assert reservation["Instances"][0]["State"]["Name"] == "running"
