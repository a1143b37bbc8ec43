"""The broker's channel keeps its client for as long as its pool, and no longer."""

from __future__ import annotations

from kombu import Connection

from workers.broker import Channel, Transport
from workers.celery import app


def test_a_client_lives_as_long_as_its_pool(redis_url: str) -> None:
    with Connection(redis_url, transport=Transport) as connection:
        channel = connection.channel()
        assert isinstance(channel, Channel)
        with channel.conn_or_acquire() as first, channel.conn_or_acquire() as second:
            assert first is second
            assert first.ping()
        channel._disconnect_pools()
        with channel.conn_or_acquire() as third:
            assert third is not first
            assert third.connection_pool is channel.pool
            assert third.ping()


def test_the_application_uses_it_under_the_plain_name_of_its_broker() -> None:
    with app.connection_for_write("redis://:secret@127.0.0.1:1/0") as connection:
        assert connection.get_transport_cls() is Transport
        assert connection.as_uri() == "redis://:**@127.0.0.1:1/0"
