"""Whether a process of ours does its work: `python -m workers.alive worker|dispatcher|beat|URL`.

For health checks: exit 0 and silence, or exit 1 and the reason in one line. Asks for the effect,
never for the process alone (row M30), and costs little: a worker is judged by a file that it
touches itself, since asking it through the broker takes more work than a chunk of tasks (row M41).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HEARTBEAT_AGE_S = 90.0  # a step waits in place for a server that is away, for up to a minute
LAG_S = 30.0  # a dispatcher that works looks every second
ANSWER_S = 5.0
OK = 200
USAGE = "usage: python -m workers.alive worker|dispatcher|beat|URL"


def beat(path: Path) -> None:
    """Say that this process is alive: its own pid, and now. Nobody reads half of it."""
    fresh = path.with_name(f"{path.name}.new")
    try:
        fresh.write_text(str(os.getpid()))
        fresh.replace(path)
    except OSError:
        # A full disk must not stop a worker; the check will say that it looks dead.
        return


def worker(path: Path | None) -> str | None:
    """Why the worker that touches `path` counts as dead; None when it is alive."""
    if path is None:
        return "CLEARLANE_HEARTBEAT_FILE is not set"
    try:
        age_s = time.time() - path.stat().st_mtime
        pid = int(path.read_text())
        os.kill(pid, 0)
    except FileNotFoundError:
        return f"{path} does not exist: the process has not connected yet"
    except (OSError, ValueError):
        return f"{path} names no process: what wrote it is gone"
    return None if age_s < HEARTBEAT_AGE_S else f"the last heartbeat is {age_s:.0f} s old"


def dispatcher() -> str | None:
    """Why tasks are not dispatched; None when they are, or when there is nothing to dispatch.

    Beside `CLEARLANE_HEARTBEAT_FILE` of the dispatcher, its loop has to turn too.

    Stuck means: someone would take work, work is ready, and yet none has been under way for so
    long. A long queue alone is no sign of it.
    """
    from ledger.gauges import line
    from workers.bootstrap import build_context
    from workers.prices import price_list
    from workers.settings import load_settings

    settings = load_settings()
    # Where it writes one: what hangs in a call to a server that is away is no less stuck.
    hung = worker(settings.heartbeat_file) if settings.heartbeat_file else None
    if hung is not None:
        return hung
    context = build_context(settings)
    now = context.now()
    ready = line(context.engine, now)
    if ready.since is None or ready.in_flight or (now - ready.since).total_seconds() < LAG_S:
        return None
    if all(row.state != "open" for row in price_list(context)):
        return None
    return f"tasks are ready since {ready.since.isoformat()}, agents are free, nothing is under way"


def scheduler() -> str | None:
    """Why no beat is at work; None when one is. It renews its lock at each turn of its loop."""
    from scheduler.connection import connect
    from workers.settings import load_settings

    url = load_settings().celery_broker_url
    if url is None:
        return "REDIS_URL is not set"
    held = connect(url).pttl("redbeat::lock")
    return None if int(str(held)) > 0 else "no beat holds its lock"


def web(url: str) -> str | None:
    """Why a URL does not answer 200."""
    from urllib.error import URLError
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=ANSWER_S) as response:  # noqa: S310 the operator's own argument
            status = int(response.status)
    except (URLError, OSError) as error:
        return f"{url}: {error}"
    return None if status == OK else f"{url} answers {status}"


def main(arguments: Sequence[str]) -> int:
    """Exit 0 when all is well, 1 when it is not, 2 for wrong usage."""
    from ledger.errors import ClearlaneError

    match arguments:
        case ["worker"]:
            given = os.environ.get("CLEARLANE_HEARTBEAT_FILE")
            reason = worker(Path(given) if given else None)
        case ["dispatcher" | "beat" as name]:
            try:
                reason = dispatcher() if name == "dispatcher" else scheduler()
            except ClearlaneError as error:
                reason = str(error)
        case [str(url)] if url.startswith(("http://", "https://")):
            reason = web(url)
        case _:
            reason = USAGE
    if reason is None:
        return 0
    print(reason, file=sys.stderr)  # what an engine shows of a failed check
    return 2 if reason is USAGE else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
