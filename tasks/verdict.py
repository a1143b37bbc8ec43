"""The verdict on a reply: did the agent do what the task's family asks for? (rows M04, M14)"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY

from ledger.errors import BadInput
from ledger.model import Family, Json, Outcome, Reply, Verdict
from scheduler.bounded import Misbehaved, bounded, contained
from tasks.text import printable

GROUP = "clearlane.validators"
SEVERE = frozenset({Outcome.TIMEOUT, Outcome.GARBAGE})

Spec = Mapping[str, Json]
"""A family's validator: its `type` and what that type needs."""

Check = Callable[[Json, Json], str | None]
"""(payload, output) -> None if the output is right, else why it is not."""


def judge(family: Family, payload: Json, reply: Reply) -> Verdict:
    """Judge what came back for one task. Never raises, whatever the agent or a validator does.

    Wrong content is severe: it was answered as if it were right. A validator that breaks fails
    the task without blaming the agent severely.
    """
    if reply.outcome is not Outcome.OK:
        reason = f"{reply.outcome}: {reply.detail}" if reply.detail else str(reply.outcome)
        return Verdict(passed=False, reason=printable(reason), severe=reply.outcome in SEVERE)
    name = _name(family.validator)
    try:
        fault = _fault(family.validator, payload, reply.output)
    except Misbehaved as error:
        return Verdict(passed=False, reason=printable(f"validator {name} broke: {error}"))
    if fault is None:
        return Verdict(passed=True, reason=f"passed {name}")
    return Verdict(passed=False, reason=printable(f"{name}: {fault}"), severe=True)


FOREIGN = ("json_schema", "python")  # an answer, or their author, decides how long they take
FIRST_S = 4.0  # for the first check: it imports the validator, or compiles the schema
CHECK_S = 1.0  # for each further one
CHECK_MIN_S = 1 / 64
FAULT_MAX = 1000  # characters of a validator's words


@dataclass(slots=True)
class Allowance:
    """How long one validator may take: half as long after each time that it took too long.

    A validator that hangs holds up a chunk of any length for a few seconds, not for a second
    each time. One check that comes to its end restores the allowance.
    """

    limit_s: float = FIRST_S


@lru_cache(maxsize=256)
def _allowance(_spec: str) -> Allowance:
    """One for each validator, known by its text."""
    return Allowance()


def _fault(spec: Spec, payload: Json, output: Json) -> str | None:
    """What is wrong with the output. Raises Misbehaved when the validator does not say."""
    if spec.get("type") not in FOREIGN:
        fault: str | None = contained(_checked, spec, payload, output)
        return fault
    allowance = _allowance(repr(spec))
    try:
        fault = bounded(allowance.limit_s, _checked, spec, payload, output)
    except Misbehaved as error:
        if error.over_time:
            allowance.limit_s = max(CHECK_MIN_S, allowance.limit_s / 2)
        raise
    allowance.limit_s = CHECK_S
    return fault


def _checked(spec: Spec, payload: Json, output: Json) -> str | None:
    fault = CHECKS[spec["type"]](spec, payload, output)
    if fault is not None and not isinstance(fault, str):
        raise TypeError(f"returned {type(fault).__name__} instead of None or a text")
    return fault if fault is None else fault[:FAULT_MAX]


LOST = Verdict(passed=False, reason="the worker that held this attempt is gone")


def reads_payload(spec: Spec) -> bool:
    """Whether `judge` compares the output with the task's payload, or judges it alone."""
    return bool(spec["type"] == "python")


def _name(spec: Spec) -> str:
    return printable(str(spec.get("entry") or spec.get("type")), 60)


def _accept(_spec: Spec, _payload: Json, _output: Json) -> str | None:
    return None


def _by_schema(spec: Spec, _payload: Json, output: Json) -> str | None:
    # The first error is enough: an agent's list of a million wrong items has a million.
    error = next(_compiled(json.dumps(spec["schema"], sort_keys=True)).iter_errors(output), None)
    return None if error is None else f"{error.json_path} {printable(error.message)}"


def _exactly(spec: Spec, _payload: Json, output: Json) -> str | None:
    return None if same(spec["value"], output) else "is not the expected value"


def _nearly(spec: Spec, _payload: Json, output: Json) -> str | None:
    if not _is_number(output):
        return "is not a number"
    # Decimal of the written digits: 0.4 is within 0.1 of 0.3, as people mean it.
    wanted, got, tolerance = (
        Decimal(str(number)) for number in (spec["value"], output, spec["tolerance"])
    )
    return None if abs(got - wanted) <= tolerance else f"{got} is not {wanted} ± {tolerance}"


def _by_python(spec: Spec, payload: Json, output: Json) -> str | None:
    return _installed(spec["entry"])(payload, output)


