"""What the driver is asked to send arrives, however much it is."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from ledger.db import batch, last_batch, notify, query, single, transaction

MIB = 1 << 20


@pytest.mark.parametrize("size", [MIB, 32 * MIB])
def test_a_batch_sends_more_than_a_socket_takes_at_once(engine: Engine, size: int) -> None:
    with single(engine) as connection, batch(connection):
        clients = query(connection, "clients", {"names": ["x" * size]})
        clock = query(connection, "clock")
    assert clients.fetchall() == []
    assert clock.fetchone() is not None


def test_the_last_batch_of_a_transaction_does_so_too(engine: Engine) -> None:
    with transaction(engine) as connection, last_batch(connection):
        query(connection, "clients", {"names": ["x" * (32 * MIB)]})
        notify(connection, "anybody")
    with single(engine) as connection:
        assert query(connection, "clock").fetchone() is not None
