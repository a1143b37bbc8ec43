"""Who signs the log, and whose signatures make it final."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ledger.proof.notes import Signer
from ledger.proof.policy import Policy


@dataclass(frozen=True, kw_only=True, slots=True)
class Notary:
    """Both are read when they are needed, and may raise BadInput.

    signer: the log's key. policy: the witnesses; None: nobody cosigns, and nothing is final.
    """

    signer: Callable[[], Signer]
    policy: Callable[[], Policy | None]
