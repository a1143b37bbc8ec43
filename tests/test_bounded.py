"""Code of others comes back, raises or is stopped; it never takes its caller along."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from ledger.errors import ClearlaneError
from scheduler import bounded as module
from scheduler.bounded import EXIT_DEAF, Misbehaved, bounded

LIMIT_S = 0.05
AMPLE_S = 60.0  # for what ends by itself
HUNG_S = 5.0  # what was not stopped by then never is


def search() -> None:
    re.search(r"^(a+)+$", "a" * 60 + "b")


def spin() -> None:
    while True:
        pass


def sleep() -> None:
    time.sleep(3600)


def lock() -> None:
    held = threading.Lock()
    held.acquire()
    held.acquire()


def wait_for_a_thread() -> None:
    threading.Event().wait()


def read() -> None:
    one, other = socket.socketpair()
    with one, other:
        one.recv(1)


def swallow_a_few() -> None:
    for _ in range(3):
        try:
            sleep()
        except BaseException:
            continue
    sleep()


@pytest.mark.usefixtures("finalizers")
@pytest.mark.parametrize(
    "hang", [search, spin, sleep, lock, wait_for_a_thread, read, swallow_a_few]
)
def test_what_hangs_is_stopped(hang: Callable[[], None]) -> None:
    with pytest.raises(Misbehaved, match=r"took longer than 0\.05 s") as caught:
        bounded(LIMIT_S, hang)
    assert caught.value.over_time
    assert bounded(60.0, divmod, 7, 2) == (3, 1), "the next one has its own time"


def test_what_comes_back_is_handed_on() -> None:
    assert bounded(60.0, lambda a, b: [a, b], 1, None) == [1, None]


def leave() -> None:
    sys.exit("bye")


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text either")


class Slow(Exception):
    def __str__(self) -> str:
        sleep()
        return ""


def raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("fail", "words"),
    [
        (leave, "SystemExit: bye"),
        (raising(ValueError("x" * 10**6)), "ValueError: xxx"),
        (raising(ValueError()), "ValueError"),
        (raising(Unreadable()), "Unreadable: (its text cannot be read)"),
        (raising(GeneratorExit("out")), "GeneratorExit: out"),
        (raising(ClearlaneError("not ours")), "ClearlaneError: not ours"),
        (raising(Slow()), "took longer than 0.05 s"),
    ],
)
def test_what_raises_or_leaves_says_so(fail: Callable[[], None], words: str) -> None:
    with pytest.raises(Misbehaved) as caught:
        bounded(LIMIT_S if words.startswith("took") else AMPLE_S, fail)
    assert str(caught.value).startswith(words)
    assert len(str(caught.value)) < 2000


def test_a_person_at_the_keyboard_is_obeyed() -> None:
    with pytest.raises(KeyboardInterrupt):
        bounded(60.0, raising(KeyboardInterrupt()))


def test_whoever_has_a_timer_gets_it_back() -> None:
    rung: list[int] = []
    theirs = signal.signal(signal.SIGALRM, lambda number, _frame: rung.append(number))
    before = signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        for _ in range(3):
            with pytest.raises(Misbehaved):
                bounded(LIMIT_S, sleep)
        while not rung:
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGALRM, theirs)
        signal.setitimer(signal.ITIMER_REAL, *before)
    assert rung == [signal.SIGALRM]


def test_a_timer_that_was_taken_is_taken_back() -> None:
    """By whoever sets one within the tick after foreign code."""

    def fail(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError("it hangs")

    bounded(AMPLE_S, divmod, 7, 2)
    before = signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        bounded(AMPLE_S, divmod, 7, 2)
        theirs = signal.signal(signal.SIGALRM, fail)
        signal.setitimer(signal.ITIMER_REAL, HUNG_S)
        assert module._clock.ticking
        with pytest.raises(Misbehaved, match="took longer"):
            bounded(LIMIT_S, spin)
    finally:
        signal.signal(signal.SIGALRM, theirs)
        signal.setitimer(signal.ITIMER_REAL, *before)


def test_an_alarm_that_comes_too_late_stops_nobody() -> None:
    module._clock.deadline_s = 0.0
    module._clock.tick(signal.SIGALRM, None)


def test_in_another_thread_nobody_is_stopped_but_errors_are_contained() -> None:
    found: list[Any] = []

    def work() -> None:
        found.append(bounded(LIMIT_S, lambda: time.sleep(2 * LIMIT_S)))
        try:
            bounded(LIMIT_S, leave)
        except Misbehaved as error:
            found.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [None, "SystemExit: bye"]


def test_one_inside_another_is_stopped_by_the_outer_time() -> None:
    with pytest.raises(Misbehaved, match=r"0\.05 s"):
        bounded(LIMIT_S, lambda: bounded(60.0, sleep))


SETUP = "import time; from scheduler import bounded; bounded.DEAF_S = 0.3"
DEAF = """
def hang():
    while True:
        try:
            time.sleep(1)
        except BaseException:
            pass
"""
RECURSING = """
def hang():
    while True:
        try:
            hang()
        except RecursionError:  # the alarm itself has no room
            pass
"""
IN_C = """
def hang():
    sum(range(10**15))
"""


@pytest.mark.parametrize(
    ("hang", "code", "says"),
    [
        (DEAF, EXIT_DEAF, ""),
        (RECURSING, -signal.SIGVTALRM, "in hang"),
        (IN_C, -signal.SIGVTALRM, "in hang"),
    ],
)
def test_what_cannot_be_stopped_ends_its_process_so_that_another_is_started(
    hang: str, code: int, says: str
) -> None:
    done = subprocess.run(
        # Time enough to get to where no alarm is heard.
        [sys.executable, "-c", f"{SETUP}\n{hang}\nbounded.bounded(1.0, hang)"],
        check=False,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code
    assert says in done.stderr


TICKING = """
import signal, time
from scheduler import bounded
def nap():
    time.sleep(0.001)
    return bounded._clock.ticking
assert all(bounded.bounded(60.0, nap) for _ in range(100))
end = time.monotonic() + 40
while bounded._clock.ticking and time.monotonic() < end: time.sleep(0.01)
assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0), "it ticks for nobody"
assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
for _ in range(3):
    try: bounded.bounded(0.05, time.sleep, 60)
    except bounded.Misbehaved as error: print(error)
signal.signal(signal.SIGALRM, signal.SIG_IGN)
signal.setitimer(signal.ITIMER_REAL, 0)
time.sleep(bounded.STALE_S * 1.1)
try: bounded.bounded(0.05, time.sleep, 60)
except bounded.Misbehaved as error: print(error)
"""


def test_the_clock_ticks_while_there_is_something_to_time_and_comes_back_if_it_is_taken() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TICKING], check=False, timeout=60, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["took longer than 0.05 s"] * 4


def test_a_process_that_ends_is_not_ended_by_its_own_clock() -> None:
    program = (
        "import time\n"
        "from scheduler.bounded import bounded\n"
        "class Late:\n"
        "    def __init__(self): self.sleep = time.sleep\n"
        "    def __del__(self): self.sleep(0.2)\n"
        "late = Late()\n"
        "bounded(1, int)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
