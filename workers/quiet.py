"""Loading a program in a way that an interrupt ends without a word."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

INTERRUPTED: Final = 130


@contextmanager
def quiet_imports() -> Iterator[None]:
    """While the block imports, Ctrl-C ends the program at once, with our exit code.

    Nothing has been done yet that would have to be tidied up; a traceback of somebody else's
    imports would be all there is to say. Who handles interrupts already, or imports from another
    thread, is left alone.
    """
    alone = threading.current_thread() is threading.main_thread()
    if not alone or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    os._exit(INTERRUPTED)
