"""An endpoint that is told of events, and that may refuse them."""

import base64
import hashlib
import hmac
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hook:
    """Keeps what it was sent: pairs of headers and document, in the order of arrival."""

    def __init__(self, secret=None):
        self.secret, self.got, self.refuses = secret, [], lambda document: False
        hook = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):  # noqa: N802
                body = self.rfile.read(int(self.headers["content-length"]))
                hook.check(self.headers, body)
                document = json.loads(body)
                refused = hook.refuses(document)
                if not refused:
                    hook.got.append((dict(self.headers), document))
                self.send_response(503 if refused else 204)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/events"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def check(self, headers, body):
        """The signature is the one of Standard Webhooks."""
        if not self.secret:
            return
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.digest(self.secret.encode(), signed, hashlib.sha256)).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"

    @property
    def records(self):
        return [document["Records"][0] for _, document in list(self.got) if "Records" in document]

    def close(self):
        self.server.shutdown()
        self.server.server_close()
