"""When a process that was started counts as ready: asked again and again until it is, or is dead.

Row M30.
"""

from __future__ import annotations

import asyncio
import signal
import time
from asyncio.subprocess import Process as Child

from workers.process import Process, Ready

POLL_S = 0.05
PROBE_TIMEOUT_S = 10.0


async def await_ready(process: Process, child: Child) -> str | None:
    """None once the process is ready; else why it is not, after its death or its timeout."""
    exit_ = asyncio.ensure_future(child.wait())
    deadline = time.monotonic() + process.ready_timeout_s
    try:
        if process.ready is None:
            await asyncio.wait({exit_}, timeout=process.settle_s)
        while not exit_.done():
            reason = None if process.ready is None else await _ask(process.ready)
            if reason is None:
                return None
            if time.monotonic() > deadline:
                return f"not ready after {process.ready_timeout_s:g} s: {reason}"
            await asyncio.wait({exit_}, timeout=POLL_S)
        return f"ended with {exit_words(exit_.result())}"
    finally:
        exit_.cancel()


async def _ask(ready: Ready) -> str | None:
    """One try of a readiness check, bounded. A faulty check is a failed one: the rest lives on."""
    try:
        return await asyncio.wait_for(ready(), PROBE_TIMEOUT_S)
    except TimeoutError:
        return "no answer"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def exit_words(code: int) -> str:
    """How a process ended, for people."""
    if code >= 0:
        return f"exit code {code}"
    return f"signal {signal.Signals(-code).name}"
