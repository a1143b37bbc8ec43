"""Tens of thousands of mutated answers through the real client and the real verdict: every one
ends in a reply and a verdict that can be kept and shown.

CHAOS_SCALE=1 runs 50,000, unset 2,000; CHAOS_SEED chooses others.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import pytest

from ledger.model import AttemptKey, Family, Outcome, Reply, Verdict
from tasks.agents import AgentClient
from tasks.call import RETRY_AFTER_MAX_S
from tasks.jsontext import DEPTH_MAX
from tasks.verdict import judge
from tests.chaos.hostile import Hostile, Wire, listening
from tests.makers import agent, family

SCALE = int(os.environ.get("CHAOS_SCALE", "0"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))
COUNT = 50_000 * SCALE or 2_000
AT_ONCE = 16
REASON_MAX = 200

ANSWERS = [
    b'{"output": {"name": "x", "items": [1, 2.5, -3e2, null, true], "total": 3}}',
    b'{"output": [[{"a": {"b": ["\\u00e9", "\xc3\xa9", "\\ud83d\\ude00"]}}], "", 0]}',
    b'{"output": 1}',
    b'{"output": "plain"}',
    b'{"id": "c-1", "choices": [{"index": 0, "message": {"role": "assistant", "content": '
    b'"{\\"name\\": \\"x\\", \\"n\\": [1, 2]}"}}], "usage": {"total_tokens": 3}}',
]
TOKENS = [
    b"NaN", b"-Infinity", b"1e999", b"-0", b"1E400", b"9" * 400, b"9" * 5000, b"0.1e-999",
    b'"\\ud800"', b'"\\udfff\\ud800"', b'"\\u0000"', b"\x00", b"\x1b[2J", b"\x7f", b"\r\n",
    "\u202e\u2028\u2029\ufeff".encode(), b"\xff", b"\xed\xa0\x80", b"\xc0\xaf", b"\xef\xbb\xbf",
    b"[" * 70, b"]" * 70, b'{"a":' * 70, b"}" * 70, b"{", b"}", b"[", b"]", b",", b":", b'"',
    b"\\", b'"output": 2,', b'"output": {},', b'"a": 1, "a": 1,', b"true", b"null", b"//",
    b'"__proto__": 1,', b'"choices": [],', b"\\u001b", b"\\n", b" " * 300, b"Sure! ",
]  # fmt: skip
STATUSES = ["200 OK"] * 40 + [
    *("201 Created", "204 None", "206 Part", "301 Moved", "302 Found", "400 Bad", "401 No"),
    *("403 No", "404 None", "429 Slow", "429 Slow", "500 Oops", "503 Away", "599 Odd", "999 Odd"),
]
HEADERS = ["Location", "Retry-After", "Content-Type", "X-Any", "Content-Encoding", "Set-Cookie"]
VALUES = [
    *(b"identity", b"gzip", b"-1", b"9" * 30, b"Sat, 21 Nov 2026 05:01:00 GMT", b"text/html"),
    *(b"\xff\xfe", b"http://[::1", b"file:///etc/passwd", b"\x1b[2J", b"", b"a" * 3000, b"0"),
]
OPEN = {"type": "object", "properties": {"name": {"pattern": "^x+$"}, "items": {"maxItems": 9}}}
VALIDATORS: Sequence[dict[str, Any]] = [
    {"type": "none"},
    {"type": "json_schema", "schema": OPEN},
    {"type": "json_schema", "schema": {"type": "string", "maxLength": 3}},
    {"type": "exact", "value": {"name": "x"}},
    {"type": "numeric", "value": 1, "tolerance": 0.5},
    {"type": "python", "entry": "python_outline"},
]


def flip(rng: random.Random, text: bytes) -> bytes:
    if not text:
        return text
    place = rng.randrange(len(text))
    return text[:place] + bytes([rng.randrange(256)]) + text[place + 1 :]


def insert(rng: random.Random, text: bytes) -> bytes:
    place = rng.randint(0, len(text))
    return text[:place] + rng.choice(TOKENS) + text[place:]


def replace_value(rng: random.Random, text: bytes) -> bytes:
    """Something else behind a colon or a comma: most of these stay JSON."""
    marks = [place + 1 for place, char in enumerate(text) if char in b":,[{"]
    ends = [place for place, char in enumerate(text) if char in b",]}"]
    pairs = [(a, next((e for e in ends if e >= a), None)) for a in marks]
    begin, end = rng.choice(pairs) if pairs else (0, None)
    return text[:begin] + rng.choice(TOKENS) + text[len(text) if end is None else end :]


def cut(rng: random.Random, text: bytes) -> bytes:
    begin, end = sorted(rng.randint(0, len(text)) for _ in range(2))
    return text[:begin] + text[end:]


def repeat(rng: random.Random, text: bytes) -> bytes:
    begin, end = sorted(rng.randint(0, len(text)) for _ in range(2))
    return text[:begin] + text[begin:end] * rng.choice((2, 3, 50)) + text[end:]


def splice(rng: random.Random, text: bytes) -> bytes:
    other = rng.choice(ANSWERS)
    return text[: rng.randint(0, len(text))] + other[rng.randint(0, len(other)) :]


MUTATIONS: Sequence[Callable[[random.Random, bytes], bytes]] = [
    *(flip, insert, replace_value, cut, repeat, splice),
]


class Prepared(NamedTuple):
    """What goes over the wire, and whether the agent hangs up behind it."""

    wire: bytes
    last: bool


def mutated(rng: random.Random) -> Prepared:
    """One answer, head and body."""
    content = rng.choice(ANSWERS)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 5))):
        content = rng.choice(MUTATIONS)(rng, content)
    lines = [f"HTTP/1.1 {rng.choice(STATUSES)}".encode(), b"Content-Length: %d" % len(content)]
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        lines.append(rng.choice(HEADERS).encode() + b": " + rng.choice(VALUES))
    head = b"\r\n".join(lines)
    twisted = rng.randrange(50) == 0  # its length may be wrong: nobody waits for the rest
    if twisted:
        head = rng.choice(MUTATIONS)(rng, head)
    return Prepared(head + b"\r\n\r\n" + content, twisted)


class Answers:
    """An agent that has one prepared answer for each task."""

    def __init__(self, prepared: Sequence[Prepared]) -> None:
        self.prepared = prepared

    async def speak(self, wire: Wire) -> None:
        while True:
            head = await wire.asked()
            (name,) = [
                line.split(b": ")[1]
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"idempotency-key")
            ]
            answer, last = self.prepared[int(name)]
            await wire.send(answer)
            if last:
                return


async def replies_to(prepared: Sequence[Prepared]) -> list[Reply]:
    """What the client makes of each answer, in order."""
    talker = Hostile(name="talker", speak=Answers(prepared).speak, outcome=Outcome.OK)
    found: dict[int, Reply] = {}
    todo = iter(range(len(prepared)))
    async with listening(talker) as port, AgentClient() as by:
        url = f"http://127.0.0.1:{port}/"
        kinds = [agent("a", kind=kind, url=url, model="m") for kind in ("json", "openai")]

        async def work() -> None:
            for number in todo:
                found[number] = await by.call(
                    kinds[b"choices" in prepared[number].wire], key=AttemptKey(str(number), 1),
                    family="f", payload=None, deadline_s=20.0,
                )  # fmt: skip

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return [found[number] for number in range(len(prepared))]


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(depth, inner), default=0)


def check_reply(reply: Reply) -> None:
    assert reply.detail.isprintable()
    assert len(reply.detail) <= REASON_MAX
    assert reply.retry_after_s is None or 0 <= reply.retry_after_s <= RETRY_AFTER_MAX_S
    assert reply.outcome not in (Outcome.LOST, Outcome.UNSTARTED)
    if reply.outcome is not Outcome.OK:
        assert reply.output is None
        assert reply.detail
        return
    # What is kept is plain JSON in UTF-8, and the same when it is read again.
    kept = json.dumps(reply.output, allow_nan=False, ensure_ascii=False).encode()
    assert json.loads(kept) == reply.output
    assert b"\\u0000" not in kept
    assert depth(reply.output) <= DEPTH_MAX + 1


def check_verdict(reply: Reply, found: Verdict) -> None:
    assert found.reason.isprintable()
    assert 0 < len(found.reason) <= REASON_MAX
    assert not found.passed or reply.outcome is Outcome.OK


def test_mutated_answers_end_in_replies_and_verdicts_that_can_be_kept() -> None:
    rng = random.Random(SEED)
    families: list[Family] = [family(validator=spec) for spec in VALIDATORS]
    outcomes = Counter[Outcome]()
    passed = Counter[str]()
    for start in range(0, COUNT, 5_000):
        prepared = [mutated(rng) for _ in range(min(5_000, COUNT - start))]
        for number, reply in enumerate(asyncio.run(replies_to(prepared))):
            try:
                check_reply(reply)
                for each in families:
                    found = judge(each, {"source": "x = 1", "name": "m"}, reply)
                    check_verdict(reply, found)
                    passed[each.validator["type"]] += found.passed
            except Exception as error:
                pytest.fail(f"seed {SEED}, input {start + number}: {prepared[number]!r}: {error!r}")
            outcomes[reply.outcome] += 1
    print(f"{COUNT} answers: {dict(outcomes)}, passed {dict(passed)}")
    assert outcomes.total() == COUNT
    expected = {Outcome.OK, Outcome.GARBAGE, Outcome.RATE_LIMITED, Outcome.REFUSED, Outcome.ERROR}
    assert {one for one in expected if outcomes[one] < COUNT // 200} == set()
    assert passed["json_schema"]
    assert passed["numeric"]


def test_the_same_seed_gives_the_same_answers() -> None:
    one, other = ([mutated(random.Random(SEED)) for _ in range(3)] for _ in range(2))
    assert one == other
    found = [mutated(rng) for rng in [random.Random(SEED)] for _ in range(50)]
    assert all(a != b for a, b in pairwise(found))
