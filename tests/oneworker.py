"""One Celery worker for all queues, and the dispatcher: the path of a task with two processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from workers.stack import POOLS

STOP_S = 90
WORKER = (
    sys.executable, "-m", "celery", "-A", "workers", "worker", "-P", "solo", "-Q", ",".join(POOLS),
    "-n", "all@test", "--without-gossip", "--without-mingle", "-E",
)  # fmt: skip
DISPATCHER = (sys.executable, "-m", "workers.dispatcher")


def environment(database_url: str, redis_url: str, **given: str) -> dict[str, str]:
    """Ours, without what would send traces somewhere or configure a stack."""
    dropped = ("OTEL_", "CLEARLANE_", "DATABASE_", "REDIS_", "CELERY_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {**kept, "DATABASE_URL": database_url, "REDIS_URL": redis_url, **given}


@contextmanager
def one_worker(env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Both processes while the block runs, then stopped in order; they write to `log`."""
    with log.open("ab") as out:
        started = [
            subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            for argv in (WORKER, DISPATCHER)
        ]
    try:
        yield started[0]
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