CHECKS: Mapping[str, Callable[[Spec, Json, Json], str | None]] = {
    "none": _accept,
    "json_schema": _by_schema,
    "exact": _exactly,
    "numeric": _nearly,
    "python": _by_python,
}
NEEDS: Mapping[str, frozenset[str]] = {
    "none": frozenset(),
    "json_schema": frozenset({"schema"}),
    "exact": frozenset({"value"}),
    "numeric": frozenset({"value", "tolerance"}),
    "python": frozenset({"entry"}),
}


def same(one: Json, other: Json) -> bool:
    """Equality of JSON values: 1 is 1.0, but true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def _is_number(value: Json) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


@lru_cache(maxsize=256)
def _compiled(schema_text: str) -> Validator:
    """By content, so that every reading of the same family shares one compiled schema."""
    schema = json.loads(schema_text)
    # A registry without retrieval: a $ref to elsewhere breaks instead of going to the network.
    return validator_for(schema, default=Draft202012Validator)(schema, registry=EMPTY_REGISTRY)


@lru_cache(maxsize=256)
def _installed(name: str) -> Check:
    """An installed Python validator. Kept, because reading the metadata takes milliseconds."""
    (entry,) = entry_points(group=GROUP, name=name)
    check: Check = entry.load()
    return check


def check_validator(spec: Spec) -> None:
    """Refuse a family's validator that could never judge. Raises BadInput."""
    kind: Json = spec.get("type")
    if not isinstance(kind, str) or kind not in CHECKS:
        raise BadInput(
            "validator.type", f"{kind!r} is unknown", f"use one of {', '.join(sorted(CHECKS))}"
        )
    given = spec.keys() - {"type"}
    for key in sorted(NEEDS[kind] - given):
        raise BadInput(f"validator.{key}", "is missing", f"type {kind} needs it")
    for key in sorted(given - NEEDS[kind]):
        raise BadInput(f"validator.{key}", f"is unknown to type {kind}", "remove it")
    if kind == "json_schema":
        _check_schema(spec["schema"])
    elif kind == "numeric":
        _check_numbers(spec)
    elif kind == "python":
        _check_entry(spec["entry"])


def _check_schema(schema: Json) -> None:
    if not isinstance(schema, dict | bool):
        raise _bad_schema("is neither an object nor a boolean")
    try:
        fault = bounded(FIRST_S, _schema_fault, schema)
    except Misbehaved as error:  # the library meets a twisted schema with any kind of error
        raise _bad_schema(f"cannot be used: {error}") from None
    if fault is not None:
        raise _bad_schema(fault)


def _schema_fault(schema: Json) -> str | None:
    checker: Any = validator_for(schema, default=Draft202012Validator)
    try:
        checker.check_schema(schema)
    except SchemaError as error:
        return f"{error.json_path} {error.message}"
    root = Resource.from_contents(schema, default_specification=DRAFT202012)
    fault = _dangling(root, EMPTY_REGISTRY.resolver_with_root(root))
    if fault is None:
        _compiled(json.dumps(schema, sort_keys=True)).is_valid(None)  # it does come to an end
    return fault


def _dangling(schema: Resource[Any], resolver: Any) -> str | None:
    """The first reference that leads nowhere: found now, it does not fail a task later."""
    if isinstance(schema.contents, dict):
        for keyword in ("$ref", "$dynamicRef"):
            if keyword in schema.contents:
                target = schema.contents[keyword]
                try:
                    resolver.lookup(target)
                except Unresolvable:
                    return f"{keyword} {target} leads nowhere in it"
    parts = (_dangling(part, resolver.in_subresource(part)) for part in schema.subresources())
    return next((fault for fault in parts if fault is not None), None)


def _bad_schema(reason: str) -> BadInput:
    remedy = "give a JSON Schema complete in itself: nothing is fetched"
    return BadInput("validator.schema", printable(reason), remedy)


def _check_numbers(spec: Spec) -> None:
    for key in ("value", "tolerance"):
        if not _is_number(spec[key]):
            raise BadInput(f"validator.{key}", "is not a finite number", "give a number")
    if spec["tolerance"] < 0:
        raise BadInput("validator.tolerance", "is negative", "give zero or more")


def _check_entry(name: Json) -> None:
    field = "validator.entry"
    known = sorted(entry_points(group=GROUP).names)
    if name not in known:
        raise BadInput(
            field,
            f"{name!r} is not installed",
            f"install the package that has this entry point in {GROUP} (now: {', '.join(known)})",
        )
    try:
        usable = callable(bounded(FIRST_S, _installed, name))
    except Misbehaved as error:  # importing other people's code can fail in any way
        raise BadInput(
            field, printable(f"{name} does not load: {error}"), "repair that package"
        ) from error
    if not usable:
        raise BadInput(field, f"{name} is not callable", "repair that package")
