"""A key manager outside the cloud, behind an "External Key Store Proxy" as AWS specifies it: HTTPS, a certificate from
both sides, Signature Version 4.

Keys live in this process only. Its cipher is a keystream with a MAC, not AES-GCM: who asks cannot tell, and Python has none.
"""

import base64
import contextlib
import datetime
import hashlib
import hmac
import http.server
import json
import secrets
import socket
import ssl
import threading

from cloud import free_port, run

ACCESS_KEY_ID = "TESTKEY234567TESTKEY23"
SECRET = base64.b64encode(bytes(range(32))).decode()
PATH = "/tests/kms/xks/v1"


def make_certificates(folder, region):
    """An authority, its certificate for `localhost`, and one that the cloud shows; readable for the cloud's own user."""

    def openssl(*arguments):
        run(["openssl", *map(str, arguments)], cwd=folder)

    elliptic = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *elliptic, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=tests")
    for name, subject in [("proxy", "localhost"), ("client", f"cks.kms.{region}.amazonaws.com")]:
        openssl("req", *elliptic, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={subject}")
        (folder / f"{name}.ext").write_text(f"subjectAltName=DNS:{subject}\n")
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext"]
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", *signed)
    whole = folder / "client.pem"
    whole.write_text((folder / "client.crt").read_text() + (folder / "client.key").read_text())
    for path in folder.iterdir():
        path.chmod(0o644)


class Refused(Exception):
    def __init__(self, status, name):
        super().__init__(name)
        self.status, self.name = status, name


def mac(key, *parts):
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


def keystream(key, iv, length):
    blocks = (mac(key, b"stream", iv, number.to_bytes(4, "big")) for number in range(length // 32 + 1))
    return b"".join(blocks)[:length]


class Proxy:
    """Serves until `stop`; `start` serves again with the same keys on the same port."""

    def __init__(self, folder, region):
        self.folder, self.region = folder, region
        self.keys, self.requests, self.connections = {}, [], set()
        self.port = free_port()
        self.server = None

    @property
    def endpoint(self):
        return f"https://localhost:{self.port}"

    def add_key(self, name):
        self.keys[name] = secrets.token_bytes(32)

    def start(self):
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                super().setup()
                proxy.connections.add(self.connection)

            def finish(self):
                proxy.connections.discard(self.connection)
                super().finish()

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                try:
                    proxy.authenticate(self.path, self.headers, body)
                    status, answer = 200, proxy.answer(self.path, json.loads(body))
                except Refused as refused:
                    status, answer = refused.status, {"errorName": refused.name}
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(text)

            def log_message(self, *_arguments):
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "proxy.crt", self.folder / "proxy.key")
        context.load_verify_locations(self.folder / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def stop(self):
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None
            # Those that are kept open would be served on.
            for connection in list(self.connections):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def authenticate(self, path, headers, body):
        date = headers["X-Amz-Date"]
        scope = f"{date[:8]}/{self.region}/kms-xks-proxy/aws4_request"
        hashed = hashlib.sha256(body).hexdigest()
        canonical = f"POST\n{path}\n\nhost:{headers['Host']}\nx-amz-date:{date}\n\nhost;x-amz-date\n{hashed}"
        text = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = b"AWS4" + SECRET.encode()
        for part in scope.split("/"):
            key = mac(key, part.encode())
        expected = (
            f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY_ID}/{scope}, SignedHeaders=host;x-amz-date, "
            f"Signature={mac(key, text.encode()).hex()}"
        )
        signed_at = datetime.datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
        age = abs((datetime.datetime.now(datetime.UTC) - signed_at).total_seconds())
        if not hmac.compare_digest(expected, headers["Authorization"]) or age > 300:
            raise Refused(401, "AuthenticationFailedException")

    def answer(self, path, body):
        self.requests.append((path, body))
        if not path.startswith(PATH + "/"):
            raise Refused(404, "InvalidUriPathException")
        parts = path[len(PATH) + 1 :].split("/")
        if parts == ["health"]:
            manager = {"id": "1", "model": "tests", "healthStatus": "ACTIVE"}
            names = {"xksProxyVendor": "tests", "xksProxyModel": "tests", "ekmVendor": "tests"}
            return {"xksProxyFleetSize": 1, "ekmFleetDetails": [manager], **names}
        _, name, operation = parts
        if name not in self.keys:
            raise Refused(404, "KeyNotFoundException")
        return getattr(self, operation)(self.keys[name], body)

    def metadata(self, _key, _body):
        return {"keySpec": "AES_256", "keyUsage": ["ENCRYPT", "DECRYPT"], "keyStatus": "ENABLED"}

    def encrypt(self, key, body):
        aad, text = (base64.b64decode(body[name]) for name in ("additionalAuthenticatedData", "plaintext"))
        iv = secrets.token_bytes(12)
        sealed = bytes(a ^ b for a, b in zip(text, keystream(key, iv, len(text)), strict=True))
        tag = mac(key, b"tag", iv, aad, sealed)[:16]
        value = hashlib.sha256(aad + iv + sealed + tag).digest()
        named = {"ciphertext": sealed, "initializationVector": iv, "authenticationTag": tag}
        named["ciphertextDataIntegrityValue"] = value
        return {name: base64.b64encode(part).decode() for name, part in named.items()}

    def decrypt(self, key, body):
        names = ("additionalAuthenticatedData", "ciphertext", "initializationVector", "authenticationTag")
        aad, sealed, iv, tag = (base64.b64decode(body[name]) for name in names)
        if not hmac.compare_digest(tag, mac(key, b"tag", iv, aad, sealed)[:16]):
            raise Refused(400, "InvalidCiphertextException")
        text = bytes(a ^ b for a, b in zip(sealed, keystream(key, iv, len(sealed)), strict=True))
        return {"plaintext": base64.b64encode(text).decode()}
