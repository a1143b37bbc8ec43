"""Ctrl-C counted instead of breaking off wherever the program is. Row M03."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Final

# The interrupt that breaks off after all: two were heard and nothing came of it.
PATIENCE: Final = 3


class Interrupts:
    """While the block runs, SIGINT and SIGTERM only count; the main thread looks when it may stop.

    A context manager, for the main thread.
    """

    def __init__(self) -> None:
        self.count = 0
        self._heard = threading.Event()

    def wait(self, seconds: float) -> None:
        """Sleep so long, or until the next interrupt."""
        self._heard.wait(seconds)
        self._heard.clear()

    def __enter__(self) -> Interrupts:
        self._before = {
            number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.count += 1
        if self.count >= PATIENCE:
            raise KeyboardInterrupt
        self._heard.set()
