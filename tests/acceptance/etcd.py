"""An etcd of a test's own: free ports, own folder, processes ended by their number."""

import json
import shutil
import subprocess
import tempfile
import urllib.request

from cloud import free_port
from waiting import until

LIMITS = ["--max-txn-ops=4096", "--max-request-bytes=4194304"]


class Etcd:
    def __init__(self, size=3):
        self.folder = tempfile.mkdtemp(prefix="terroir-test-etcd-", dir="/var/tmp")
        self.ports = [(free_port(), free_port()) for _ in range(size)]
        self.processes = [None] * size

    def start(self):
        for number in range(len(self.ports)):
            self.start_member(number)
        until("etcd has a leader", self.leader, 30)
        return self

    def start_member(self, number):
        client, peer = self.ports[number]
        members = ",".join(f"m{n}=http://127.0.0.1:{peer}" for n, (_, peer) in enumerate(self.ports))
        command = [
            "etcd",
            f"--name=m{number}",
            f"--data-dir={self.folder}/m{number}",
            f"--listen-client-urls=http://127.0.0.1:{client}",
            f"--advertise-client-urls=http://127.0.0.1:{client}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster={members}",
            *LIMITS,
        ]
        with open(f"{self.folder}/m{number}.log", "ab") as log:
            self.processes[number] = subprocess.Popen(command, stdout=log, stderr=log)

    @property
    def endpoints(self):
        return [f"http://127.0.0.1:{client}" for client, _ in self.ports]

    def status(self, number):
        request = urllib.request.Request(f"{self.endpoints[number]}/v3/maintenance/status", data=b"{}")
        with urllib.request.urlopen(request, timeout=2) as answer:
            return json.load(answer)

    def leader(self):
        """The number of the member that leads, as those alive see it."""
        alive = [number for number, process in enumerate(self.processes) if process and process.poll() is None]
        seen = {number: self.status(number) for number in alive}
        [leader] = {status["leader"] for status in seen.values()}
        [number] = [number for number, status in seen.items() if status["header"]["member_id"] == leader]
        return (number,)

    def kill(self, number):
        self.processes[number].kill()
        self.processes[number].wait()

    def settings(self, prefix="terroir"):
        """Lines of terroir.toml."""
        return f"store = 'etcd'\netcd_endpoints = {json.dumps(self.endpoints)}\netcd_prefix = '{prefix}'\n"

    def destroy(self):
        for process in self.processes:
            if process:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
