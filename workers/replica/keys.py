"""A replica's own key: a file that only its owner reads, made once."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from ledger.errors import BadInput, Conflict
from ledger.proof.errors import ProofRefused
from ledger.proof.notes import COSIGNER, KEY_BYTES, KINDS, Signer, VerifierKey

FILE_MAX: Final = 8_192


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
            signer = Signer.parse(opened.read(FILE_MAX).strip())
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
    signer = Signer(name=name, kind=COSIGNER, seed=secrets.token_bytes(KEY_BYTES))
    try:
        VerifierKey.parse(signer.key.encode())
    except ProofRefused as error:
        raise BadInput("--name", error.reason, "use one like replica1.example") from error
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:  # made by another process just now
        return
    except OSError as error:
        raise BadInput("--key", f"{file}: {error.strerror}", "name another file") from error
    with os.fdopen(descriptor, "w") as opened:
        opened.write(f"{signer.encode()}\n")
        opened.flush()
        os.fsync(opened.fileno())
