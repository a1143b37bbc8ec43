"""Batches without workers: rows, keys, what is known before, rates and rounding. Row M03."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import click
import pytest
from sqlalchemy import Engine

from ledger import batches, intake, lanes
from ledger.attempts import abort
from ledger.batches import Batch, BatchEnd
from ledger.errors import BadInput, Conflict, NotFound
from ledger.intake import Submission, Tenure
from ledger.lanes import Ask
from ledger.settle import settle
from tests import makers
from workers.batchrun import Progress
from workers.cli.batch import _rate
from workers.cli.progress import words_of
from workers.tasklines import Defaults, by_content, read_lines


@pytest.fixture(autouse=True)
def installed(engine: Engine, now: datetime) -> None:
    makers.install(engine, now, families=[makers.family(max_attempts=1)])


def wanted(**values: Any) -> Batch:
    given = {
        "lane": "default",
        "client": "R",
        "principal": "alice",
        "reason": "mint",
        "file": "/items.jsonl",
        "file_sha256": b"x" * 32,
        "options": {"family": "f"},
        "items": 3,
    }
    return Batch(**{**given, **values})


def items(count: int) -> list[Submission]:
    return [Submission(family="f", payload=n, idempotency_key=f"k{n}") for n in range(count)]


def test_a_batch_and_its_hold_begin_together(engine: Engine, now: datetime) -> None:
    number, lane = batches.begin(engine, wanted(), 30, now)
    assert (lane.serves, lane.principal, lane.until) == (
        number,
        "alice",
        now + timedelta(seconds=30),
    )
    with pytest.raises(Conflict, match="held by alice"):
        batches.begin(engine, wanted(principal="bob"), 30, now)
    assert [kept.id for kept in batches.batches(engine)] == [number], "a refused one leaves no row"
    kept = batches.batch(engine, number)
    assert (kept.state, kept.options, kept.file_sha256) == ("running", {"family": "f"}, b"x" * 32)
    lanes.release(engine, "default", lane.token, now)
    assert batches.batch(engine, number).state == "died"
    with pytest.raises(NotFound):
        batches.batch(engine, number + 1)


def test_how_a_batch_ends_is_said_by_who_ran_it_last(engine: Engine, now: datetime) -> None:
    number, lane = batches.begin(engine, wanted(), 30, now)
    lanes.release(engine, "default", lane.token, now)
    ask = Ask(principal="bob", reason="again", serves=number)
    again = batches.again(engine, number, ask, "/elsewhere", now)
    batches.end(engine, number, lane.token, BatchEnd.LOST, now)
    batches.end(engine, number, batches.NOBODY, BatchEnd.DONE, now)
    kept = batches.batch(engine, number)
    assert (kept.state, kept.principal, kept.file) == ("running", "bob", "/elsewhere")
    batches.end(engine, number, again.token, BatchEnd.DONE, now)
    batches.end(engine, number, again.token, BatchEnd.STOPPED, now)
    assert batches.batch(engine, number).state == "done"
    lanes.release(engine, "default", again.token, now)
    died, lane = batches.begin(engine, wanted(), 30, now)
    lanes.release(engine, "default", lane.token, now)
    assert batches.batch(engine, died).state == "died"
    batches.end(engine, died, batches.NOBODY, BatchEnd.DONE, now)
    assert batches.batch(engine, died).state == "done"
    with pytest.raises(NotFound, match="batch: 9999 is not known"):
        batches.again(engine, 9999, ask, "/elsewhere", now)


def test_counts_tell_where_every_item_is(engine: Engine, now: datetime) -> None:
    number, lane = batches.begin(engine, wanted(items=5), 3600, now)
    tenure = Tenure(lane="default", token=lane.token, batch=number)
    intake.submit(engine, "R", items(5), now, tenure)
    makers.submit(engine, now, count=3)
    one, two, _ = makers.claim(engine, now, limit=3)
    settle(engine, [makers.settlement(one, cost_ub=17)], now=now)
    abort(engine, [makers.failure(two)], now)
    found = batches.counts(engine, number)
    assert (found.committed, found.quarantined, found.in_flight, found.waiting) == (1, 1, 1, 2)
    assert (found.failed, found.left, found.spent_ub) == (1, 3, 17)


def test_what_an_earlier_batch_left_comes_into_the_next(engine: Engine, now: datetime) -> None:
    first, lane = batches.begin(engine, wanted(), 3600, now)
    tenure = Tenure(lane="default", token=lane.token, batch=first)
    intake.submit(engine, "R", items(3), now, tenure)
    (key,) = makers.claim(engine, now, limit=1)
    settle(engine, [makers.settlement(key)], now=now)
    lanes.release(engine, "default", lane.token, now)
    assert makers.claim(engine, now) == [], "nobody else's turn runs them"

    known = intake.known(engine, "R", items(4))
    assert len(known) == 3
    assert {item.batch for item in known.values() if not isinstance(item, Conflict)} == {first}
    second, lane = batches.begin(engine, wanted(), 3600, now)
    tenure = Tenure(lane="default", token=lane.token, batch=second)
    accepted = intake.submit(engine, "R", items(4), now, tenure)
    assert [item.created for item in accepted] == [False, False, False, True]
    assert batches.counts(engine, second).left == 3
    assert (batches.counts(engine, first).left, batches.counts(engine, first).committed) == (0, 1)
    assert len(makers.claim(engine, now)) == 3


def test_a_key_used_otherwise_is_known_before(engine: Engine, now: datetime) -> None:
    intake.submit(engine, "R", items(1), now)
    other = Submission(family="f", payload="other", idempotency_key="k0")
    found = intake.known(engine, "R", [other])
    assert isinstance(found["k0"], Conflict)
    for client, lane, field in (("nobody", "default", "client"), ("R", "nowhere", "lane")):
        item = Submission(family="f", payload=1, idempotency_key="k", lane=lane)
        with pytest.raises(NotFound, match=f"{field}: "):
            intake.known(engine, client, [item])


def keys(*rows: Any, lane: str = "default") -> list[str | None]:
    data = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    defaults = Defaults(families=["f"], lanes=["default", "mint"], family="f", lane=lane)
    lines, faults = read_lines("items", data, defaults, by_content())
    assert faults == []
    return [line.item.idempotency_key for line in lines]


def test_an_item_is_known_by_its_content() -> None:
    one, two = {"payload": {"a": 1, "b": 2}}, {"payload": {"b": 2, "a": 1}}
    other = {"payload": {"a": 1}}
    first = keys(one, other)
    assert len({*first, *keys(one, lane="mint"), *keys({**one, "size": 7})}) == 4
    assert keys(other, two) == first[::-1], "wherever it stands, however it is written"
    twice = keys(one, two, other, one)
    assert twice[0] == first[0]
    assert twice[1] == f"{first[0]}:2"
    assert twice[3] == f"{first[0]}:3"
    assert keys({**one, "key": "mine"}) == ["mine"]


@pytest.mark.parametrize(
    ("text", "rate"), [("50", 50), ("50/s", 50), ("90/m", 1.5), ("36/h", 0.01), ("0.5/s", 0.5)]
)
def test_a_rate_is_read(text: str, rate: float) -> None:
    assert _asked(text) == rate


@pytest.mark.parametrize("text", ["", "0", "0/s", "-1", "fast", "1/d", "9999999", "1e3", "nan"])
def test_a_rate_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="--rate"):
        _asked(text)


def _asked(text: str) -> float | None:
    option = click.Option(["--rate"])
    return _rate(click.Context(click.Command("run")), option, text)


def test_progress_counts_what_this_run_did() -> None:
    seen = Progress(
        items=100, before=20, done=38, failed=2, in_flight=8,
        spent_ub=1_500_000, budget_ub=2_000_000, elapsed_s=10.0,
    )  # fmt: skip
    assert (seen.ended, seen.rate_per_s, seen.eta_s) == (40, 2.0, 30.0)
    assert words_of(seen) == (
        "40 of 100: 38 done, 2 failed, 8 in flight, 2.0/s, ready in 0:30;"
        " 1.500000 B spent, 2.000000 B left"
    )
