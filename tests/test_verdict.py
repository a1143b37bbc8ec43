"""The verdict on a reply, and the refusal of validators that could never judge."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import BadInput
from ledger.model import Family, Json, Outcome, Reply, Verdict
from tasks.verdict import check_validator, judge, same

SOURCE = "import os\n\ndef f():\n    pass\n"
RIGHT = {"functions": ["f"], "classes": [], "imports": ["os"]}
PERSON = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}

documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def deep(levels: int) -> Json:
    schema: Json = True
    for _ in range(levels):
        schema = {"not": schema}
    return schema


def verdict(validator: dict[str, Json], output: Json, payload: Json = None) -> Verdict:
    family = Family(id="f", size=1, deadline_s=1, max_attempts=1, validator=validator)
    return judge(family, payload, Reply(outcome=Outcome.OK, latency_s=0.1, output=output))


@pytest.mark.parametrize(
    ("outcome", "severe"),
    [
        (Outcome.TIMEOUT, True),
        (Outcome.GARBAGE, True),
        (Outcome.RATE_LIMITED, False),
        (Outcome.REFUSED, False),
        (Outcome.ERROR, False),
        (Outcome.LOST, False),
    ],
)
def test_no_answer_fails(outcome: Outcome, severe: bool) -> None:
    family = Family(id="f", size=1, deadline_s=1, max_attempts=1, validator={"type": "none"})
    reply = Reply(outcome=outcome, latency_s=1.0, detail="why")
    assert judge(family, None, reply) == Verdict(
        passed=False, reason=f"{outcome.value}: why", severe=severe
    )


@pytest.mark.parametrize(
    ("validator", "output", "passed"),
    [
        ({"type": "none"}, None, True),
        ({"type": "json_schema", "schema": PERSON}, {"name": "x"}, True),
        ({"type": "json_schema", "schema": PERSON}, {"name": 1}, False),
        ({"type": "json_schema", "schema": PERSON}, {}, False),
        ({"type": "json_schema", "schema": False}, 1, False),
        (
            {"type": "json_schema", "schema": {"$ref": "#/$defs/n", "$defs": {"n": PERSON}}},
            {},
            False,
        ),
        ({"type": "exact", "value": {"a": [1, 2]}}, {"a": [1.0, 2]}, True),
        ({"type": "exact", "value": 1}, True, False),
        ({"type": "exact", "value": [0]}, [False], False),
        ({"type": "exact", "value": [1, 2]}, [1, 2, 3], False),
        ({"type": "exact", "value": {"a": 1}}, {"a": 1, "b": 2}, False),
        ({"type": "exact", "value": None}, None, True),
        ({"type": "exact", "value": "1"}, 1, False),
        ({"type": "numeric", "value": 0.3, "tolerance": 0.1}, 0.4, True),
        ({"type": "numeric", "value": 0.3, "tolerance": 0.1}, 0.41, False),
        ({"type": "numeric", "value": 1, "tolerance": 0}, 1.0, True),
        ({"type": "numeric", "value": 1, "tolerance": 0}, True, False),
        ({"type": "numeric", "value": 1, "tolerance": 0}, "1", False),
        ({"type": "numeric", "value": 1, "tolerance": 5}, None, False),
        ({"type": "numeric", "value": 1.5, "tolerance": 5}, 10**4000, False),
        ({"type": "python", "entry": "python_outline"}, RIGHT, True),
        ({"type": "python", "entry": "python_outline"}, {**RIGHT, "functions": []}, False),
    ],
)
def test_content_is_judged_and_wrong_content_is_severe(
    validator: dict[str, Json], output: Json, passed: bool
) -> None:
    check_validator(validator)
    result = verdict(validator, output, {"name": "m", "source": SOURCE})
    assert (result.passed, result.severe) == (passed, not passed)
    assert 0 < len(result.reason) <= 200
    assert result.reason.isprintable()


def test_reason_says_what_is_wrong() -> None:
    schema = {"type": "json_schema", "schema": PERSON}
    assert verdict(schema, {"name": 1}).reason == ("json_schema: $.name 1 is not of type 'string'")
    outline = {"type": "python", "entry": "python_outline"}
    wrong = verdict(outline, {**RIGHT, "functions": []}, {"source": SOURCE})
    assert wrong.reason == "python_outline: functions: f is missing"


def test_output_of_an_agent_cannot_forge_a_reason() -> None:
    schema = {"type": "json_schema", "schema": {"maxLength": 1}}
    reason = verdict(schema, "\x1b[2J\n" * 500).reason
    assert reason.isprintable()
    assert len(reason) <= 200


@pytest.mark.parametrize(
    ("validator", "name"),
    [
        ({"type": "python", "entry": "python_outline"}, "python_outline"),
        ({"type": "python", "entry": "nobody_has_it"}, "nobody_has_it"),
        ({"type": "json_schema", "schema": {"$ref": "#"}}, "json_schema"),
        ({"type": "astrology"}, "astrology"),
        ({}, "None"),
    ],
)
def test_validator_that_breaks_blames_nobody(validator: dict[str, Json], name: str) -> None:
    result = verdict(validator, 1, {"no source": 1})
    assert (result.passed, result.severe) == (False, False)
    assert result.reason.startswith(f"validator {name} broke: ")


def test_remote_reference_is_never_fetched() -> None:
    asked: list[str] = []

    class Schemas(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    with HTTPServer(("127.0.0.1", 0), Schemas) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/s.json"
        result = verdict({"type": "json_schema", "schema": {"$ref": url}}, 1)
        server.shutdown()
    assert (result.passed, result.severe) == (False, False)
    assert url in result.reason
    assert asked == []


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package of somebody else's validators, most of them bad."""
    names = (
        *("even", "yes", "crash", "nothing", "absent", "leave", "loud", "unreadable"),
        "moody",
    )
    (tmp_path / "their_validators.py").write_text(
        "def even(payload, output): return None if output % 2 == 0 else 'is odd'\n"
        "def yes(payload, output): return True\n"
        "def crash(payload, output): raise RecursionError('too deep')\n"
        "def leave(payload, output): raise SystemExit(1)\n"
        "def loud(payload, output): return '\\x1b[2J' + 'x' * 10**8\n"
        "class Unreadable(Exception):\n"
        "    def __str__(self): raise self\n"
        "def unreadable(payload, output): raise Unreadable\n"
        "def moody(payload, output):\n"
        "    while output == 'hang': pass\n"
        "nothing = None\n"
    )
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    entries = "".join(f"{name} = their_validators:{name}\n" for name in names)
    (info / "entry_points.txt").write_text(f"[clearlane.validators]\n{entries}")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("plugins")
