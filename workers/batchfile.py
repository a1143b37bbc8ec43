"""The items of a batch, read from its file and looked up in the ledger before a lane is taken.

Row M03.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ledger import intake, lanes
from ledger.errors import BadInput, Conflict
from ledger.intake import TYPE_DEFAULT, Accepted, Submission
from tasks.context import Context
from workers.tasklines import FILE_MAX_BYTES, Defaults, Line, at, by_content, read_lines


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the lines need not say, and how they are sent. Kept with the batch: with other options
    the same file holds other items."""

    family: str | None = None
    size: int | None = None
    type: str = TYPE_DEFAULT
    rate_per_s: float | None = None
    skip_bad: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Items:
    """A file's good items, what is wrong with its other lines, and what the ledger knows of them
    by their keys."""

    path: Path
    sha256: bytes
    items: Sequence[Submission]
    faults: Sequence[BadInput]
    known: Mapping[str, Accepted] = field(default_factory=dict)

    @property
    def settled(self) -> list[Accepted]:
        """Those that have ended."""
        return [found for found in self.known.values() if found.state != "INIT"]


def read_bytes(path: Path) -> bytes:
    """A file's content. Raises BadInput."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise BadInput(str(path), reason, "name a file of JSON lines") from None
    if len(data) > FILE_MAX_BYTES:
        raise BadInput(str(path), f"it is larger than {FILE_MAX_BYTES} bytes", "split it")
    return data


def sha256_of(data: bytes) -> bytes:
    """What tells a file from another."""
    return hashlib.sha256(data).digest()


def read_items(
    context: Context, path: Path, data: bytes, *, client: str, lane: str, options: Options
) -> Items:
    """A file's items. Raises BadInput for none at all, NotFound for an unknown client or lane."""
    names = [found.lane for found in lanes.lanes(context.engine, context.now())]
    defaults = Defaults(
        families=context.registry().families.keys(),
        lanes=names,
        lane=lane,
        **{name: getattr(options, name) for name in ("family", "size", "type")},
    )
    lines, faults = read_lines(str(path), data, defaults, by_content())
    here: list[Line] = []
    for line in lines:
        if line.item.lane == lane:
            here.append(line)
        else:
            reason = f"{line.item.lane!r} is not the batch's lane"
            wrong = BadInput("lane", reason, f"leave it out, or use {lane}")
            faults.append(at(f"{path}:{line.number}", wrong))
    items = [line.item for line in here]
    if not items and not faults:
        raise BadInput(str(path), "it holds no items", 'write one a line, as {"payload": …}')
    found = intake.known(context.engine, client, items) if items else {}
    return _told_apart(path, data, here, faults, found)


def _told_apart(
    path: Path,
    data: bytes,
    lines: Sequence[Line],
    faults: list[BadInput],
    found: Mapping[str, Accepted | Conflict],
) -> Items:
    """Keys that were used for something else are faults of their lines."""
    good: list[Submission] = []
    for line in lines:
        before = found.get(line.item.idempotency_key or "")
        if isinstance(before, Conflict):
            faults.append(at(f"{path}:{line.number}", before))
        else:
            good.append(line.item)
    return Items(
        path=path,
        sha256=sha256_of(data),
        items=good,
        faults=faults,
        known={key: item for key, item in found.items() if isinstance(item, Accepted)},
    )


def options_of(kept: Mapping[str, Any]) -> Options:
    """The options that a batch was begun with."""
    return Options(**kept)
