"""The configuration file (TOML): read, checked as a whole, refused with the line at fault.

Row M29: what an installation knows is data. Applying it is `ledger.registry.apply`.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

from pydantic import ValidationError

from ledger.errors import BadInput
from ledger.model import Agent, Family, Json
from ledger.registry import Client, Wanted
from tasks.addresses import AddressPolicy, host_refusal
from tasks.jsontext import parse
from tasks.text import printable
from tasks.verdict import check_validator
from workers.sections import SECTIONS, AgentSection, FamilySection, File, LedgerSection, Section
from workers.settings import load_settings
from workers.toml_lines import Lines
from workers.toml_lines import Path as Place

FILE_MAX_BYTES: Final = 16 << 20
OWN_HEADERS: Final = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "host",
        "idempotency-key",
        "transfer-encoding",
    }
)
"""Headers that the call itself sets: a configured one would be lost, or break the request."""


def load_config(path: Path) -> Wanted:
    """What the file asks for.

    Raises BadInput naming file, line, field, reason and remedy for the first thing that is
    wrong: unreadable, no TOML, unknown keys, impossible values, an id used twice.
    """
    text = _read(path)
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise BadInput(str(path), "it nests too deep", "correct the file") from None
    except ValueError as error:
        raise _syntax(path, text, error) from None
    refuse = _Refusal(path, text, document)
    try:
        file = File.model_validate(document)
    except ValidationError as error:
        refuse.first_of(error)
    _check_ids(file, refuse)
    policy = load_settings().agent_addresses
    if file.ledger is not None:
        _check_top_up(file.ledger, refuse)
    for index, agent in enumerate(file.agents):
        _check_agent(agent, ("agents", index), refuse, policy)
    for index, family in enumerate(file.families):
        _check_family(family, ("families", index), refuse)
    return _wanted(file)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        raise BadInput(
            str(path), f"it cannot be read: {error.strerror}", "name a readable TOML file"
        ) from None
    if len(data) > FILE_MAX_BYTES:
        raise BadInput(str(path), f"it is larger than {FILE_MAX_BYTES} bytes", "split it")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput(f"{path}:{line}", "this is not UTF-8", "save the file as UTF-8") from None


def _syntax(path: Path, text: str, error: ValueError) -> BadInput:
    """The parser's own words, with its line where people look for one."""
    place = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", str(error))
    reason = str(error)[: place.start()] if place else str(error)
    line = place.group(1) if place and place.group(1) else len(text.splitlines()) or 1
    return BadInput(f"{path}:{line}", printable(reason), "correct the TOML")


class _Refusal:
    """Says what is wrong with one file, and where."""

    def __init__(self, path: Path, text: str, document: Json) -> None:
        self._path = path
        self._text = text
        self._document = document

    def first_of(self, error: ValidationError) -> NoReturn:
        """Refuse the mistake that comes first in the file."""
        lines = Lines(self._text)
        found = error.errors(include_url=False)
        # A misspelled key is both unknown and missing: the one that is there says more.
        first = min(found, key=lambda item: (item["type"] == "missing", lines.line(item["loc"])))
        place = first["loc"]
        self.at(place, _reason(first), _remedy(first["type"], place), lines)

    def at(self, place: Place, reason: str, remedy: str, lines: Lines | None = None) -> NoReturn:
        """Refuse the value at `place`."""
        line = (lines or Lines(self._text)).line(place)
        raise BadInput(f"{self._path}:{line}: {self._name(place)}", reason, remedy) from None

    def line(self, place: Place) -> int:
        """Where `place` stands."""
        return Lines(self._text).line(place)

    def _name(self, place: Place) -> str:
        """`agents.A.k`: entries are named by their id, as long as they have one."""
        parts = []
        value: Any = self._document
        for part in place:
            try:
                value = value[part]
            except (LookupError, TypeError):
                value = None
            named = value.get("id") if isinstance(part, int) and isinstance(value, dict) else None
            if isinstance(part, int) and not isinstance(named, str):
                named = f"[{part + 1}]"
            parts.append(printable(str(part) if named is None else named, 80))
        return ".".join(parts).replace(".[", "[")


def _reason(item: Any) -> str:
    if item["type"] == "missing":
        return "it is missing"
    if item["type"] == "extra_forbidden":
        return "this key is unknown"
    if item["type"] == "value_error":
        return printable(str(item["ctx"]["error"]))
    if "headers" in item["loc"]:
        return "this is not a header that can be sent"  # without its value: it may be a secret
    return f"{_shown(item['input'])} is not possible"


