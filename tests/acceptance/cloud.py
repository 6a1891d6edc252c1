"""A cloud of its own for a test: free port, own data folder, real clients."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import boto3
from botocore.config import Config

from waiting import until

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
TERROIR = os.environ.get("TERROIR", str(TARGET / "debug/terroir"))
AWS = str(ROOT / ".venv/bin/aws")
# What of the caller's environment would change what clients do.
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TERROIR_"))}
CLEAN |= {
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_PAGER": "",
    "TERROIR_PACKAGE_CACHE": str(TARGET / "packages"),
}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(command, check=True, timeout=120, **options):
    """Runs a command and returns it with its output as text; a failure shows both."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, **options)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done


class Cloud:
    """One `terroir up`. `hypervisor` is `simulated` or `qemu`."""

    scheme = "http"
    # More of `terroir up`.
    extra_arguments = ()

    def __init__(self, hypervisor="simulated", data_dir=None):
        self.hypervisor = hypervisor
        # Not under pytest's own folders, which other users may not pass through: Terroir's server is one.
        self.data_dir = Path(data_dir or tempfile.mkdtemp(prefix="terroir-test-", dir="/var/tmp"))
        self.data_dir.chmod(0o755)
        self.port = free_port()
        self.process = None
        number = random.SystemRandom().randrange(256)
        self.public_pool = f"100.112.{number}.0/24"
        self.edge_pool = f"100.120.{number}.0/24"

    @property
    def endpoint(self):
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def tag(self):
        """Marks every kernel object of this cloud."""
        return hashlib.sha256(str(self.data_dir.resolve()).encode()).hexdigest()[:8]

    def terroir(self, *arguments, check=True, **options):
        options.setdefault("env", CLEAN)
        return run([TERROIR, "--data-dir", str(self.data_dir), *arguments], check=check, **options)

    def up_arguments(self):
        arguments = ["up", "--listen", f"127.0.0.1:{self.port}", "--hypervisor", self.hypervisor]
        if self.hypervisor == "qemu":
            arguments += ["--public-pool", self.public_pool, "--edge-pool", self.edge_pool]
        return [*arguments, *self.extra_arguments]

    def start(self, detach=None):
        """Simulated clouds run in the foreground of this test; real ones detach, as people do."""
        detach = self.hypervisor == "qemu" if detach is None else detach
        if detach:
            self.terroir(*self.up_arguments(), "--detach")
        else:
            self.log = open(self.data_dir.with_suffix(".log"), "ab")  # noqa: SIM115
            command = [TERROIR, "--data-dir", str(self.data_dir), *self.up_arguments()]
            self.process = subprocess.Popen(
                command, env=CLEAN, stdout=self.log, stderr=self.log, start_new_session=True
            )
            until("the cloud is ready", self.is_ready)
        return self

    def is_ready(self):
        if self.process and self.process.poll() is not None:
            raise SystemExit(f"terroir up ended:\n{self.log_text()}")
        return self.status()["ready"]

    def log_text(self):
        parts = [self.data_dir.with_suffix(".log"), *sorted(self.data_dir.glob("log*/*"))]
        return "\n".join(path.read_text(errors="replace")[-4000:] for path in parts if path.is_file())

    def status(self):
        return json.loads(self.terroir("status", "--json", check=False).stdout)

    def pid_of(self, name):
        """Process id of `server`, `agent` or `guest-services`."""
        [found] = [process for process in self.status()["processes"] if process["name"] == name]
        return found["pid"]

    def end_server(self, how=signal.SIGKILL):
        """Ends the server by a signal and waits until the next one answers."""
        old = self.pid_of("server")
        os.kill(old, how)
        until("the server is back", lambda: self.pid_of("server") not in (None, old) and self.is_ready(), 60)

    def stop(self):
        """`terroir down`, then the end of whatever `start` began."""
        done = self.terroir("down", check=False)
        if self.process:
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                raise AssertionError(f"terroir up did not end: {done.stderr}{self.log_text()}") from None
            self.process = None
        return done

    def destroy(self):
        """Stops it, makes sure that nothing is left, and removes the folder."""
        done = self.stop()
        leftovers = self.leftovers()
        self.kill_leftovers()
        log = self.log_text()
        shutil.rmtree(self.data_dir, ignore_errors=True)
        self.data_dir.with_suffix(".log").unlink(missing_ok=True)
        assert done.returncode == 0, f"terroir down failed: {done.stderr}\n{log}"
        assert not leftovers, f"terroir down left {leftovers}\n{log}"

    def processes(self):
        """Process ids of everything whose command line names the data folder."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    command = (folder / "cmdline").read_bytes()
                except OSError:
                    continue
                if str(self.data_dir).encode() in command and int(folder.name) != os.getpid():
                    found.append(int(folder.name))
        return found

    def leftovers(self):
        """Processes, and kernel objects that carry the tag, as text."""
        found = [f"process {pid}: {command_line(pid)}" for pid in self.processes()]
        if os.geteuid() == 0:
            for command in (["ip", "netns", "list"], ["ip", "-o", "link"], ["nft", "list", "tables"], ["ip", "route"]):
                lines = run(command, check=False).stdout.splitlines()
                found += [f"{' '.join(command)}: {line}" for line in lines if self.tag in line]
        return found

    def kill_leftovers(self):
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    # Clients

    def environment(self):
        """What `terroir env` prints, as a dictionary."""
        lines = self.terroir("env").stdout.splitlines()
        return dict(re.fullmatch(r"export (\w+)=(.*)", line).groups() for line in lines if line)

    def account(self, name):
        """A new tenant: `account_id`, `access_key_id`, `secret_access_key`."""
        return json.loads(self.terroir("account", "add", name, "--json").stdout)

    def client(self, service, key=None, secret=None, token=None, endpoint=None, **config):
        """A boto3 client of the root account, or of the given key."""
        environment = self.environment()
        config.setdefault("retries", {"total_max_attempts": 1})
        config.setdefault("parameter_validation", False)
        return boto3.client(
            service,
            endpoint_url=endpoint or self.endpoint,
            region_name=environment["AWS_DEFAULT_REGION"],
            aws_access_key_id=key or environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=secret or environment["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=token,
            verify=environment.get("AWS_CA_BUNDLE"),
            config=Config(**config),
        )

    def aws(self, *arguments, key=None, secret=None, check=True, **options):
        """The unmodified `aws` CLI; returns the finished process."""
        environment = CLEAN | self.environment()
        if key:
            environment |= {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
        return run([AWS, *map(str, arguments)], check=check, env=environment, **options)

    def aws_json(self, *arguments, **options):
        output = self.aws(*arguments, "--output", "json", **options).stdout
        return json.loads(output) if output.strip() else None


def qemu_of(instance_id):
    """Process ids of the QEMU that runs an instance."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and (folder / "comm").read_text().startswith("qemu"):
                if instance_id.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
        except OSError:
            pass
    return found


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    except OSError:
        return "(ended)"


def resident_bytes(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s*(\d+) kB", status)[1]) * 1024
