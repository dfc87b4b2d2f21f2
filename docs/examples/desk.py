"""Receives alerts from Caddis and checks their signatures (Standard Webhooks). Standard library only.

    python3 desk.py PORT SECRET_FILE
"""
import base64
import hmac
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOLERANCE_SECONDS = 300


def verify(secret, headers, body):
    """Whether the body is what the holder of the secret sent within the last five minutes."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = b"v1," + base64.b64encode(hmac.digest(key, signed, "sha256"))
    recent = abs(time.time() - int(headers["webhook-timestamp"])) <= TOLERANCE_SECONDS
    given = headers["webhook-signature"].split()
    return recent and any(hmac.compare_digest(expected, one.encode()) for one in given)


class Desk(BaseHTTPRequestHandler):
    secret = ""
    seen = set()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            genuine = verify(self.secret, self.headers, body)
        except (AttributeError, TypeError, ValueError):
            genuine = False
        if genuine and self.headers["webhook-id"] not in self.seen:
            self.seen.add(self.headers["webhook-id"])  # delivery is at least once
            message = json.loads(body)
            print(message["data"].get("summary", message["type"]), flush=True)
        self.send_response(204 if genuine else 401)
        self.end_headers()

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    with open(sys.argv[2]) as file:
        Desk.secret = file.readline().strip()
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Desk).serve_forever()
