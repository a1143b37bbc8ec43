"""A replica's own key: a file that only its owner reads, made once."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from ledger.errors import BadInput, Conflict
from ledger.proof.errors import ProofRefused
from ledger.proof.notes import COSIGNER, KEY_BYTES, KINDS, Signer, VerifierKey

FILE_MAX: Final = 8_192
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def made(file: Path, name: str) -> Signer:
    """The key of a file; a new one for `name` when there is no such file.

    Raises Conflict when the file has the key of another name, BadInput.
    """
    if not file.exists():
        _make(file, name)
    signer = read(file)
    if signer.name != name:
        reason = f"{file} has the key of {signer.name}"
        raise Conflict("--name", reason, "use that name, or another file")
    return signer


def read(file: Path) -> Signer:
    """The key of a file. Raises BadInput; no reason shows any of the secret."""
    remedy = "make one with `clearlane replica key`"
    try:
        with file.open() as opened:
            mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
            text = opened.read(FILE_MAX)
        if mode & OTHERS:
            reason = f"others may use {file} (mode {mode:04o})"
            raise BadInput("--key", reason, f"run `chmod 600 {file}`")
        signer = Signer.parse(text.strip())
        return require_kind(signer, COSIGNER, signer.key)
    except FileNotFoundError:
        raise BadInput("--key", f"{file} does not exist", remedy) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput("--key", f"{file} cannot be read: {type(error).__name__}", remedy) from None
    except ProofRefused as error:
        raise BadInput("--key", f"{file}: {error}", remedy) from error


def require_kind(signer: Signer, kind: int, key: VerifierKey) -> Signer:
    """Raises ProofRefused for a key that signs something else."""
    if key.kind != kind:
        raise ProofRefused(f"{key} is not the key of a {KINDS[kind]}", part="key")
    return signer


def _make(file: Path, name: str) -> None:
    remedy = "use one like replica1.example"
    if "+" in name:
        raise BadInput("--name", f"{name!r} has a +, which ends a name in a verifier key", remedy)
    signer = Signer(name=name, kind=COSIGNER, seed=secrets.token_bytes(KEY_BYTES))
    try:
        VerifierKey.parse(signer.key.encode())
    except ProofRefused as error:
        raise BadInput("--name", error.reason, remedy) from error
    if not file.parent.is_dir():
        raise BadInput("--key", f"{file.parent} is no directory", "make it, or name another file")
    try:
        _put(file, f"{signer.encode()}\n")
    except OSError as error:
        raise BadInput("--key", f"{file}: {error.strerror}", "name another file") from error


def _put(file: Path, text: str) -> None:
    """A file that is there as a whole or not at all, and never replaced."""
    with tempfile.NamedTemporaryFile("w", prefix=f".{file.name}-", dir=file.parent) as aside:
        aside.write(text)  # mode 0600
        aside.flush()
        os.fsync(aside.fileno())
        with suppress(FileExistsError):  # made by another process just now
            os.link(aside.name, file)
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
