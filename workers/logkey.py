"""The log's private key: one file that only its owner may read.

Made at the first start of a stack, and never again: a log whose key is lost is a log whose
checkpoints nobody can trust any more, and another key would not change that. Rows M21, M41.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from ledger import checkpoints
from ledger.db import Ledger, connect
from ledger.errors import BadInput, Conflict
from ledger.proof.errors import ProofRefused
from ledger.proof.notes import KEY_BYTES, LOG, Signer, VerifierKey
from ledger.proof.policy import POLICY_BYTES_MAX, Policy
from tasks.notary import Notary
from workers import home as homes
from workers.settings import Settings, sqlalchemy_url

FILE: Final = "log.key"
VARIABLE: Final = "CLEARLANE_LOG_KEY_FILE"
ORIGIN_DEFAULT: Final = "clearlane.local/"  # and a number that no other log has
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def place(settings: Settings, home: Path | None = None) -> Path:
    """The file with the key."""
    return (settings.log_key_file or (home or settings.data) / FILE).expanduser().absolute()


def keep_key(database_url: str, settings: Settings, home: Path | None, now: datetime) -> list[str]:
    """Make the key of a log that has none; what stands in the way of signing, if anything does.

    Raises Unavailable; BadInput when the file that is there cannot be used.
    """
    path = place(settings, home)
    engine = connect(sqlalchemy_url(database_url))
    try:
        known = checkpoints.keys(engine)
        if not path.exists():
            if known:
                return [f"{path}: the key of the log {known[0].key.name} is missing; restore it"]
            _write(path, make(settings.log_origin))
        signer = load(engine, path, settings.log_origin)
        checkpoints.introduce(engine, signer.key, now)
        fault = _fault(engine, signer, path)
        return [fault] if fault else []
    finally:
        engine.dispose()


def fault_at(database_url: str, path: Path, origin: str | None) -> str:
    """Why the key of a file may not sign the log of a database, or nothing. Changes nothing."""
    engine = connect(sqlalchemy_url(database_url))
    try:
        known = checkpoints.keys(engine)
        fresh = _fresh(path, known[0].key) if known else path
        return _fault(engine, read(fresh if fresh.exists() else path, origin), path)
    finally:
        engine.dispose()


def _fault(engine: Ledger, signer: Signer, path: Path) -> str:
    known = checkpoints.keys(engine)
    if not known or known[0].key == signer.key:
        return ""
    return f"{path}: {signer.key} is not the log's key, {known[0].key}; restore that one"


def make(origin: str | None) -> Signer:
    """A new key; `origin` is the log's name."""
    name = origin or f"{ORIGIN_DEFAULT}{secrets.token_hex(8)}"
    return Signer(name=name, kind=LOG, seed=secrets.token_bytes(KEY_BYTES))


def load(engine: Ledger, path: Path, origin: str | None) -> Signer:
    """The key that signs the log now. Raises BadInput, which never shows any of it.

    A rotation that was cut off after the log had the new key ends here.
    """
    known = checkpoints.keys(engine)
    if known and (fresh := _fresh(path, known[0].key)).exists():
        _put(fresh, path)
    return read(path, origin)


def read(path: Path, origin: str | None) -> Signer:
    """The key of a file. Raises BadInput."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(4096)
    except OSError as error:
        raise BadInput(
            VARIABLE, f"{path} cannot be read: {error.strerror}", "restore the file"
        ) from None
    if mode & OTHERS:
        raise BadInput(
            VARIABLE, f"others may use {path} (mode {mode:04o})", f"run `chmod 600 {path}`"
        )
    try:
        signer = Signer.parse(data.decode("ascii", "replace").removesuffix("\n"))
    except ProofRefused as error:
        raise BadInput(VARIABLE, f"{path} holds no key: {error}", "restore the file") from None
    if signer.kind != LOG:
        raise BadInput(VARIABLE, f"{path} holds the key of a witness", "use the log's key")
    if origin not in {None, signer.name}:
        raise BadInput(
            "CLEARLANE_LOG_ORIGIN",
            f"{origin!r} is not {signer.name!r}, the name in the log's key",
            "unset it: a log keeps its name",
        )
    return signer


def rotate(engine: Ledger, path: Path, origin: str | None, now: datetime) -> Signer:
    """Give the log a new key, which takes the place of the old one in the file.

    The new one is kept before the log has it: a stop at any point leaves the one that signs.
    """
    old = load(engine, path, origin)
    new = make(old.name)
    fresh = _fresh(path, new.key)
    _write(fresh, new)
    try:
        checkpoints.rotate(engine, old, new, now)
    except Conflict:  # of everything else nobody knows whether the log has it
        fresh.unlink()
        raise
    _put(fresh, path)
    return new


def notary(settings: Settings, engine: Ledger) -> Notary:
    """Who signs and what is enough, read when it is asked for: a change needs no restart."""
    return Notary(
        signer=lambda: load(engine, place(settings), settings.log_origin),
        policy=lambda: None if settings.log_policy is None else read_policy(settings.log_policy),
    )


def read_policy(path: Path) -> Policy:
    """The policy of a file. Raises BadInput."""
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(POLICY_BYTES_MAX + 1)
        return Policy.parse(data)
    except OSError as error:
        reason = f"{path} cannot be read: {error.strerror}"
        raise BadInput("CLEARLANE_LOG_POLICY", reason, "correct it, or unset it") from None
    except ProofRefused as error:
        raise BadInput("CLEARLANE_LOG_POLICY", f"{path}: {error}", "correct the file") from None


def _fresh(path: Path, key: VerifierKey) -> Path:
    """Where a rotation keeps a key until the log has it: no two use the same file."""
    return path.with_name(f"{path.name}.{key.key_id.hex()}")


def _put(fresh: Path, path: Path) -> None:
    with suppress(FileNotFoundError):  # somebody else just did
        homes.replace_durably(fresh, path)


def _write(path: Path, signer: Signer) -> None:
    try:
        homes.write_private(path, f"{signer.encode()}\n")
    except OSError as error:
        reason = f"{path} cannot be written: {error.strerror}"
        raise BadInput(VARIABLE, reason, "let its owner write there") from None