def test_validators_of_others_are_found_and_their_faults_contained() -> None:
    def by(name: str, output: Json) -> tuple[bool, bool, str]:
        result = verdict({"type": "python", "entry": name}, output)
        return result.passed, result.severe, result.reason

    assert by("even", 2) == (True, False, "passed even")
    assert by("even", 3) == (False, True, "even: is odd")
    assert by("yes", 3)[:2] == (False, False)
    assert "returned bool instead of None or a text" in by("yes", 3)[2]
    assert by("crash", 3) == (False, False, "validator crash broke: RecursionError: too deep")
    check_validator({"type": "python", "entry": "even"})
    for name, words in (("nothing", "not callable"), ("absent", "does not load")):
        assert by(name, 3)[:2] == (False, False)
        with pytest.raises(BadInput, match=words):
            check_validator({"type": "python", "entry": name})


@pytest.mark.usefixtures("plugins")
def test_a_validator_that_leaves_or_shouts_fails_its_own_attempt() -> None:
    def by(name: str) -> Verdict:
        return verdict({"type": "python", "entry": name}, 1)

    assert by("leave").reason == "validator leave broke: SystemExit: 1"
    assert by("unreadable").reason.startswith("validator unreadable broke: Unreadable")
    assert not by("leave").severe
    loud = by("loud")
    assert loud.severe
    assert loud.reason.startswith("loud: [2Jxxx")
    assert loud.reason.isprintable()
    assert len(loud.reason) == 200


def nested(depth: int) -> Json:
    value: Json = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.usefixtures("finalizers")
@pytest.mark.parametrize(
    ("schema", "output"),
    [
        ({"pattern": "^(a+)+$"}, "a" * 60 + "b"),
        ({"patternProperties": {"(x+x+)+y": {}}}, {"x" * 60: 1}),
        ({"uniqueItems": True}, [{"n": n} for n in range(30_000)]),
        ({"anyOf": [{"items": {"$ref": "#"}}] * 2, "type": "array"}, nested(60)),
    ],
    ids=["pattern", "patternProperties", "uniqueItems", "recursion"],
)
def test_an_answer_that_makes_a_schema_run_for_ever_is_stopped(schema: Json, output: Json) -> None:
    spec = {"type": "json_schema", "schema": schema}
    check_validator(spec)
    verdict(spec, None)  # the first one has more time, to compile
    found = verdict(spec, output)
    assert (found.passed, found.severe) == (False, False)
    assert found.reason.startswith("validator json_schema broke: took longer than")
    assert verdict({"type": "json_schema", "schema": {"type": "integer"}}, 1).passed


@pytest.mark.usefixtures("plugins")
def test_a_validator_that_hangs_has_less_and_less_time_until_it_comes_back() -> None:
    spec = {"type": "python", "entry": "moody"}
    assert verdict(spec, "fine").passed
    limits = [verdict(spec, "hang").reason.split()[-2] for _ in range(8)]
    assert limits == ["1", "0.5", "0.25", "0.125", "0.0625", "0.0312", "0.0156", "0.0156"]
    assert verdict(spec, "fine").passed
    assert verdict(spec, "hang").reason.endswith("took longer than 1 s")


