"""A verdict from a process of its own, where a validator cannot take the worker with it.

Too slow for every reply: for those alone that a worker began to judge and did not come back from.
"""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress

from ledger.model import Verdict
from scheduler.saga import encode_verdict

APART_S = 15.0  # longer than any validator may take that does not have to be killed
READ_BYTES = 65_536


def apart(judged: Callable[[], Verdict]) -> Verdict | None:
    """What `judged` returns in a copy of this process; None when the copy did not live to say."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        # Nothing of the worker may run on in the copy, whatever happens here: no caller, no exit
        # handler, no connection that says goodbye in the name of both.
        try:
            os.close(ours)
            _tell(theirs, judged())
        finally:
            os._exit(0)
    os.close(theirs)
    try:
        text = _heard(ours)
    finally:
        os.close(ours)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    try:
        return Verdict(**json.loads(text))
    except (ValueError, TypeError):  # nothing, or the half of it
        return None


def _tell(descriptor: int, verdict: Verdict) -> None:
    text = encode_verdict(verdict).encode()
    while text:
        text = text[os.write(descriptor, text) :]


def _heard(descriptor: int) -> bytes:
    """All that is said until the other end closes, or falls silent for too long."""
    text = b""
    while select.select([descriptor], [], [], APART_S)[0]:
        more = os.read(descriptor, READ_BYTES)
        if not more:
            return text
        text += more
    return b""
