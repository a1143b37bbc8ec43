"""Code of others, called with a bound on its time and on its ways out (rows M12, M40).

Plug-ins and validators run in the one thread of their worker. A thread beside it could not stop
them (a regular expression holds the interpreter's lock while it searches), and a process for each
call costs more than the call. A timer of the kernel can: its signal ends a search, a sleep, a lock
or a read from a socket in that very thread.
"""

from __future__ import annotations

import atexit
import faulthandler
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from ledger.errors import ClearlaneError

TICK_S: Final = 0.02
"""Between two looks at whoever is being timed. A clock that ticks while there is foreign code to
time, and stops at the first tick without, costs a call no system call of its own."""
DEAF_S = 5.0
"""How long code may swallow alarms (`except: pass`), or take of the processor without ever looking
for signals: then only the end of the process ends it, and the worker starts anew."""
STALE_S: Final = 1.0  # without a tick: somebody else has taken the timer, or this is a fork
EXIT_DEAF: Final = 70
STDERR: Final = 2  # Celery puts a logger in the place of sys.stderr
WORDS_MAX: Final = 1000


class Misbehaved(ClearlaneError):
    """Foreign code raised, left by `sys.exit`, or was stopped. The message is its own text."""

    def __init__(self, reason: str, *, over_time: bool = False) -> None:
        super().__init__(reason)
        self.over_time = over_time


class _Alarm(BaseException):
    """Raised inside code whose time is over. No `except Exception` holds it up."""


class _Clock:
    """The process's one clock for foreign code."""

    def __init__(self) -> None:
        self.armed = False  # foreign code is running
        self.deadline_s = 0.0  # monotonic
        self.ticking = False
        self.ticked_s = 0.0

    def tick(self, _number: int, _frame: FrameType | None) -> None:
        """SIGALRM."""
        now_s = self.ticked_s = time.monotonic()
        if not self.armed:
            self.stop()
            return
        signal.setitimer(signal.ITIMER_VIRTUAL, DEAF_S)  # it does look for signals
        if now_s > self.deadline_s + DEAF_S:
            os._exit(EXIT_DEAF)
        if now_s > self.deadline_s:
            raise _Alarm

    @property
    def ours(self) -> bool:
        """Whether it ticks."""
        return (
            self.ticking
            and time.monotonic() - self.ticked_s <= STALE_S
            and signal.getsignal(signal.SIGALRM) == self.tick
        )

    def start(self) -> tuple[float, Any]:
        """Tick from now on. What somebody else's timer had left, and its handler."""
        theirs = signal.signal(signal.SIGALRM, self.tick)
        # Its default is to end the process; the traceback comes first.
        faulthandler.register(signal.SIGVTALRM, STDERR, all_threads=False, chain=True)
        self.ticking, self.ticked_s = True, time.monotonic()
        left_s, _ = signal.setitimer(signal.ITIMER_REAL, TICK_S, TICK_S)
        signal.setitimer(signal.ITIMER_VIRTUAL, DEAF_S)
        return left_s, theirs

    def stop(self) -> None:
        """Tick no more."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        self.ticking = False


_clock: Final = _Clock()
# A tick that comes when the interpreter has put its handlers away would end the process.
atexit.register(_clock.stop)
_MAIN: Final = threading.main_thread()


def bounded(limit_s: float, function: Callable[..., Any], *values: Any) -> Any:
    """`function(*values)`, ended at the first tick after `limit_s` seconds of wall time.

    Raises Misbehaved, and nothing else but KeyboardInterrupt. Signals reach the main thread only,
    which is where the steps run; in any other thread, and in code that is being timed already,
    the time is not bounded. What cannot be stopped ends the process DEAF_S later.
    """
    if _clock.armed or threading.current_thread() is not _MAIN:
        return contained(function, *values)
    try:
        return _timed(limit_s, function, values)
    except _Alarm:
        raise Misbehaved(f"took longer than {limit_s:.3g} s", over_time=True) from None


def _timed(limit_s: float, function: Callable[..., Any], values: tuple[Any, ...]) -> Any:
    began_s = time.monotonic()
    left_s, theirs = 0.0, None
    try:
        _clock.deadline_s = math.inf  # an alarm while the clock starts would lose their timer
        _clock.armed = True  # first: the clock does not stop any more
        if not _clock.ours:
            left_s, theirs = _clock.start()
        _clock.deadline_s = began_s + limit_s
        return contained(function, *values)
    finally:
        # The interpreter looks for signals after calls, not before an assignment: from here on a
        # late alarm finds nobody to stop.
        _clock.armed = False
        if left_s:  # a test runner's, a debugger's: put off, not lost
            _clock.stop()
            signal.signal(signal.SIGALRM, theirs)
            waited_s = time.monotonic() - began_s
            signal.setitimer(signal.ITIMER_REAL, max(left_s - waited_s, TICK_S))


def contained(function: Callable[..., Any], *values: Any) -> Any:
    """`function(*values)` as long as it takes. Raises Misbehaved like `bounded`."""
    try:
        return function(*values)
    except (_Alarm, KeyboardInterrupt):
        raise
    except BaseException as error:
        reason = _words(error)
    raise Misbehaved(reason)


def _words(error: BaseException) -> str:
    """What an exception says. Its text is foreign code too."""
    name = type(error).__name__
    try:
        said = str(error)[:WORDS_MAX]
    except Exception:
        said = "(its text cannot be read)"
    return f"{name}: {said}" if said else name
