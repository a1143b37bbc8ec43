"""Interrupts taken in an orderly way, instead of breaking off wherever the program is. Row M03.

SIGHUP, which a terminal sends when it is closed, counts as the others do, unless whoever started
the program had it ignored, as nohup does.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Final

# The interrupt that breaks off after all: two were heard and nothing came of it.
PATIENCE: Final = 3

_ENDS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While the block runs, SIGINT, SIGTERM and SIGHUP only count; the main thread looks when it
    may stop.

    A context manager, for the main thread.
    """

    def __init__(self) -> None:
        self.count = 0
        self._heard = threading.Event()
        self._hung_up = False

    def wait(self, seconds: float) -> None:
        """Sleep so long, or until the next interrupt."""
        self._heard.wait(seconds)
        self._heard.clear()

    def __enter__(self) -> Interrupts:
        numbers = {signal.SIGINT, signal.SIGTERM, *_unless_ignored([signal.SIGHUP])}
        self._before = {number: signal.signal(number, self._hear) for number in numbers}
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
        if number == signal.SIGHUP:
            # The shell and the system both send it, and mean one thing.
            if self._hung_up:
                return
            self._hung_up = True
        self.count += 1
        if self.count >= PATIENCE:
            raise KeyboardInterrupt
        self._heard.set()


@contextmanager
def breaking_off() -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP breaks the block off by KeyboardInterrupt; those that
    follow leave it to its tidying up. For the main thread."""
    heard = False

    def hear(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal heard
        if not heard:
            heard = True
            raise KeyboardInterrupt

    with _heard_by(hear):
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """None of them does anything while the block runs. For the main thread.

    They are heard and dropped: were they ignored, so would they be by programs started meanwhile.
    """
    with _heard_by(lambda number, frame: None):  # noqa: ARG005
        yield


@contextmanager
def _heard_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in _unless_ignored(_ENDS)}
    try:
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, handled)


def _unless_ignored(numbers: Iterable[signal.Signals]) -> Iterable[signal.Signals]:
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
