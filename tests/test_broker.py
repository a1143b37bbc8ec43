"""The broker's channel keeps its client for as long as its pool, and no longer."""

from __future__ import annotations

import socket
from contextlib import suppress

import pytest
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


@pytest.mark.parametrize(
    "item",
    [
        "no json",
        "[]",
        '{"body": "x", "properties": {}}',
        '{"body": "eyJ", "properties": {"body_encoding": "base64", "delivery_tag": "1", '
        '"delivery_info": {"exchange": "", "routing_key": "q"}}, "headers": {}}',
        '{"body": "e30=", "properties": {"body_encoding": "rot13", "delivery_tag": "1", '
        '"delivery_info": {"exchange": "", "routing_key": "q"}}, "headers": {}}',
    ],
)
def test_a_message_nobody_can_read_does_not_end_its_reader(redis_url: str, item: str) -> None:
    found: list[object] = []
    with Connection(redis_url, transport=Transport) as connection:
        queue = connection.SimpleQueue("q", no_ack=True)
        queue.put({"good": 1})
        connection.default_channel.client.rpush("q", item)  # next in line
        with (
            connection.Consumer(
                [queue.queue], callbacks=[lambda body, _: found.append(body)], no_ack=True
            ),
            suppress(socket.timeout),
        ):
            while not found:
                connection.drain_events(timeout=5)
        queue.close()
    assert found == [{"good": 1}]


def test_the_application_uses_it_under_the_plain_name_of_its_broker() -> None:
    with app.connection_for_write("redis://:secret@127.0.0.1:1/0") as connection:
        assert connection.get_transport_cls() is Transport
        assert connection.as_uri() == "redis://:**@127.0.0.1:1/0"
