"""The machine: Python, packages, open files, disk, language and time zone."""

from __future__ import annotations

import locale
import os
import resource
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from workers.doctor.finding import Finding, fail, ok, warn

PYTHON_MIN: Final = (3, 11)
FILES_FAIL, FILES_WARN = 256, 1024
MIB: Final = 1 << 20
DISK_FAIL_MIB, DISK_WARN_MIB = 256, 1024  # PostgreSQL stops when its log finds no room
SHOWN_MAX: Final = 5
INSTALL: Final = "run `make install`"


def python(version: Sequence[int] = sys.version_info[:3]) -> list[Finding]:
    """The interpreter is one that the code is written for."""
    said = f"Python {'.'.join(map(str, version))} at {sys.executable}"
    if tuple(version[:2]) < PYTHON_MIN:
        wanted = ".".join(map(str, PYTHON_MIN))
        return [fail("python", said, f"install Python {wanted} or later, then {INSTALL}")]
    return [ok("python", said)]


def packages() -> list[Finding]:
    """Every package that is needed is there, in a version that fits, as the lock file has it."""
    try:
        wanted = metadata.requires("clearlane") or []
    except metadata.PackageNotFoundError:
        return [fail("packages", "clearlane itself is not installed", INSTALL)]
    wrong = list(_unfit(wanted))
    if wrong:
        return [fail("packages", _some(wrong), INSTALL)]
    drift = list(_drift(Path(__file__).parents[2] / "requirements.lock"))
    if drift:
        remedy = f"{INSTALL}: only the locked versions are tested together"
        return [warn("packages", f"not as requirements.lock says: {_some(drift)}", remedy)]
    return [ok("packages", f"{len(wanted)} requirements are met")]


def _unfit(wanted: Sequence[str]) -> Iterator[str]:
    from packaging.requirements import Requirement

    for text in wanted:
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            yield f"{needed.name} is missing"
            continue
        if not needed.specifier.contains(version, prereleases=True):
            yield f"{needed.name} is {version}, needed is {needed.specifier}"


def _drift(lock: Path) -> Iterator[str]:
    """What is installed in another version than the lock file pins. Not installed is no drift:
    the lock file holds the extras too."""
    if not lock.is_file():  # installed from a wheel
        return
    for line in lock.read_text().splitlines():
        name, sign, rest = line.partition("==")
        if not sign or line[0] in " #":
            continue
        pinned = rest.split()[0]
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if version != pinned:
            yield f"{name} is {version}, locked is {pinned}"


def _some(items: Sequence[str]) -> str:
    more = len(items) - SHOWN_MAX
    return "; ".join(items[:SHOWN_MAX]) + (f"; and {more} more" if more > 0 else "")


def open_files() -> list[Finding]:
    """A process may hold a connection for each call that is out."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= FILES_WARN:
        return [ok("open files", f"{soft} at a time")]
    most = "no limit" if hard == resource.RLIM_INFINITY else str(hard)
    remedy = f"raise it with `ulimit -n {FILES_WARN}` or LimitNOFILE= (allowed: {most})"
    judged = fail if soft < FILES_FAIL else warn
    return [judged("open files", f"a process may open {soft} files only", remedy)]


def disk(place: Path) -> list[Finding]:
    """There is room where the data lies."""
    while not place.exists():
        place = place.parent
    return [room(shutil.disk_usage(place).free // MIB, place)]


def room(free_mib: int, place: Path) -> Finding:
    """So much is free at a place: whether that will do."""
    said = f"{free_mib} MiB are free at {place}"
    if free_mib >= DISK_WARN_MIB:
        return ok("disk", said)
    judged = fail if free_mib < DISK_FAIL_MIB else warn
    return judged("disk", said, "make room, or name another place with --data")


def language(env: Mapping[str, str] = os.environ) -> list[Finding]:
    """Texts are UTF-8, and the locale and time zone that are named exist."""
    return [*_locale(env), *_zone(env.get("TZ"))]


def _locale(env: Mapping[str, str]) -> Iterator[Finding]:
    encoding = sys.getfilesystemencoding().lower()
    if encoding != "utf-8":
        remedy = "set LC_ALL=C.UTF-8, or PYTHONUTF8=1"
        yield fail("locale", f"names of files are in {encoding}, not in UTF-8", remedy)
        return
    named = next((env[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if env.get(name)), "C")
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, named)
    except locale.Error:
        yield warn("locale", f"{named} is not installed here", "set LC_ALL=C.UTF-8")
    else:
        yield ok("locale", f"{named}, UTF-8")
    finally:
        locale.setlocale(locale.LC_CTYPE, before)


def _zone(name: str | None) -> Iterator[Finding]:
    from zoneinfo import ZoneInfo

    if name is None:
        yield ok("time zone", "the system's; times are kept and shown in UTC")
        return
    key = name.removeprefix(":")
    known = not key or key.startswith("/")
    if not known:
        try:
            ZoneInfo(key)
            known = True
        except (ValueError, OSError, KeyError):
            known = any(char.isdigit() for char in key)  # as CET-1CEST, without a name
    if known:
        yield ok("time zone", f"TZ={name}; times are kept and shown in UTC")
    else:
        yield warn("time zone", f"TZ={name} is unknown and taken for UTC", "correct or unset TZ")
