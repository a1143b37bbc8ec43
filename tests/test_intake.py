from __future__ import annotations

import threading
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine

from ledger import attempts, intake
from ledger.db import ENDED, READY
from ledger.errors import BadInput, Conflict, NotFound
from ledger.intake import Submission, cancel, new_ids, task_counts, task_list, task_row
from ledger.listen import Listener
from tests import makers


@pytest.fixture(autouse=True)
def _installed(engine: Engine, now: datetime) -> None:
    makers.install(engine, now)


def asked(payload: object = 1, **values: object) -> Submission:
    return Submission(family="f", payload=payload, **values)  # type: ignore[arg-type]


def counted(engine: Engine) -> int:
    return sum(row["tasks"] for row in task_counts(engine))


def test_an_accepted_task_waits_for_dispatch(engine: Engine, now: datetime) -> None:
    (accepted,) = intake.submit(engine, "R", [asked({"x": [1, "é"]}, type="report")], now)
    row = task_row(engine, accepted.task)
    assert accepted.created
    assert (row["state"], row["wait"], row["size"], row["type"]) == (
        "INIT", "dispatch", 100, "report",
    )  # fmt: skip
    assert row["attempts"] == []
    assert intake.submit(engine, "R", [], now) == []


def test_submitting_wakes_the_dispatcher(engine: Engine, database_url: str, now: datetime) -> None:
    with Listener(database_url, READY) as listener:
        makers.submit(engine, now)
        assert listener.wait(60) == [(READY, "")]


def test_a_key_used_again_names_the_first_task(engine: Engine, now: datetime) -> None:
    (first,) = intake.submit(engine, "R", [asked(idempotency_key="k")], now)
    again = intake.submit(engine, "R", [asked(2), asked(idempotency_key="k")], now)
    assert again[1].task == first.task
    assert [item.created for item in again] == [True, False]
    assert counted(engine) == 2
    cancel(engine, first.task, now)
    (late,) = intake.submit(engine, "R", [asked(idempotency_key="k")], now)
    assert (late.task, late.state, late.created) == (first.task, "CANCELLED", False)


def test_the_same_key_twice_in_one_batch_is_one_task(engine: Engine, now: datetime) -> None:
    twice = intake.submit(engine, "R", [asked(idempotency_key="k")] * 2, now)
    assert twice[0].task == twice[1].task
    assert [item.created for item in twice] == [True, False]
    assert counted(engine) == 1


@pytest.mark.parametrize("other", [asked(2), asked(1, size=7), asked(1, type="other")])
def test_a_key_with_other_content_is_a_conflict(
    engine: Engine, now: datetime, other: Submission
) -> None:
    changed = Submission(
        family=other.family,
        payload=other.payload,
        size=other.size,
        type=other.type,
        idempotency_key="k",
    )
    intake.submit(engine, "R", [asked(idempotency_key="k")], now)
    with pytest.raises(Conflict, match="idempotency_key: 'k' was used for another task"):
        intake.submit(engine, "R", [asked(9), changed], now)
    with pytest.raises(Conflict):
        intake.submit(
            engine, "R", [asked(1, idempotency_key="n"), asked(2, idempotency_key="n")], now
        )
    assert counted(engine) == 1


def test_keys_belong_to_their_client(engine: Engine, now: datetime) -> None:
    makers.install(engine, now, clients=[makers.client("S")])
    (mine,) = intake.submit(engine, "R", [asked(idempotency_key="k")], now)
    (theirs,) = intake.submit(engine, "S", [asked(2, idempotency_key="k")], now)
    assert theirs.created
    assert mine.task != theirs.task


def test_one_key_from_many_threads_is_one_task(engine: Engine, now: datetime) -> None:
    found: list[str] = []
    barrier = threading.Barrier(6)

    def run() -> None:
        barrier.wait()
        found.append(intake.submit(engine, "R", [asked(idempotency_key="k")], now)[0].task)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1
    assert counted(engine) == 1


@pytest.mark.parametrize(
    ("bad", "field", "error"),
    [
        (Submission(family="nope", payload=1), "family", NotFound),
        (asked(size=0), "size", BadInput),
        (asked(size=intake.SIZE_MAX + 1), "size", BadInput),
        (asked("x" * intake.PAYLOAD_MAX_BYTES), "payload", BadInput),
        (asked(float("nan")), "payload", BadInput),
        (asked("a\0b"), "payload", BadInput),
    ],
)
def test_all_of_a_list_is_accepted_or_none(
    engine: Engine, now: datetime, bad: Submission, field: str, error: type[BadInput]
) -> None:
    with pytest.raises(error) as refused:
        intake.submit(engine, "R", [asked(), bad, asked()], now)
    assert refused.value.field == field
    assert counted(engine) == 0


