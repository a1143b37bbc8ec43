"""An HTTP server of a demo, on a port of its own and from a thread."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from ledger.model import Json


class Handler(BaseHTTPRequestHandler):
    """JSON in, JSON out for the most part, and nothing on the demo's terminal."""

    protocol_version = "HTTP/1.1"

    def asked(self) -> Json:
        """The body of the request."""
        found: Json = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return found

    def answer(self, status: int, body: Json, headers: Mapping[str, str] | None = None) -> None:
        """The whole answer, in JSON."""
        kind = {"Content-Type": "application/json"}
        self.write(status, json.dumps(body).encode(), {**(headers or {}), **kind})

    def write(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        """The whole answer, as it is."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Port:
    """Listens while the block runs. A context manager."""

    def __init__(self, handler: type[Handler]) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def root(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
