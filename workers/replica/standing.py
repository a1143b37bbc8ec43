"""How a replica stands, read from its directory, running or not."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ledger.errors import BadInput
from ledger.proof.checkpoint import Checkpoint
from ledger.proof.errors import ProofRefused
from ledger.proof.notes import Note
from ledger.proof.policy import Policy
from ledger.proof.text import show_base64
from workers.replica.evidence import Evidence
from workers.replica.store import look


def stands(directory: Path, policy: Path | None) -> dict[str, Any]:
    """The last signature, what the policy says of the newest checkpoint seen, what stands against
    the log, and what else kept the replica from following the last time it looked."""
    head = look(directory)
    signed = head.signed
    evidence = Evidence(directory)
    found: dict[str, Any] = {
        "replica": head.vkey,
        "log": head.origin,
        "replayed": head.size,
        "signed": signed.size if signed else None,
        "root": show_base64(signed.root) if signed else None,
        "signed_at": datetime.fromtimestamp(signed.time_s, UTC) if signed else None,
    }
    if policy is not None:
        found |= _final(head.seen, policy)
    found["refuses"] = evidence.standing()
    found["trouble"] = None if found["refuses"] else head.trouble or None
    found["evidence"] = [str(case) for case in evidence.cases()]
    return found


def _final(seen: str | None, file: Path) -> dict[str, Any]:
    try:
        policy = Policy.parse(file.read_bytes())
    except OSError as error:
        raise BadInput("--policy", f"{file}: {error.strerror}", "name a policy file") from error
    except ProofRefused as error:
        raise BadInput("--policy", str(error), "see docs/how-to/run-a-replica.md") from error
    if seen is None:
        return {"final": None, "not_final": "no checkpoint was seen yet"}
    note = Note.parse(seen)
    size = Checkpoint.parse(note.text).size
    try:
        keys = {found.key for found in note.verified_by([w.key for w in policy.witnesses])}
    except ProofRefused:
        keys = set()
    missing = policy.missing(w.name for w in policy.witnesses if w.key in keys)
    return {
        "final": None if missing else size,
        "not_final": f"the checkpoint of {size} leaves waits; {missing}" * bool(missing),
    }
