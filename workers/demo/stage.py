"""A stack of its own for a demo: started like an operator would, gone when the demo ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from ledger.errors import ClearlaneError
from tasks.context import Context
from workers.bootstrap import build_context
from workers.interrupts import undisturbed
from workers.locate import Running, running
from workers.settings import Settings

WAIT_S = 20.0  # what the demos wait for takes a second or two

# A demo brings its own servers and jobs, whatever the operator's environment names.
OPERATORS = frozenset(
    (
        *("DATABASE_URL", "REDIS_URL", "CLEARLANE_CRON_FILE"),
        *("CLEARLANE_LOG_KEY_FILE", "CLEARLANE_LOG_ORIGIN", "CLEARLANE_LOG_POLICY"),
    )
)

T = TypeVar("T")


class DemoFailed(ClearlaneError):
    """The demo did not see what it must see."""


@contextmanager
def live_stack(
    options: Sequence[str], files: Mapping[str, Path] | None = None
) -> Iterator[tuple[Running, Context]]:
    """`clearlane up --detach` with these options, and variables that name files, in a directory
    of its own; `down` at the end."""
    # Beside the data of `up`, not in a temporary directory: PostgreSQL may run as another user.
    parent = Path(".clearlane")
    was_there = parent.exists()
    parent.mkdir(exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="demo-", dir=parent))
    env = {name: value for name, value in os.environ.items() if name not in OPERATORS}
    env |= {name: str(path) for name, path in (files or {}).items()}
    try:
        _up(["--data", str(home), *options], env)
        addresses = running(home)
        settings = Settings.model_validate(
            {"DATABASE_URL": addresses.database_url, "REDIS_URL": addresses.redis_url}
        )
        yield addresses, build_context(settings)
    finally:
        with undisturbed():
            subprocess.run(
                [*COMMAND, "down", "--data", str(home)],
                env=env,
                check=False,
                capture_output=True,
                start_new_session=True,  # what ends the demo must not end this
            )
            shutil.rmtree(home, ignore_errors=True)
            if not was_there:
                with suppress(OSError):  # somebody else uses it by now
                    parent.rmdir()


COMMAND = (sys.executable, "-m", "workers.cli")


def _up(options: Sequence[str], env: dict[str, str]) -> None:
    """Start a stack. When that is interrupted, `up` is too, and is waited for: killed, it would
    leave a stack behind that has just begun to start, where `down` does not see it yet."""
    with subprocess.Popen(
        [*COMMAND, "up", "--detach", *options],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate()
        except KeyboardInterrupt:
            with undisturbed():
                process.send_signal(signal.SIGINT)
                process.wait()
            raise
    if process.returncode:
        raise DemoFailed(f"the stack did not start: {err.strip() or out.strip()}")


def await_true(what: str, condition: Callable[[], T | None], wait_s: float = WAIT_S) -> T:
    """The first value of `condition` that is true. Raises DemoFailed after `wait_s`."""
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise DemoFailed(f"waited {wait_s:.0f} s in vain until {what}")