def test_a_schema_that_cannot_be_checked_in_time_is_refused() -> None:
    schema: Json = True
    for _ in range(40):
        schema = {"anyOf": [{"not": schema}, {"not": schema}]}
    with pytest.raises(BadInput, match="validator"):
        check_validator({"type": "json_schema", "schema": schema})


@given(documents, documents)
def test_exact_is_equality_of_json(one: Json, other: Json) -> None:
    assert same(one, json.loads(json.dumps(one)))
    assert same(one, other) == same(other, one)
    assert verdict({"type": "exact", "value": one}, one).passed
    if json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True):
        assert same(one, other)


@given(st.integers(-(10**9), 10**9), st.integers(0, 10**6), st.integers(-(10**7), 10**7))
def test_numeric_passes_exactly_within_the_tolerance(value: int, width: int, off: int) -> None:
    cents = {"type": "numeric", "value": value / 100, "tolerance": width / 100}
    assert verdict(cents, (value + off) / 100).passed is (abs(off) <= width)


@given(documents, documents)
def test_judging_never_raises(schema: Json, output: Json) -> None:
    for validator in (
        {"type": "json_schema", "schema": schema},
        {"type": "numeric", "value": schema, "tolerance": schema},
        {"type": "python", "entry": "python_outline"},
        {"type": schema},
    ):
        assert verdict(validator, output, schema).reason.isprintable()


@pytest.mark.parametrize(
    ("validator", "field", "words"),
    [
        ({}, "validator.type", "unknown"),
        ({"type": "astrology"}, "validator.type", "'astrology' is unknown"),
        ({"type": ["none"]}, "validator.type", "unknown"),
        ({"type": "none", "strict": True}, "validator.strict", "unknown to type none"),
        ({"type": "json_schema"}, "validator.schema", "missing"),
        ({"type": "json_schema", "schema": 5}, "validator.schema", "neither"),
        ({"type": "json_schema", "schema": {"type": "objekt"}}, "validator.schema", "objekt"),
        (
            {"type": "json_schema", "schema": {"items": {"$ref": "http://example.org/s"}}},
            "validator.schema",
            "http://example.org/s leads nowhere",
        ),
        (
            {"type": "json_schema", "schema": {"not": {"$ref": "#/$defs/nowhere"}}},
            "validator.schema",
            "#/$defs/nowhere leads nowhere",
        ),
        *(
            ({"type": "json_schema", "schema": schema}, "validator.schema", words)
            for schema, words in (
                ({"$dynamicRef": "#nowhere"}, "#nowhere leads nowhere"),
                ({"$ref": "#/title/x", "title": "t"}, "cannot be used: ValueError"),
                ({"$schema": []}, "cannot be used"),
                ({"$ref": "#"}, "cannot be used: RecursionError"),
                ({"pattern": "("}, "not a 'regex'"),
                (deep(3000), "cannot be used: RecursionError"),
            )
        ),
        ({"type": "exact"}, "validator.value", "missing"),
        ({"type": "numeric", "value": 1}, "validator.tolerance", "missing"),
        ({"type": "numeric", "value": "1", "tolerance": 1}, "validator.value", "number"),
        ({"type": "numeric", "value": True, "tolerance": 1}, "validator.value", "number"),
        (
            {"type": "numeric", "value": 1, "tolerance": float("nan")},
            "validator.tolerance",
            "finite",
        ),
        ({"type": "numeric", "value": 1, "tolerance": -1}, "validator.tolerance", "negative"),
        ({"type": "python"}, "validator.entry", "missing"),
        ({"type": "python", "entry": "nobody_has_it"}, "validator.entry", "not installed"),
        ({"type": "python", "entry": ["x"]}, "validator.entry", "not installed"),
    ],
)
def test_validator_that_cannot_judge_is_refused(
    validator: dict[str, Json], field: str, words: str
) -> None:
    with pytest.raises(BadInput, match="validator") as caught:
        check_validator(validator)
    assert caught.value.field == field
    assert words in caught.value.reason
    assert caught.value.remedy


def test_reference_that_is_only_data_is_no_reference() -> None:
    check_validator({"type": "json_schema", "schema": {"const": {"$ref": "http://example.org/s"}}})
    check_validator({"type": "json_schema", "schema": {"properties": {"$ref": {"type": "string"}}}})


@given(
    st.dictionaries(st.sampled_from(["type", "schema", "value", "tolerance", "entry"]), documents)
)
def test_checking_only_ever_raises_bad_input(spec: dict[str, Json]) -> None:
    try:
        check_validator(spec)
    except BadInput as error:
        refused = error.field
    else:
        refused = "validator."
    assert refused.startswith("validator.")
