"""The log's key: it is there, it is nobody else's, and it is the one that signs this log."""

from __future__ import annotations

from pathlib import Path

from ledger.errors import BadInput, Unavailable
from workers.doctor.finding import Finding, fail, ok, skipped
from workers.doctor.site import Site

NAME = "log key"


def log_key(site: Site) -> list[Finding]:
    """Whether the log can be signed from here."""
    from workers import logkey

    path = logkey.place(site.settings, site.home)
    if not path.exists():
        if site.runs_here:
            remedy = "restore it; without it no receipt can be given for what happens from now on"
            return [fail(NAME, f"{path} is missing: nothing signs the log", remedy)]
        return [skipped(NAME, f"there is none in {path}: `up` makes it")]
    try:
        signer = logkey.read(path, site.settings.log_origin)
        if site.settings.log_policy is not None:
            logkey.read_policy(site.settings.log_policy)
        return [_fits(site, path, str(signer.key))]
    except BadInput as error:
        return [fail(NAME, error.reason, error.remedy)]


def _fits(site: Site, path: Path, name: str) -> Finding:
    from workers import logkey

    if site.database_url is None:
        return skipped(NAME, f"{path} is a key; nothing runs to which it could belong")
    try:
        fault = logkey.fault_at(site.database_url, path, site.settings.log_origin)
    except Unavailable as error:
        return skipped(NAME, f"{path} is a key; {error.what} does not answer")
    if fault:
        remedy = "restore the right file, or correct CLEARLANE_LOG_KEY_FILE"
        return fail(NAME, fault, remedy)
    return ok(NAME, f"{name} signs the log")
