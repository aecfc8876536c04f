# SPDX-License-Identifier: MIT OR Apache-2.0
"""A daemon for the tests: HTTP on a Unix socket in a thread, with answers that the test gives."""

from __future__ import annotations

import json
import os
import shutil
import socketserver
import tempfile
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any, Dict, List, Tuple


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    owner: "FakeDaemon"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        with self.server.owner.lock:
            self.server.owner.connections.append(self.connection)

    def _answer(self) -> None:
        length = int(self.headers.get("content-length", 0))
        text = self.rfile.read(length)
        status, said = self.server.owner.answer(self.command, self.path, json.loads(text) if text else None)
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = do_PUT = _answer

    def log_message(self, *_: Any) -> None:
        pass


class FakeDaemon:
    """Hints work as the daemon's; everything else answers what is in ``answers``, by method and path."""

    def __init__(self) -> None:
        self._dir = tempfile.mkdtemp()
        self.path = os.path.join(self._dir, "socket")
        self.lock = threading.Lock()
        self.calls: List[Tuple[str, str, Any]] = []
        self.answers: Dict[Tuple[str, str], Tuple[int, Any]] = {}
        self.connections: List[Any] = []
        self.hints: Dict[int, Any] = {}
        self.begun = 0
        self.start()

    def start(self) -> None:
        self._server = _Server(self.path, _Handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """As when the daemon ends: its connections are closed."""
        self._server.shutdown()
        self._server.server_close()
        with self.lock:
            for connection in self.connections:
                try:
                    connection.shutdown(2)
                except OSError:
                    pass
            self.connections.clear()
        os.unlink(self.path)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._dir)

    def answer(self, method: str, path: str, body: Any) -> Tuple[int, Any]:
        with self.lock:
            self.calls.append((method, path, body))
            fixed = self.answers.get((method, path))
            if fixed is not None:
                return fixed
            if (method, path) == ("POST", "/v1/hints"):
                self.begun += 1
                self.hints[self.begun] = body
                return 200, {"id": self.begun, "until_ns": 1}
            if method == "DELETE" and path.startswith("/v1/hints/"):
                if self.hints.pop(int(path.rsplit("/", 1)[1]), None) is None:
                    return 404, {"error": "there is no such hint"}
                return 200, {"latency_ns": 20_000_000}
            return 404, {"error": "there is no such call"}
