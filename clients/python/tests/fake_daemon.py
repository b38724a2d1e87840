"""A daemon of a few lines that answers `POST /verify` on a Unix socket: for responses that the real one never sends."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

Answer = tuple[int, dict[str, Any]]


def good(**claims: Any) -> Answer:
    """The response for a good token, with these claims beside the usual ones."""
    now = int(time.time())
    every = {"iss": "sidegate", "aud": "sidegate", "sub": "42", "client_id": "sidegate", "iat": now, "exp": now + 600}
    every |= {"jti": "the-jti", "sid": "the-sid"}
    return 200, {"claims": every | claims, "segment": "0", "epoch": 1}


def problem(status: int, code: str, detail: str = "") -> Answer:
    """An error response in the daemon's form."""
    return status, {"type": f"urn:sidegate:error:{code}", "status": status, "code": code, "detail": detail}


class FakeDaemon(socketserver.ThreadingUnixStreamServer):
    """Responds with `answer(token)`, and counts the requests."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, path: Path, answer: Callable[[str], Answer]) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.connections = 0
        super().__init__(str(path), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silent: clients that disconnect are not an error here."""

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        Path(str(self.server_address)).unlink()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeDaemon

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_POST(self) -> None:
        token = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.asked.append(token)
        status, body = self.server.answer(token) if self.path == "/verify" else (404, {})
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        pass
