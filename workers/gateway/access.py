"""Who may do what: one line per route. A route without a line does not start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Final

from fastapi import Depends, FastAPI, Request
from fastapi.routing import iter_route_contexts

from ledger.errors import InvariantBroken, NotFound
from ledger.tokens import Role, Token
from workers.gateway.problems import Refused

EVERYBODY: Final[frozenset[Role]] = frozenset()
"""No token is asked for."""
READERS: Final = frozenset({Role.VIEWER, Role.APPROVER, Role.OPERATOR})
CLIENTS: Final = frozenset({Role.CLIENT, Role.OPERATOR})
PAYERS: Final = CLIENTS | {Role.AGENT}

RULES: Final[Mapping[tuple[str, str], frozenset[Role]]] = {
    ("GET", "/livez"): EVERYBODY,
    ("GET", "/readyz"): EVERYBODY,
    # It says what the program can do, which is no secret, and nothing of this installation; tools
    # that make clients fetch it without credentials.
    ("GET", "/openapi.json"): EVERYBODY,
    ("POST", "/v1/tasks"): PAYERS,
    ("GET", "/v1/tasks"): READERS | PAYERS,
    ("GET", "/v1/tasks/{task}"): READERS | PAYERS,
    ("POST", "/v1/tasks/{task}/cancel"): PAYERS,
    ("GET", "/v1/tasks/{task}/receipt"): READERS | PAYERS,
    ("GET", "/v1/tasks/{task}/entry"): READERS | PAYERS,
    ("GET", "/v1/agents"): READERS,
    ("GET", "/v1/agents/{agent}"): READERS | {Role.AGENT},
    ("GET", "/v1/prices"): READERS | CLIENTS,
    ("GET", "/v1/lanes"): READERS | CLIENTS,
    ("GET", "/v1/lanes/{lane}"): READERS | CLIENTS,
    ("GET", "/v1/accounts"): READERS,
    ("GET", "/v1/accounts/{account}"): READERS | CLIENTS | {Role.AGENT},
    # Sums over all, as the log that everybody may check has them.
    ("GET", "/v1/epochs"): READERS | CLIENTS | {Role.AGENT},
    ("GET", "/v1/epochs/{epoch}"): READERS | CLIENTS | {Role.AGENT},
    # A name, a size, a hash and signatures: made to be shown to whoever might compare them.
    ("GET", "/log/checkpoint"): EVERYBODY,
    ("GET", "/log/tile/{path}"): READERS | {Role.REPLICA},
    ("GET", "/metrics"): READERS,
}
"""Method and route to the roles that may ask. HEAD follows GET."""

OPEN_PATHS: Final = frozenset(path for (_, path), roles in RULES.items() if roles is EVERYBODY)


def check_rules(app: FastAPI) -> None:
    """Raises InvariantBroken unless routes and rules match one to one."""
    routes = set(routes_of(app))
    if routes != set(RULES):
        raise InvariantBroken(f"routes without a rule, or the reverse: {routes ^ set(RULES)}")


def routes_of(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Method and path of everything the application answers."""
    for route in iter_route_contexts(app.routes):
        if route.path_format is None or route.methods is None:
            raise InvariantBroken(f"{route.name} is not a path with methods")
        for method in sorted(route.methods - {"HEAD"}):
            yield method, route.path_format


async def authorize(request: Request) -> None:
    """A dependency of every route. Raises Refused (403) when the caller's role is not named."""
    route = request.scope["route"]
    roles = RULES[request.method, route.path_format]
    if roles is EVERYBODY:
        return
    token: Token = request.state.caller
    if token.role not in roles:
        raise forbidden(
            "Authorization",
            f"a token of the role {token.role} may not do this",
            f"use one of the role {', '.join(sorted(roles))}",
        )


def forbidden(field: str, reason: str, remedy: str) -> Refused:
    """A 403: the token is valid, and asking again with it is of no use."""
    challenge = 'Bearer realm="clearlane", error="insufficient_scope"'
    return Refused(403, field, reason, remedy, headers={"WWW-Authenticate": challenge})


def own_client(token: Token, client: str | None) -> str | None:
    """The client whose tasks the caller means: a client's token means its own. Raises Refused."""
    if token.role is not Role.CLIENT:
        return client
    if client not in {None, token.tenant}:
        raise forbidden("client", f"{client!r} is not this token's client", "leave it out")
    return token.tenant


def check_own(token: Token, kind: str, name: str, unknown: NotFound) -> None:
    """Raise `unknown` when the caller acts for one client or agent, and this is another's.

    The answer is the one for what does not exist, before anything is looked up where possible.
    """
    if token.tenant is not None and (token.role, token.tenant) != (kind, name):
        raise unknown


def check_payer(token: Token, payer: str, unknown: NotFound) -> None:
    """`check_own` of a task, which is of the account that pays for it."""
    kind, _, name = payer.partition(":")
    check_own(token, kind, name, unknown)


def own_account(token: Token) -> str | None:
    """The account of the client or agent that the caller acts for."""
    return None if token.tenant is None else f"{token.role}:{token.tenant}"


def _caller(request: Request) -> Token:
    found: Token = request.state.caller
    return found


Caller = Annotated[Token, Depends(_caller)]
"""An endpoint's parameter of this type is the token of whoever asks."""