def test_an_unknown_client_is_named(engine: Engine, now: datetime) -> None:
    with pytest.raises(NotFound, match="client: 'nobody' is not known"):
        intake.submit(engine, "nobody", [asked()], now)


def test_a_cancelled_task_stays_cancelled(engine: Engine, now: datetime) -> None:
    (task,) = makers.submit(engine, now)
    cancel(engine, task, now)
    cancel(engine, task, now + timedelta(seconds=1))
    row = task_row(engine, task)
    assert (row["state"], row["ended_at"], row["wait"]) == ("CANCELLED", now, None)
    assert makers.claim(engine, now) == []


def test_what_has_ended_otherwise_cannot_be_cancelled(engine: Engine, now: datetime) -> None:
    (task,) = makers.submit(engine, now, expires_at=now)
    attempts.expire(engine, limit=10, now=now)
    with pytest.raises(Conflict, match="is EXPIRED"):
        cancel(engine, task, now)
    with pytest.raises(NotFound):
        cancel(engine, str(uuid4()), now)
    with pytest.raises(BadInput, match="is not a task id"):
        cancel(engine, "12", now)


def test_pages_run_from_newest_to_oldest(engine: Engine, now: datetime) -> None:
    old = makers.submit(engine, now, 3)
    new = makers.submit(engine, now + timedelta(seconds=1), 2)
    wanted = [*reversed(new), *reversed(old)]
    first = task_list(engine, limit=2)
    rest = task_list(engine, before=str(first[-1]["id"]), limit=10)
    assert [str(row["id"]) for row in [*first, *rest]] == wanted
    cancel(engine, old[0], now)
    assert [str(row["id"]) for row in task_list(engine, state="CANCELLED")] == [old[0]]
    assert task_list(engine, client="nobody") == []


def test_ids_grow_in_the_order_given(now: datetime) -> None:
    ids = [UUID(text) for text in new_ids(10_000, now)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 10_000
    assert {item.version for item in ids} == {7}


@pytest.mark.parametrize("field", ["idempotency_key", "type"])
@pytest.mark.parametrize("bad", ["", "x" * 256, "a\0", "a\nb", "\x7f", "\ud800"])
def test_names_are_short_and_printable(engine: Engine, now: datetime, field: str, bad: str) -> None:
    with pytest.raises(BadInput, match="use 1 to 255 printable characters") as refused:
        intake.submit(engine, "R", [asked(**{field: bad})], now)
    assert refused.value.field == field
    assert counted(engine) == 0


def test_the_longest_names_fit_the_index(engine: Engine, now: datetime) -> None:
    keys = ["k", "🔑" * 255, "".join(chr(0x4E00 + n * 7) for n in range(255))]
    wanted = [asked(idempotency_key=key, type=key) for key in keys]
    first = intake.submit(engine, "R", wanted, now)
    assert [item.created for item in first] == [True] * 3
    again = intake.submit(engine, "R", wanted, now)
    assert [item.task for item in again] == [item.task for item in first]
    assert [task_row(engine, item.task)["type"] for item in first] == keys


@pytest.mark.parametrize("bad", [object(), {"a": {1, 2}}, {(1, 2): 3}])
def test_what_is_no_json_is_bad_input(engine: Engine, now: datetime, bad: object) -> None:
    with pytest.raises(BadInput, match=r"^payload: "):
        intake.submit(engine, "R", [asked(bad)], now)


def test_a_deeply_nested_payload_is_bad_input(engine: Engine, now: datetime) -> None:
    deep: object = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(BadInput, match=r"^payload: "):
        intake.submit(engine, "R", [asked(deep)], now)


@pytest.mark.parametrize("text", ["write \\u0000 for NUL", "\\u0000", "\\\\u0000"])
def test_text_about_nul_is_not_a_nul(engine: Engine, now: datetime, text: str) -> None:
    (accepted,) = intake.submit(engine, "R", [asked(text)], now)
    assert attempts.payloads(engine, [accepted.task]) == {accepted.task: text}


@pytest.mark.parametrize("payload", ["\0", "\\\0", {"\0": 1}, ["x\\\\\0"]])
def test_a_nul_is_refused_wherever_it_hides(engine: Engine, now: datetime, payload: object) -> None:
    with pytest.raises(BadInput, match="NUL"):
        intake.submit(engine, "R", [asked(payload)], now)


def test_a_task_is_found_by_any_spelling_of_its_id(
    engine: Engine, database_url: str, now: datetime
) -> None:
    (task,) = makers.submit(engine, now)
    spelled = task.replace("-", "").upper()
    assert str(task_row(engine, spelled)["id"]) == task
    with Listener(database_url, ENDED) as listener:
        cancel(engine, spelled, now)
        assert [payload for _, payload in listener.wait(60)] == [f'["{task}"]']
