"""HTTP agents that do as they are told, for walking through an example step by step."""

from __future__ import annotations

import threading
from types import TracebackType

from ledger.model import Json
from workers.demo.port import Handler, Port


class GatedAgent(Port):
    """One agent on a port of its own. Calls wait until `release`; then all get that answer."""

    def __init__(self) -> None:
        self._gate = threading.Condition()
        self._answer: Json = None
        self.waiting = 0
        agent = self

        class Gated(Handler):
            def do_POST(self) -> None:
                self.asked()
                self.answer(200, agent.wait())

        super().__init__(Gated)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{self.root}/run"

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release({})
        super().__exit__(kind, error, trace)
