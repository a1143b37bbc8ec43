"""HTTP agents that do as they are told, for walking through an example step by step."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from ledger.model import Json


class GatedAgent:
    """One agent on a port of its own. Calls wait until `release`; then all get that answer."""

    def __init__(self) -> None:
        self._gate = threading.Condition()
        self._answer: Json = None
        self.waiting = 0
        agent = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                body = json.dumps(agent.wait()).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing on the demo's terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}/run"

    def wait(self) -> Json:
        """Hold a call until there is an answer for it."""
        with self._gate:
            self.waiting += 1
            self._gate.wait_for(lambda: self._answer is not None)
            self.waiting -= 1
            return self._answer

    def release(self, answer: Json) -> None:
        """Answer every call, the waiting ones and those to come."""
        with self._gate:
            self._answer = answer
            self._gate.notify_all()

    def hold(self) -> None:
        """Let calls wait again."""
        with self._gate:
            self._answer = None

    def __enter__(self) -> GatedAgent:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release({})
        self._server.shutdown()
        self._server.server_close()
