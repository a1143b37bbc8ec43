from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import BadInput
from ledger.proof import entries
from ledger.proof.entries import ENTRY_MAX, POSTINGS_MAX, decode, encode, millis, stamp
from tests.proof.histories import everything

AT = "2026-11-21T03:04:05.678Z"
SETTLE: dict[str, Any] = {
    "epoch": 12,
    "at": AT,
    "task": "018f3c5e-1111-7000-8000-000000000001",
    "attempt": 2,
    "client": "client:R",
    "agent": "agent:A",
    "size": 100,
    "output_sha256": "ab" * 32,
    "postings": [
        ("client:R", -111_111_111),
        ("agent:A", 110_000_000),
        ("system:burn", 1_111_111),
    ],
}
LEAVES = list({decode(leaf)["type"]: leaf for leaf in everything().leaves}.values())
KINDS = [decode(leaf)["type"] for leaf in LEAVES]

NAMES = st.text(st.characters(max_codepoint=127), max_size=8)
# What leaves are made of; surrogates alone are no text.
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(NAMES, VALUES, max_size=6))
def test_the_form_is_rfc_8785(entry: dict[str, Any]) -> None:
    assert encode(entry) == rfc8785.dumps(entry)


def test_a_settlement_is_the_bytes_that_the_format_states() -> None:
    assert entries.settle(**SETTLE) == (
        b'{"agent":"agent:A","at":"2026-11-21T03:04:05.678Z","attempt":2,"client":"client:R",'
        b'"epoch":12,"output_sha256":"' + b"ab" * 32 + b'","postings":[["client:R","-111111111"],'
        b'["agent:A","110000000"],["system:burn","1111111"]],"size":"100",'
        b'"task":"018f3c5e-1111-7000-8000-000000000001","type":"settle","v":1,"verdict":"pass"}'
    )


def test_every_leaf_is_read_back() -> None:
    for leaf in everything().leaves:
        assert encode(decode(leaf)) == leaf == rfc8785.dumps(decode(leaf))


@pytest.mark.parametrize("leaf", LEAVES, ids=KINDS)
def test_other_encodings_of_the_same_leaf_are_refused(leaf: bytes) -> None:
    entry = decode(leaf)
    backwards = dict(reversed(entry.items()))
    for other in (
        json.dumps(entry).encode(),
        orjson.dumps(backwards),
        orjson.dumps(entry, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS),
        b"\xef\xbb\xbf" + leaf,
        leaf + b"\n",
        b" " + leaf,
        leaf.replace(b'"v":1', b'"v":1,"v":1'),
        leaf.replace(b'"v":1', b'"v":1.0'),
        leaf.replace(b'"v":1', b'"v":1e0'),
        leaf.replace(b'"at"', b'"\\u0061t"'),
        leaf.decode().encode("utf-16"),
    ):
        assert other != leaf
        with pytest.raises(BadInput):
            decode(other)


@given(st.sampled_from(LEAVES), st.integers(0), st.integers(0, 2), st.binary(max_size=2))
def test_whatever_is_accepted_is_canonical(leaf: bytes, place: int, cut: int, new: bytes) -> None:
    place %= len(leaf)
    changed = leaf[:place] + new + leaf[place + cut :]
    try:
        entry = decode(changed)
    except BadInput:
        return
    assert rfc8785.dumps(entry) == changed


@given(st.binary() | VALUES.map(orjson.dumps))
def test_anything_else_is_one_clear_refusal(data: bytes) -> None:
    with pytest.raises(BadInput):
        decode(data)


@pytest.mark.parametrize("leaf", LEAVES, ids=KINDS)
def test_a_field_of_another_form_is_refused_by_name(leaf: bytes) -> None:
    entry = decode(leaf)
    for field in set(entry) - {"type"}:
        for other in (True, -1, 0.5, [], [1], ["a"], {"a": 1}, "", " 1", "01", "x\n", "-0", "１"):
            if field == "postings" and other == []:
                continue  # of a task that cost nothing
            if field == "frozen" and other is True:
                continue
            if field == "reason" and type(other) is str and other:
                continue  # any text
            with pytest.raises(BadInput) as refused:
                decode(orjson.dumps(entry | {field: other}, option=orjson.OPT_SORT_KEYS))
            assert refused.value.field == field, other
        with pytest.raises(BadInput):
            decode(encode({name: entry[name] for name in entry if name != field}))
        renamed = {name if name != field else "other": entry[name] for name in entry}
        with pytest.raises(BadInput) as refused:
            decode(encode(renamed))
        assert refused.value.field == field
    with pytest.raises(BadInput, match="no leaf of type"):
        decode(encode(entry | {"other": 1}))


