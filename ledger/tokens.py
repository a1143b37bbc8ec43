"""Tokens: who may speak to the gateway, in what role, on whose behalf.

A token is `clearlane_<id>_<secret>`: the id finds the row, the secret is 256 random bits of which
only the SHA-256 is kept. Such a secret cannot be guessed, so a hash that is quick to compute is
enough; a slow one would only slow our own requests down.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from psycopg.errors import ForeignKeyViolation
from sqlalchemy import Engine

from ledger.db import query, single, transaction
from ledger.errors import BadInput, NotFound

FORM = re.compile(r"clearlane_([0-9a-f]{12})_([0-9a-f]{64})")
PRINCIPAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class Role(StrEnum):
    """What a token is for."""

    CLIENT = "client"  # submits and reads the tasks of one client
    AGENT = "agent"  # reads what one agent is asked and paid
    OPERATOR = "operator"  # everything
    APPROVER = "approver"  # reads everything, decides what waits for a second person
    VIEWER = "viewer"  # reads everything
    REPLICA = "replica"  # reads the log and nothing else: whoever has it need not be one of us


TENANTS = frozenset({Role.CLIENT, Role.AGENT})
"""Roles that act for one client or agent and see nothing of the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """A token as recorded. `tenant` is the client's or agent's id, None in the other roles."""

    id: str
    role: Role
    tenant: str | None
    principal: str  # who holds it, for records and logs
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    secret_sha256: bytes = field(repr=False)

    def state(self, now: datetime) -> str:
        """`valid`, `revoked` or `expired`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "valid"

    def opens_with(self, secret: str) -> bool:
        """Whether this is its secret; how long the answer takes says nothing about it."""
        return hmac.compare_digest(self.secret_sha256, _hash(secret))


@dataclass(frozen=True, kw_only=True, slots=True)
class Created:
    """A new token. `text` is told this once and kept nowhere."""

    text: str = field(repr=False)
    token: Token


def split(text: str) -> tuple[str, str] | None:
    """Id and secret of a token's text, None when it has not the form of one."""
    found = FORM.fullmatch(text)
    return None if found is None else (found[1], found[2])


def create(
    engine: Engine,
    *,
    role: Role,
    principal: str,
    tenant: str | None = None,
    expires_at: datetime | None = None,
    now: datetime,
) -> Created:
    """Make a token. Raises BadInput, NotFound for an unknown tenant, Unavailable."""
    _check(role, principal, tenant, expires_at, now)
    secret = secrets.token_hex(32)
    token = Token(
        id=secrets.token_hex(6),
        role=role,
        tenant=tenant,
        principal=principal,
        created_at=now,
        expires_at=expires_at,
        revoked_at=None,
        secret_sha256=_hash(secret),
    )
    values = {
        "id": token.id,
        "secret_sha256": token.secret_sha256,
        "role": str(role),
        "client": tenant if role is Role.CLIENT else None,
        "agent": tenant if role is Role.AGENT else None,
        "principal": principal,
        "created_at": now,
        "expires_at": expires_at,
    }
    try:
        with transaction(engine) as connection:
            query(connection, "add_token", values)
    except ForeignKeyViolation:
        raise NotFound(
            str(role), f"{tenant!r} is not known", "add it to the configuration file"
        ) from None
    return Created(text=f"clearlane_{token.id}_{secret}", token=token)


def find(engine: Engine, token_id: str) -> Token | None:
    """The token with this id, valid or not."""
    found = _read(engine, [token_id])
    return found[0] if found else None


def all_tokens(engine: Engine) -> list[Token]:
    """Every token ever made, the newest first."""
    return _read(engine, None)


def revoke(engine: Engine, token_id: str, now: datetime) -> Token:
    """End a token for good; one that was revoked before stays as it is. Raises NotFound."""
    with transaction(engine) as connection:
        query(connection, "revoke_token", {"id": token_id, "now": now})
    found = find(engine, token_id)
    if found is None:
        raise NotFound("token", f"{token_id!r} is not known", "see `clearlane tokens list`")
    return found


def _check(
    role: Role, principal: str, tenant: str | None, expires_at: datetime | None, now: datetime
) -> None:
    if not PRINCIPAL.fullmatch(principal):
        raise BadInput(
            "principal",
            f"{principal!r} is not possible",
            "use 1 to 64 letters, digits and . _ @ -, a letter or digit first",
        )
    if role in TENANTS and tenant is None:
        raise BadInput(str(role), "it is missing", f"name the {role} that the token acts for")
    if role not in TENANTS and tenant is not None:
        raise BadInput("role", f"{role} acts for no client or agent", "leave the name out")
    if expires_at is not None and expires_at <= now:
        raise BadInput("expires_at", "it is not in the future", "choose a later time")


def _read(engine: Engine, ids: Sequence[str] | None) -> list[Token]:
    with single(engine) as connection:
        rows = query(connection, "tokens", {"ids": ids}).fetchall()
    return [
        Token(
            **{**row._asdict(), "role": Role(row.role), "secret_sha256": bytes(row.secret_sha256)}
        )
        for row in rows
    ]


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
