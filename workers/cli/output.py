"""What commands print: tables for people, one JSON document for programs.

Text that agents and clients wrote never reaches a terminal raw: JSON escapes it, tables take
control characters out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.model import Json
from ledger.money import show_b
from tasks.text import printable

if TYPE_CHECKING:
    from rich.console import Console

CELL_MAX: Final = 100  # characters
FIELD_MAX: Final = 2000
WIDE: Final = 250  # columns where nobody's terminal sets a width

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Foreign:
    """What an agent or a client wrote: shown as it is, also where a name in it looks like ours."""

    json: Json


def document(value: Any) -> None:
    """One JSON document on one line of stdout."""
    click.echo(json.dumps(encoded(value)))


def encoded(value: Any, name: str = "") -> Json:
    """As the interface has it: amounts (`_ub`) are strings, times RFC 3339 in UTC."""
    if isinstance(value, Foreign):
        return value.json
    if isinstance(value, Mapping):
        return {str(key): encoded(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encoded(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return encoded(asdict(value))
    return _plain(value, name)


def _plain(value: Any, name: str) -> Json:
    if isinstance(value, datetime):
        return instant(value)
    if isinstance(value, int | float | Decimal) and name.endswith("_ub"):
        return str(round(value))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)  # a UUID


def instant(value: datetime) -> str:
    """2026-11-21T03:04:05.678901Z."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def table(columns: Sequence[str], rows: Iterable[Row]) -> None:
    """The named columns of each row; amounts in B, times in UTC to the millisecond."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(heading(column), overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell(row[column], column)) for column in columns))
    console().print(grid)


def fields(row: Row, columns: Sequence[str]) -> None:
    """One thing, a line per field; empty ones are left out."""
    width = max(len(heading(column)) for column in columns) + 2
    for column in columns:
        text = cell(row[column], column, FIELD_MAX)
        if text != "-":
            click.echo(f"{heading(column):{width}}{text}")


def heading(column: str) -> str:
    """`cost_ub` is shown in B, under `cost (B)`."""
    if column.endswith("_ub"):
        return f"{column.removesuffix('_ub').replace('_', ' ')} (B)"
    return column.replace("_", " ")


def cell(value: Any, column: str, limit: int = CELL_MAX) -> str:
    """One value for people."""
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    if isinstance(value, Mapping):
        value = json.dumps(encoded(value))
    return "-" if value in (None, "") else printable(_text(value, column), limit)


def _text(value: Any, column: str) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + "Z"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float | Decimal) and column.endswith("_ub"):
        return show_b(round(value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def console(*, stderr: bool = False) -> Console:
    """Where tables go: a terminal's width, or room for everything."""
    from rich.console import Console

    found = Console(stderr=stderr, highlight=False)
    return found if found.is_terminal else Console(stderr=stderr, highlight=False, width=WIDE)
