"""The directory that one running stack owns: its lock, its secrets, its remembered ports.

Everything in it is private to the user who started the stack. Rows M09, M41.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ledger.errors import BadInput, Conflict
from ledger.model import Json

LOCK = "lock"
RUN = "run.json"
KEPT = "kept.json"
"""Ports and passwords, so that the addresses survive a restart; the id of the token made here."""

FLOWER_LOGIN = "flower.login"
"""User and password of Flower, as a browser asks for them: `user:password`."""

LOG_BYTES_MAX = 10 * 1024 * 1024

PORTS = range(20_000, 30_000)
"""Below every system's ephemeral ports, so that no outgoing connection sits on ours."""


def prepare(path: Path) -> Path:
    """The absolute home, existing and writable; BadInput says why it cannot be."""
    home = path.expanduser().absolute()
    try:
        home.mkdir(parents=True, exist_ok=True)
        # Root's servers run as another user, who has to get through but not to look around.
        home.chmod(0o711 if os.geteuid() == 0 else 0o700)
        for name in ("log", "flower"):
            (home / name).mkdir(mode=0o700, exist_ok=True)
        write_private(home / ".probe", "")
        (home / ".probe").unlink()
    except OSError as error:
        raise BadInput(
            "data directory",
            f"{home} cannot be used: {error.strerror or error}",
            "name another one with --data or CLEARLANE_DATA",
        ) from error
    # Symbolic links are resolved, so that one directory has one name in every process table.
    return home.resolve()


def write_private(path: Path, text: str) -> None:
    """Replace a file as a whole, readable by its owner alone: readers see the old or the new. It is
    on disk when this returns."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    replace_durably(fresh, path)


def replace_durably(fresh: Path, path: Path) -> None:
    """Move a file, in its directory, to another name; the name is on disk when this returns."""
    fresh.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_json(path: Path) -> dict[str, Json]:
    """The object in a file of ours; empty without the file, BadInput when it is not ours."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadInput(str(path), f"cannot be read: {error}", "remove or restore it") from error
    if not isinstance(value, dict):
        raise BadInput(str(path), "is not a JSON object", "remove or restore it")
    return value


def open_log(home: Path, name: str) -> int:
    """Descriptor of `log/NAME.log`, to append; a log that has grown large is put aside first."""
    path = home / "log" / f"{name}.log"
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.replace(path.with_suffix(".log.1"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


@contextmanager
def locked(home: Path, wait_s: float = 0.5) -> Iterator[None]:
    """Own the home for the length of the block; Conflict when another supervisor does.

    The kernel drops the lock with its holder, also after kill -9, and no child inherits it.
    The wait is for whoever only looks at the lock, and for a supervisor in its last moment.
    """
    with (home / LOCK).open("a+") as file:
        deadline = time.monotonic() + wait_s
        while not (mine := _try_lock(file)) and time.monotonic() < deadline:
            time.sleep(0.02)
        if not mine:
            raise Conflict(
                "data directory",
                f"a stack already runs in {home}",
                "see it with `clearlane status`, stop it with `clearlane down`, "
                "or start another one with --data",
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def owner(home: Path) -> int | None:
    """The pid of the supervisor that owns the home now; None when nobody does."""
    try:
        with (home / LOCK).open("r+") as file:
            # The pid is trusted only while its writer still holds the lock.
            return None if _try_lock(file) else int(file.read() or 0) or None
    except FileNotFoundError:
        return None


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def secret(home: Path, name: str) -> str:
    """The password `name`, made once; only characters that need no quoting anywhere."""
    key = f"{name}_password"
    if kept(home, key) is None:
        keep(home, key, secrets.token_hex(24))
    return str(kept(home, key))


def kept(home: Path, name: str) -> Json:
    """What was kept under a name, None if nothing was."""
    return read_json(home / KEPT).get(name)


def keep(home: Path, name: str, value: Json) -> None:
    """Keep a value under a name, in place of what was there."""
    write_private(home / KEPT, json.dumps({**read_json(home / KEPT), name: value}))


def port(home: Path, name: str, wanted: int = 0) -> int:
    """The loopback port of `name`: the wanted one, else the last one if free, else a free one.

    Raises BadInput when the wanted port is taken.
    """
    if wanted:
        check_port(name, wanted)
        return wanted
    key = f"{name}_port"
    last = kept(home, key)
    if last is not None and _is_free(last):
        return int(last)
    taken = set(read_json(home / KEPT).values())
    found = next(p for p in _candidates() if p not in taken and _is_free(p))
    keep(home, key, found)
    return found


def check_port(name: str, wanted: int) -> None:
    """Raises BadInput when the wanted port of `name` is taken."""
    if not _is_free(wanted):
        raise BadInput(
            f"CLEARLANE_{name.upper()}_PORT",
            f"port {wanted} is taken by another program",
            "choose another port, or 0 for any free one",
        )


def _candidates() -> Iterator[int]:
    """Random ports without end: neighbours that start at the same time pick different ones."""
    while True:
        yield secrets.choice(PORTS)


def _is_free(number: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError:
            return False
    return True
