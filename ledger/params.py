"""Parameters of the ledger: what settlements and epochs charge. Rows M06, M07."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Final, cast

from sqlalchemy import Connection

from ledger.clearing import Clearing
from ledger.db import query
from ledger.model import Json

TAU_PPM_DEFAULT: Final = 10_000  # 1 %
EPOCH_S_DEFAULT: Final = 3600


def params_of(connection: Connection) -> dict[str, Json]:
    """All parameters by name, as they were configured."""
    return {row.name: row.value for row in query(connection, "params")}


def tau_ppm_of(params: Mapping[str, Json]) -> int:
    """The share of each payment that burns."""
    return burned_ppm(cast("int | None", params.get("tau_ppm")))


def burned_ppm(stored: int | None) -> int:
    """The same, given what is stored of it."""
    return TAU_PPM_DEFAULT if stored is None else stored


def clearing_of(params: Mapping[str, Json]) -> Clearing:
    """What an epoch's close charges and gives."""
    return Clearing(**{key: value for key, value in _clearing(params).items() if key != "epoch_s"})


def epoch_s_of(params: Mapping[str, Json]) -> int:
    """How long an epoch is."""
    return _clearing(params).get("epoch_s", EPOCH_S_DEFAULT)


def spelled_out(name: str, value: Json) -> Json:
    """A parameter with all its defaults. So it is stored: what the log says is in force must not
    change with the defaults of another version."""
    if name != "clearing":
        return value
    params = {name: value}
    return cast("Json", {"epoch_s": epoch_s_of(params), **asdict(clearing_of(params))})


def in_force(connection: Connection) -> dict[str, str]:
    """Every parameter that moves credit, as the log states them."""
    params = params_of(connection)
    clearing = {name: str(value) for name, value in asdict(clearing_of(params)).items()}
    return {"tau_ppm": str(tau_ppm_of(params)), "epoch_s": str(epoch_s_of(params)), **clearing}


def _clearing(params: Mapping[str, Json]) -> dict[str, int]:
    return cast("dict[str, int]", params.get("clearing", {}))
