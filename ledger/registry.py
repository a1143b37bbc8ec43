"""The registry: clients, agents, families and parameters, as the installation knows them.

Small tables read whole. A version number grows with every change, so that processes notice one
at the price of reading one row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine

from ledger.accounts import mint, open_account, set_quota
from ledger.db import READY, notify, one, query, single, transaction
from ledger.errors import NotFound
from ledger.lanes import add_lanes
from ledger.log import Page, open_page
from ledger.model import Agent, Family, Json, Routing
from ledger.params import in_force, params_of, spelled_out, tau_ppm_of
from ledger.postings import agent_account, client_account
from ledger.proof import entries


@dataclass(frozen=True, kw_only=True, slots=True)
class Client:
    """Who pays. `mint_ub` is issued once, when the client is created."""

    id: str
    owner: str = ""
    mint_ub: int = 0
    quota_ub: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Registry:
    """Everything the steps need to know of the installation, at one version."""

    version: int
    agents: Mapping[str, Agent]
    families: Mapping[str, Family]
    routing: Routing
    tau_ppm: int


def load_registry(engine: Engine, known: Registry | None = None) -> Registry:
    """The registry as it stands; `known` itself if nothing has changed since."""
    with single(engine) as connection:
        version = one(query(connection, "registry_version")).version
        if known is not None and known.version == version:
            return known
        rows = query(connection, "agents").fetchall()
        params = params_of(connection)
        return Registry(
            version=version,
            agents={row.id: _agent(row.id, row.spec, row.suspended) for row in rows},
            families={family.id: family for family in families(connection)},
            routing=Routing(**params.get("routing", {})),
            tau_ppm=tau_ppm_of(params),
        )


def families(connection: Connection) -> list[Family]:
    """All families."""
    rows = query(connection, "families", {"names": None})
    return [
        Family(
            id=row.id,
            size=row.size,
            deadline_s=row.deadline_s,
            max_attempts=row.max_attempts,
            validator=row.spec["validator"],
            tools=frozenset(row.spec["tools"]),
            domain=row.spec["domain"],
            region=row.spec["region"],
        )
        for row in rows
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a configuration file asks for. Nothing is ever removed by leaving it out."""

    params: Mapping[str, Json]
    clients: Sequence[Client]
    agents: Sequence[Agent]
    families: Sequence[Family]


def apply(engine: Engine, wanted: Wanted, now: datetime) -> list[str]:
    """Bring the registry to what is wanted, all or nothing; says what changed, in words."""
    changes: list[str] = []
    with transaction(engine) as connection:
        # Before any account: settlements lock in this order too.
        page = open_page(connection, now)
        changes += _apply_params(connection, page, wanted.params)
        for client in wanted.clients:
            changes += _apply_client(connection, page, client)
        named = [agent.lane for agent in wanted.agents]
        changes += [f"lane {lane} added" for lane in add_lanes(connection, named)]
        for agent in wanted.agents:
            changes += _apply_agent(connection, page, agent)
        for family in wanted.families:
            changes += _apply_family(connection, family)
        page.write(connection)
        if changes:
            query(connection, "wake")
            notify(connection, READY)
    return changes


def suspend(engine: Engine, agent: str, *, suspended: bool) -> None:
    """Take an agent out of routing, or back in. Raises NotFound."""
    with transaction(engine) as connection:
        if not _put(connection, "suspend", id=agent, suspended=suspended):
            raise NotFound("agent", f"{agent!r} is not known", "see `clearlane agents list`")
        query(connection, "wake")
        notify(connection, READY)


def _apply_params(connection: Connection, page: Page, params: Mapping[str, Json]) -> list[str]:
    before = in_force(connection)
    changes = [
        f"parameter {name} is now {_words(value)}"
        for name, value in params.items()
        if _put(connection, "put_param", name=name, value=json.dumps(spelled_out(name, value)))
    ]
    values = in_force(connection)
    if values != before:
        page.add(entries.params(epoch=page.epoch, at=page.at, values=values))
    return changes


def _apply_client(connection: Connection, page: Page, client: Client) -> list[str]:
    row = _put(connection, "put_client", id=client.id, owner=client.owner)
    account = client_account(client.id)
    if row is not None and row.created:
        open_account(connection, page, account, client.quota_ub)
        if client.mint_ub:
            mint(connection, page, account, client.mint_ub)
        return [f"client {client.id} added"]
    changed = set_quota(connection, page, account, client.quota_ub) or row is not None
    return [f"client {client.id} changed"] if changed else []


def _apply_agent(connection: Connection, page: Page, agent: Agent) -> list[str]:
    row = _put(connection, "put_agent", id=agent.id, spec=json.dumps(_agent_spec(agent)))
    account = agent_account(agent.id)
    if row is not None and row.created:
        open_account(connection, page, account, agent.quota_ub)
        return [f"agent {agent.id} added"]
    if row is not None:
        set_quota(connection, page, account, agent.quota_ub)
        return [f"agent {agent.id} changed"]
    return []


def _apply_family(connection: Connection, family: Family) -> list[str]:
    spec = {
        "validator": dict(family.validator),
        "tools": sorted(family.tools),
        "domain": family.domain,
        "region": family.region,
    }
    row = _put(
        connection,
        "put_family",
        id=family.id,
        size=family.size,
        deadline_s=family.deadline_s,
        max_attempts=family.max_attempts,
        spec=json.dumps(spec),
    )
    if row is None:
        return []
    return [f"family {family.id} {'added' if row.created else 'changed'}"]


def _put(connection: Connection, statement: str, **values: Any) -> Any:
    """The row that changed, or None when it stood like that already."""
    return query(connection, statement, values).fetchone()


def _words(value: Json) -> str:
    """A parameter for people."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(item)}" for name, item in value.items())
    return value if isinstance(value, str) else json.dumps(value)


def _agent_spec(agent: Agent) -> dict[str, Json]:
    spec = asdict(agent)
    del spec["id"], spec["suspended"]
    spec["tools"], spec["domains"] = sorted(agent.tools), sorted(agent.domains)
    spec["headers"] = dict(agent.headers)
    return spec


def _agent(name: str, spec: dict[str, Json], suspended: bool) -> Agent:
    sets = {key: frozenset(spec[key]) for key in ("tools", "domains")}
    return Agent(id=name, suspended=suspended, **(spec | sets))