@pytest.mark.parametrize(
    "pairs",
    [
        {"client:R": "1", "agent:A": "1"},
        ["ab"],
        [["client:R", "1", "1"]],
        [["client:R"]],
        [{"client:R": 1, "5": 2}],
        [["client:R", 1]],
        [["client:R", "0"]],
        [["client:R", "+1"]],
        [["client:R", "1" * 20]],
        [["R", "1"]],
        [["client:R\n", "1"]],
        [["client:R", "1"]] * (POSTINGS_MAX + 1),
    ],
)
def test_postings_are_pairs_of_an_account_and_an_amount(pairs: Any) -> None:
    entry = decode(entries.settle(**SETTLE)) | {"postings": pairs}
    with pytest.raises(BadInput, match=r"^postings: "):
        decode(encode(entry))


@pytest.mark.parametrize(
    "at", ["2026-13-01T00:00:00.000Z", "2026-11-21T24:00:00.000Z", "2026-11-21T03:04:05.678+0"]
)
def test_a_time_is_one_that_exists(at: str) -> None:
    with pytest.raises(BadInput, match=r"^at: "):
        decode(entries.settle(**(SETTLE | {"at": at})))


def test_the_longest_group_fits() -> None:
    postings = [(f"client:{number:064d}", -(10**18)) for number in range(POSTINGS_MAX)]
    leaf = entries.clear(epoch=2**53 - 1, at=AT, part=2**53 - 1, postings=postings)
    assert len(leaf) <= ENTRY_MAX
    assert len(decode(leaf)["postings"]) == POSTINGS_MAX
    with pytest.raises(BadInput, match="split them"):
        entries.clear(epoch=1, at=AT, part=0, postings=[*postings, ("agent:A", 1)])


def test_a_leaf_has_a_longest_size() -> None:
    empty = len(encode({"a": ""}))
    assert len(encode({"a": "x" * (ENTRY_MAX - empty)})) == ENTRY_MAX
    with pytest.raises(BadInput, match="65536 bytes"):
        encode({"a": "x" * (ENTRY_MAX - empty + 1)})
    with pytest.raises(BadInput, match="65536 bytes"):
        decode(b" " * (ENTRY_MAX + 1))


@pytest.mark.parametrize("value", [2**53, -(2**53), "\ud800"])
def test_what_the_form_cannot_carry_is_refused(value: Any) -> None:
    with pytest.raises(BadInput, match=r"^entry: "):
        encode({"a": value})


def test_a_leaf_of_no_blame_names_no_agent() -> None:
    what: dict[str, Any] = {
        "epoch": 1,
        "at": AT,
        "task": SETTLE["task"],
        "attempt": 1,
        "outcome": "lost",
    }
    assert "agent" not in decode(entries.abort(**what))
    blamed = decode(entries.abort_blaming(**what, agent="agent:A", f=(0, 5), s=(1, 0.1)))
    assert (blamed["f"], blamed["s"]) == (["0.0", "5.0"], ["1.0", "0.1"])


@given(
    st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 30)),
    st.integers(-720, 720),
)
def test_a_stamp_is_the_time_cut_to_milliseconds(when: datetime, minutes: int) -> None:
    aware = when.replace(tzinfo=UTC)
    at = stamp(aware.astimezone(timezone(timedelta(minutes=minutes))))
    assert (
        decode(entries.abort(epoch=1, at=at, task=str(SETTLE["task"]), attempt=1, outcome="lost"))[
            "at"
        ]
        == at
    )
    since = aware - datetime(1970, 1, 1, tzinfo=UTC)
    assert millis(at) == since // timedelta(milliseconds=1)
