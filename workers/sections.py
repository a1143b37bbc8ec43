"""The shape of the configuration file: what each table may hold, and within which bounds.

A field's description is the remedy that people read when its value is refused.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ledger.clearing import SECONDS_MAX, SETTLED_MAX
from ledger.errors import BadInput
from ledger.intake import SIZE_MAX
from ledger.money import PPM, parse_b

ENTRIES_MAX: Final = 100_000  # of one kind in one file
HEADERS_MAX: Final = 32
VALIDATOR_KEYS_MAX: Final = 16
_DECIMAL = re.compile(r"[0-9]{1,16}(\.[0-9]{1,16})?")


def _amount_ub(value: Any) -> int:
    try:
        return parse_b("", _decimal(value))
    except BadInput as error:
        raise ValueError(error.reason) from None


def _share_ppm(value: Any) -> int:
    parts = Decimal(_decimal(value)) * PPM
    if parts != parts.to_integral_value() or parts > PPM:
        raise ValueError(f"{value!r} is not a share")
    return int(parts)


def _decimal(value: Any) -> str:
    if isinstance(value, str) and value.startswith("-") and _DECIMAL.fullmatch(value[1:]):
        raise ValueError(f"{value!r} is below zero")
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
        raise ValueError(f"{value!r} is not a decimal number in quotes")
    return value


ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_Id = Annotated[
    str,
    Field(pattern=ID, description="use 1 to 64 letters, digits, dots, dashes and underscores"),
]
_AmountUb = Annotated[int, BeforeValidator(_amount_ub)]
_SharePpm = Annotated[int, BeforeValidator(_share_ppm)]
_Word = Annotated[str, Field(pattern=r"^[^\p{C}\s]{1,64}$", strict=True)]
_Words = Annotated[frozenset[_Word], Field(strict=False, max_length=64)]
_WORD = "use one word of at most 64 characters"
_WORDS = 'use a list of words, as ["python"]'
_QUOTA = 'write an amount of B in quotes, from "0" to "9000000000"'
_SHARE = 'write a share from "0" to "1" in quotes, with six decimals at most'


class Section(BaseModel):
    """A table of the file: exactly these keys, with exactly these types."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class LedgerSection(Section):
    """`[ledger]`: what settlements and epochs charge."""

    tau: _SharePpm | None = Field(None, description=_SHARE)
    theta_plus: _AmountUb | None = Field(None, description=_QUOTA)
    theta_minus: _AmountUb | None = Field(None, description=_QUOTA)
    rho_plus: _SharePpm | None = Field(None, description=_SHARE)
    rho_minus: _SharePpm | None = Field(None, description=_SHARE)
    epoch_s: int | None = Field(
        None, ge=1, le=31_536_000, description="use whole seconds, 1 to 31536000"
    )
    grace_s: int | None = Field(
        None, ge=0, le=SECONDS_MAX, description=f"use whole seconds, 0 to {SECONDS_MAX}"
    )
    settled_min: int | None = Field(
        None, ge=0, le=SETTLED_MAX, description=f"use a whole number, 0 to {SETTLED_MAX}"
    )
    top_up: _AmountUb | None = Field(None, description=_QUOTA)
    top_up_cap: _AmountUb | None = Field(None, description=_QUOTA)


class RoutingSection(Section):
    """`[routing]`: parameters of the policy."""

    policy: Literal["paper"] = Field("paper", description='use "paper", the only policy there is')
    alpha: float | None = Field(None, gt=0, le=1, description="use a number above 0, 1 at most")
    delta_f: float | None = Field(None, ge=0, le=1e6, description="use a number from 0 to 1000000")
    f_max: float | None = Field(None, ge=0, le=1e6, description="use a number from 0 to 1000000")
    lambda_per_s: float | None = Field(
        None, ge=0, le=1000, description="use a number per second from 0 to 1000"
    )
    epsilon: float | None = Field(None, ge=0, le=10, description="use a number from 0 to 10")
    ceiling: float | None = Field(None, ge=1, le=1e6, description="use a number from 1 to 1000000")
    seed: int | None = Field(
        None, ge=0, lt=2**53, description="use a whole number from 0 to 9007199254740991"
    )


