"""Whom the embedded servers run as, and what that user may reach.

PostgreSQL refuses to run as root, so root lends its servers an unprivileged system user.
"""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from ledger.errors import Unavailable

SERVER_USER = "clearlane"
ADD_TIMEOUT_S = 10.0

_READ = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH


def identity(user: str | None) -> dict[str, Any]:
    """The keyword arguments of subprocess that make a child run as `user` (None: as we do)."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def server_user(data: Path) -> str | None:
    """Whom the servers run as: None for an ordinary caller, else the owner of `data`.

    Adds the system user when there is none yet; Unavailable when that fails.
    """
    if os.geteuid() != 0:
        return None
    with suppress(FileNotFoundError, KeyError):
        owner = data.stat().st_uid  # data made by somebody else stays his
        if owner != 0:
            return pwd.getpwuid(owner).pw_name
    _add_user()
    return SERVER_USER


def own(path: Path, user: str | None) -> None:
    """Give a file or directory to `user`."""
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)


def admit(user: str | None, home: Path, installed: Path) -> None:
    """Let `user` through to its data in `home` and to its binaries in `installed`.

    Parents get the right to be traversed only, not to be listed, and only where it is missing.
    """
    if user is None:
        return
    for parent in sorted({home, *home.parents, *installed.parents}):
        if not parent.stat().st_mode & stat.S_IXOTH:
            _add_mode(parent, stat.S_IXOTH)
            structlog.get_logger().warning("directory opened for traversal", path=str(parent))
    if installed.stat().st_mode & stat.S_IROTH:
        return
    for path in [installed, *installed.rglob("*")]:  # installed under a strict umask
        executable = path.stat().st_mode & stat.S_IXUSR
        _add_mode(path, _READ | (stat.S_IXGRP | stat.S_IXOTH if executable else 0))


def _add_mode(path: Path, bits: int) -> None:
    path.chmod(stat.S_IMODE(path.stat().st_mode) | bits)


def _add_user() -> None:
    argv = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SERVER_USER]
    deadline = time.monotonic() + ADD_TIMEOUT_S
    while True:
        with suppress(KeyError):
            pwd.getpwnam(SERVER_USER)
            return
        try:
            subprocess.run(argv, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            # Another stack may be adding the same user: the password file is locked meanwhile.
            if time.monotonic() < deadline and not isinstance(error, FileNotFoundError):
                time.sleep(0.2)
                continue
            raise Unavailable(
                "embedded PostgreSQL",
                f"it refuses to run as root, and the user {SERVER_USER} cannot be added ({error})",
                "add that user, or run as an ordinary user, or give DATABASE_URL and REDIS_URL",
            ) from error
