"""Wiring, in one place: settings in, a context for the steps out."""

from __future__ import annotations

from ledger.db import connect as connect_ledger
from ledger.errors import BadInput
from scheduler.connection import connect as connect_redis
from scheduler.reservations import Reservations
from tasks.context import Context
from workers.logkey import notary
from workers.settings import Settings


def build_context(settings: Settings) -> Context:
    """Clients for the ledger and the reservations; nothing connects before it is used."""
    if settings.sqlalchemy_url is None or settings.redis_url is None:
        missing = "DATABASE_URL" if settings.sqlalchemy_url is None else "REDIS_URL"
        raise BadInput(missing, "it is not set", "set it, or start with `clearlane up`")
    engine = connect_ledger(settings.sqlalchemy_url)
    return Context(
        engine=engine,
        reservations=Reservations(connect_redis(settings.redis_url)),
        lease_margin_s=settings.lease_margin_s,
        addresses=settings.agent_addresses,
        notary=notary(settings, engine),
    )
