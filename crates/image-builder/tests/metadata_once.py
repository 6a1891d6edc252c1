#!/usr/bin/env python3
"""One HTTP exchange of an instance metadata service (version 2 only) on standard input and output.

Arguments: instance id, file with user data. QEMU's user network starts it per connection.
"""
import sys

instance_id, user_data = sys.argv[1], open(sys.argv[2]).read()
PAGES = {
    "/latest/meta-data/instance-id": instance_id,
    "/latest/meta-data/local-hostname": "ip-10-0-0-7.ec2.internal",
    "/latest/meta-data/public-keys/": "0=test",
    "/latest/meta-data/public-keys/0/openssh-key": "ssh-ed25519 AAAATEST test",
    "/latest/user-data": user_data,
}
request = sys.stdin.buffer
method, path, _ = request.readline().decode().split()
headers = {}
while line := request.readline().decode().strip():
    name, value = line.split(":", 1)
    headers[name.lower()] = value.strip()
if method == "PUT" and path == "/latest/api/token":
    status, body = "200 OK", "TOKEN=="
elif headers.get("x-aws-ec2-metadata-token") != "TOKEN==":
    status, body = "401 Unauthorized", ""
elif path in PAGES:
    status, body = "200 OK", PAGES[path]
else:
    status, body = "404 Not Found", ""
answer = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
sys.stdout.buffer.write(answer.encode())
sys.stdout.buffer.flush()
