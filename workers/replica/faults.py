"""Why a replica does not sign."""

from __future__ import annotations

from ledger.errors import ClearlaneError


class Refused(ClearlaneError):
    """A request to sign that is refused, with the status of c2sp.org/tlog-witness.

    `signed_size`: what the asker must start from (409).
    """

    def __init__(self, status: int, reason: str, *, signed_size: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.signed_size = signed_size


class Damaged(ClearlaneError):
    """What the log serves is not what its checkpoint commits to.

    Nobody has signed it, so it convicts nobody: it may be a fault on the way, and is asked for
    again. `leaf` where one is known to be wrong.
    """

    retryable = True

    def __init__(self, reason: str, *, leaf: int | None = None) -> None:
        super().__init__(reason if leaf is None else f"leaf {leaf}: {reason}")
        self.leaf = leaf


class PageDamaged(Damaged):
    """Damage somewhere in a page of leaves, whose leaf hashes as served are `hashes`."""

    def __init__(self, page: int, hashes: list[bytes]) -> None:
        super().__init__(f"page {page} of the entries is not the one that the checkpoint has")
        self.page = page
        self.hashes = hashes


class Lie(ClearlaneError):
    """The log has signed what cannot be: final, until a person has looked at the evidence.

    `kind` is a word for the evidence's name; `entry` the leaf that is wrong, where one is at hand.
    """

    def __init__(
        self, kind: str, reason: str, *, leaf: int | None = None, entry: bytes | None = None
    ) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.leaf = leaf
        self.entry = entry


class Behind(ClearlaneError):
    """The log has a leaf that this version does not know: it convicts nobody, and is not signed."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}; upgrade this replica")