def _shown(value: Any) -> str:
    """A value as the file has it; what is inside tables and lists stays there."""
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    return printable(json.dumps(value, default=str, ensure_ascii=False), 60)


def _remedy(kind: str, place: Sequence[str | int]) -> str:
    section, *rest = place
    keys = [part for part in rest if isinstance(part, str)]
    model: type[Section] = SECTIONS[str(section)] if keys and section in SECTIONS else File
    if kind == "extra_forbidden":
        return f"use {', '.join(model.model_fields)}"
    field = model.model_fields[keys[0] if keys else str(section)]
    return field.description or "correct it"


def _check_ids(file: File, refuse: _Refusal) -> None:
    for section in ("clients", "agents", "families"):
        seen: dict[str, int] = {}
        for index, entry in enumerate(getattr(file, section)):
            if entry.id in seen:
                line = refuse.line((section, seen[entry.id], "id"))
                refuse.at(
                    (section, index, "id"), f"line {line} has the same id", "rename or remove one"
                )
            seen[entry.id] = index


def _check_top_up(section: LedgerSection, refuse: _Refusal) -> None:
    if (section.top_up or 0) > (section.top_up_cap or 0):
        reason = "more than top_up_cap, what all clients get of one epoch"
        refuse.at(("ledger", "top_up"), reason, "write a top_up_cap that is as much at least")


def _check_agent(
    agent: AgentSection, place: Place, refuse: _Refusal, policy: AddressPolicy
) -> None:
    fault = _url_fault(agent, policy)
    if fault is not None:
        remedy = "remove it" if agent.kind == "echo" else "use http:// or https:// with a host"
        refuse.at((*place, "url"), fault, remedy)
    if agent.kind == "openai" and not agent.model:
        refuse.at((*place, "model"), "it is missing", "kind openai needs the model's name")
    if agent.kind != "openai" and agent.model:
        refuse.at((*place, "model"), f"kind {agent.kind} has no model", "remove it")
    for name in agent.headers:
        if name.lower() in OWN_HEADERS:
            refuse.at((*place, "headers", name), "Clearlane sets this header itself", "remove it")


def _url_fault(agent: AgentSection, policy: AddressPolicy) -> str | None:
    """Why this agent cannot be called there, or None."""
    if agent.kind == "echo":
        return None if agent.url in ("", "echo:") else "kind echo is not called"
    if " " in agent.url or printable(agent.url, len(agent.url)) != agent.url:
        return "it holds a space or a control character"
    try:
        parts = urlsplit(agent.url)
        _ = parts.port
    except ValueError as error:
        return printable(f"it is no URL: {error}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return f"{_shown(agent.url)} cannot be called"
    if "@" in parts.netloc:
        return "it holds a user or password, which belong into headers"
    # A name is taken: what it resolves to is checked at every call.
    return host_refusal(parts.hostname, policy)


def _check_family(family: FamilySection, place: Place, refuse: _Refusal) -> None:
    try:
        parse(json.dumps(family.validator), field="validator")
        check_validator(family.validator)
    except TypeError:
        refuse.at((*place, "validator"), "it holds a date or time", "put it in quotes")
    except BadInput as error:
        refuse.at((*place, *error.field.split(".")), error.reason, error.remedy)


def _wanted(file: File) -> Wanted:
    return Wanted(
        params=_params(file),
        clients=[
            Client(id=item.id, owner=item.owner, mint_ub=item.mint, quota_ub=item.quota)
            for item in file.clients
        ],
        agents=[
            Agent(**item.model_dump(exclude={"quota"}), quota_ub=item.quota) for item in file.agents
        ],
        families=[Family(**item.model_dump()) for item in file.families],
    )


def _params(file: File) -> dict[str, Json]:
    """A section becomes one parameter, replaced as a whole; what it leaves out is default."""
    params: dict[str, Json] = {}
    if file.ledger is not None:
        if file.ledger.tau is not None:
            params["tau_ppm"] = file.ledger.tau
        clearing = _clearing(file.ledger)
        if clearing:
            params["clearing"] = clearing
    if file.routing is not None:
        params["routing"] = file.routing.model_dump(exclude_unset=True)
    return params


def _clearing(section: LedgerSection) -> dict[str, int]:
    values = {
        "theta_plus_ub": section.theta_plus,
        "theta_minus_ub": section.theta_minus,
        "rho_plus_ppm": section.rho_plus,
        "rho_minus_ppm": section.rho_minus,
        "epoch_s": section.epoch_s,
        "grace_s": section.grace_s,
        "settled_min": section.settled_min,
        "top_up_ub": section.top_up,
        "top_up_cap_ub": section.top_up_cap,
    }
    return {name: value for name, value in values.items() if value is not None}