class ClientSection(Section):
    """One of `[[clients]]`."""

    id: _Id
    owner: str = Field(
        "", pattern=r"^[^\p{C}]{0,64}$", description="use at most 64 printable characters"
    )
    mint: _AmountUb = Field(0, description=_QUOTA)
    quota: _AmountUb = Field(0, description=_QUOTA)


class AgentSection(Section):
    """One of `[[agents]]`. Its headers are stored with it, in the database, as they are."""

    id: _Id
    kind: Literal["json", "openai", "echo"] = Field(description="use json, openai or echo")
    url: str = Field("", max_length=2048, description="use http:// or https:// with a host")
    y_max: int = Field(ge=1, le=10**9, description="use whole tokens, 1 to 1000000000")
    k: int = Field(ge=1, le=10**15, description="use a whole number, 1 to 1000000000000000")
    refill_per_s: int = Field(
        0, ge=0, le=10**6, description="use whole tokens per second, 0 to 1000000"
    )
    slots: int = Field(10, ge=1, le=10_000, description="use a whole number, 1 to 10000")
    cooldown_s: float = Field(0.0, ge=0, le=86_400, description="use seconds, 0 to 86400")
    quota: _AmountUb = Field(0, description=_QUOTA)
    lane: _Word = Field("default", description=_WORD)
    owner: str = Field(
        "", pattern=r"^[^\p{C}]{0,64}$", description="use at most 64 printable characters"
    )
    region: str = Field("", pattern=r"^[^\p{C}\s]{0,64}$", description=_WORD)
    tools: _Words = Field(frozenset(), description=_WORDS)
    domains: _Words = Field(frozenset({"public"}), description=_WORDS)
    headers: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$")],
        Annotated[str, Field(pattern=r"^[\x20-\x7e]{0,4096}$")],
    ] = Field(
        default_factory=dict,
        max_length=HEADERS_MAX,
        description='use a table of HTTP headers, as { "x-api-version" = "2025-10-01" }',
    )
    model: str = Field(
        "", pattern=r"^[^\p{C}]{0,128}$", description="use the model's name, kind openai only"
    )


class FamilySection(Section):
    """One of `[[families]]`."""

    id: _Id
    size: int = Field(ge=1, le=SIZE_MAX, description=f"use whole tokens, 1 to {SIZE_MAX}")
    deadline_s: float = Field(ge=0.05, le=3600, description="use seconds, 0.05 to 3600")
    max_attempts: int = Field(ge=1, le=100, description="use a whole number, 1 to 100")
    validator: dict[str, Any] = Field(
        max_length=VALIDATOR_KEYS_MAX, description='use a table, as { type = "none" }'
    )
    tools: _Words = Field(frozenset(), description=_WORDS)
    domain: _Word = Field("public", description=_WORD)
    region: str = Field("", pattern=r"^[^\p{C}\s]{0,64}$", description=_WORD)


class File(Section):
    """The whole file."""

    ledger: LedgerSection | None = Field(None, description="write it as a table, [ledger]")
    routing: RoutingSection | None = Field(None, description="write it as a table, [routing]")
    clients: list[ClientSection] = Field(
        [], max_length=ENTRIES_MAX, description="write each under a line [[clients]]"
    )
    agents: list[AgentSection] = Field(
        [], max_length=ENTRIES_MAX, description="write each under a line [[agents]]"
    )
    families: list[FamilySection] = Field(
        [], max_length=ENTRIES_MAX, description="write each under a line [[families]]"
    )


SECTIONS: Final[dict[str, type[Section]]] = {
    "ledger": LedgerSection,
    "routing": RoutingSection,
    "clients": ClientSection,
    "agents": AgentSection,
    "families": FamilySection,
}
