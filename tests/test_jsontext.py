"""JSON that others wrote: what is taken and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import BadInput
from tasks.jsontext import DEPTH_MAX, DIGITS_MAX, parse


@given(st.binary(max_size=300))
def test_parse_takes_or_refuses_any_bytes(text: bytes) -> None:
    with suppress(BadInput):
        value = parse(text, field="answer")
        assert json.loads(json.dumps(value, allow_nan=False)) == value


anything = st.text() | st.floats() | st.integers() | st.none() | st.booleans()


@given(st.recursive(anything, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_parse_refuses_exactly_what_cannot_be_kept(value: Any) -> None:
    pieces = list(leaves(value))
    texts = [piece for piece in pieces if isinstance(piece, str)]
    numbers = [piece for piece in pieces if isinstance(piece, float)]
    fit = all(map(math.isfinite, numbers)) and not any("\0" in text for text in texts)
    if fit:
        assert parse(json.dumps(value), field="x") == value
    else:
        with pytest.raises(BadInput):
            parse(json.dumps(value), field="x")


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def test_parse_allows_the_depth_it_names() -> None:
    assert parse("[" * DEPTH_MAX + "]" * DEPTH_MAX, field="x")
    with pytest.raises(BadInput, match="deeper"):
        parse("[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1), field="x")


@pytest.mark.parametrize("sign", ["", "-"])
def test_parse_allows_the_digits_it_names(sign: str) -> None:
    parse(f"[{sign}{'9' * DIGITS_MAX}]", field="x")
    for digits in (DIGITS_MAX + 1, 5000):  # the second is beyond the interpreter's limit
        with pytest.raises(BadInput) as told:
            parse(f"[{sign}1{'0' * (digits - 1)}]", field="x")
        assert told.value.reason == "holds an integer of more than 1000 digits"


def test_a_key_that_stands_twice_is_refused_and_shown_without_control_characters() -> None:
    assert parse('{"a": {"a": 1}, "b": {"a": 1}}', field="x")
    for text in ('{"a": 1, "a": 1}', '[{"b": {"\\u0061": 1, "a": 2}}]'):
        with pytest.raises(BadInput, match="key twice in one object: 'a'"):
            parse(text, field="x")
    with pytest.raises(BadInput) as caught:
        parse('{"\\u001b[2J": 1, "\\u001b[2J": 2}', field="x")
    assert caught.value.reason.isprintable()
