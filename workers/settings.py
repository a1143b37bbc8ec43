"""Settings from the environment: one class, defaults that work, wrong values refused by name.

Row M09.
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ledger.errors import BadInput
from tasks.addresses import LOOPBACK, AddressPolicy, Network

PREFIX = "CLEARLANE_"
SECRETS = Path("/run/secrets")  # where container engines put them: one file a variable
DATABASE_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
BROKER_SCHEMES = ("redis", "rediss", "unix")
HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?|\[[0-9a-f:.]+\]")


class Settings(BaseSettings):
    """What an operator may set. Each field is read from its name in capitals after CLEARLANE_.

    The three addresses have no prefix: other programs use the same variables.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, populate_by_name=True
    )

    database_url: str | None = Field(None, validation_alias="DATABASE_URL")
    """`postgresql://…`; None: `up` runs an embedded server."""
    redis_url: str | None = Field(None, validation_alias="REDIS_URL")
    """`redis://…` (Redis or Valkey); None: `up` runs an embedded server."""
    celery_broker_url: str | None = Field(
        default_factory=lambda known: known.get("redis_url"), validation_alias="CELERY_BROKER_URL"
    )

    data: Path = Path(".clearlane")
    """Home of a stack: databases, logs, addresses."""
    gateway_port: int = Field(0, ge=0, le=65535)
    """0: any free port, the same again after a restart when it is still free."""
    flower_port: int = Field(0, ge=0, le=65535)

    gateway_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Names besides loopback that a request may ask for; without any, only loopback is checked."""
    gateway_requests_per_s: int = Field(1000, ge=1, le=1_000_000)
    """Of one token, at one gateway."""
    gateway_refusals_per_min: int = Field(60, ge=1, le=1_000_000)
    """Refused tokens of one address; then unknown tokens from there are not looked up any more."""
    gateway_waits_max: int = Field(1000, ge=1, le=100_000)
    """Requests that wait for a task at a time, in all."""
    gateway_waits_per_token_max: int = Field(200, ge=1, le=100_000)

    reserve_workers: int = Field(1, ge=1, le=64)
    execute_workers: int = Field(1, ge=1, le=64)
    validate_workers: int = Field(1, ge=1, le=64)
    commit_workers: int = Field(1, ge=1, le=64)
    control_workers: int = Field(1, ge=1, le=64)

    cron_file: Path | None = None
    """A Python file with a `beat_schedule` of the installation's own, besides ours."""

    log_key_file: Path | None = None
    """The log's private key; None: `log.key` in the home."""
    log_origin: str | None = Field(None, pattern=r"^[!-*,-~]{1,100}$")
    """The log's name, for a key that is not made yet."""
    log_policy: Path | None = None
    """Whose signatures make a checkpoint final (c2sp.org/tlog-policy); None: nothing is final."""

    agent_networks: Annotated[tuple[Network, ...], NoDecode] = ()
    """Private networks that agents may live in, besides loopback and global addresses."""

    lease_margin_s: float = Field(5.0, gt=0, allow_inf_nan=False)
    """How long beyond its family's deadline an attempt lives before it counts as lost."""
    heartbeat_file: Path | None = None
    """A worker or dispatcher touches it every two seconds, for `python -m workers.alive`."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    restart_budget: int = Field(5, ge=1, le=100)
    """Starts of one process within the window before it stays down."""
    restart_window_s: float = Field(600.0, gt=0, allow_inf_nan=False)
    backoff_first_s: float = Field(10.0, gt=0, allow_inf_nan=False)
    """Wait before the second restart; doubles with each further one."""
    backoff_max_s: float = Field(300.0, gt=0, allow_inf_nan=False)

    @field_validator("agent_networks", mode="before")
    @classmethod
    def _networks(cls, given: object) -> object:
        if not isinstance(given, str):
            return given
        try:
            return tuple(ip_network(text.strip()) for text in given.split(","))
        except ValueError:
            raise ValueError("is not a list of networks, as 10.0.0.0/8,fd00::/8") from None

    @field_validator("gateway_hosts", mode="before")
    @classmethod
    def _hosts(cls, given: object) -> object:
        if not isinstance(given, str):
            return given
        names = tuple(name.strip().lower() for name in given.split(","))
        for name in names:
            if not HOST.fullmatch(name):
                raise ValueError(
                    "is not a list of host names without ports, as a.example,b.example"
                )
        return names

    @field_validator("database_url")
    @classmethod
    def _database(cls, url: str | None) -> str | None:
        if url is None:
            return None
        scheme, rest = _split(url, DATABASE_SCHEMES, "postgresql://user:password@host/database")
        if not urlsplit(f"{scheme}:{rest}").path.strip("/"):
            raise ValueError("names no database")
        return f"postgresql:{rest}"

    @field_validator("redis_url", "celery_broker_url")
    @classmethod
    def _broker(cls, url: str | None) -> str | None:
        if url is not None:
            _split(url, BROKER_SCHEMES, "redis://:password@host:6379/0")
        return url

    @property
    def agent_addresses(self) -> AddressPolicy:
        """Where agents may live."""
        return AddressPolicy(allowed=(*LOOPBACK, *self.agent_networks))

    @property
    def sqlalchemy_url(self) -> str | None:
        """The database's URL in the form SQLAlchemy wants, with psycopg 3 as its driver."""
        return sqlalchemy_url(self.database_url) if self.database_url else None


def sqlalchemy_url(database_url: str) -> str:
    """`postgresql+psycopg://…` of a `postgresql://…`."""
    return database_url.replace("postgresql:", "postgresql+psycopg:", 1)


def load_settings() -> Settings:
    """The settings of this process's environment; BadInput names the first wrong variable."""
    try:
        return Settings(_secrets_dir=SECRETS if SECRETS.is_dir() else None)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise _refusal(str(first["loc"][0]), first["msg"]) from error


def _refusal(place: str, message: str) -> BadInput:
    """`place` is what pydantic says: a field's name, or the variable's when it has no prefix."""
    reason = message.removeprefix("Value error, ")
    reason = reason[:1].lower() + reason[1:]
    field = Settings.model_fields.get(place.lower())
    if field is None or field.validation_alias is not None:
        return BadInput(place.upper(), reason, "correct it, or unset it")
    name = f"{PREFIX}{place.upper()}"
    return BadInput(name, reason, f"correct it, or unset it for the default {field.default}")


def _split(url: str, schemes: tuple[str, ...], example: str) -> tuple[str, str]:
    """Scheme and rest of a URL; the error never repeats the URL, it may hold a password."""
    scheme, colon, rest = url.partition(":")
    if not colon or scheme not in schemes or not rest.startswith("//"):
        raise ValueError(f"is not a URL like {example}")
    try:
        _ = urlsplit(url).port
    except ValueError as error:
        raise ValueError("has a port that is not a number from 0 to 65535") from error
    return scheme, rest
