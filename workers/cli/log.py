"""`clearlane log`: the log's checkpoints, entries and receipts, in the formats that others read."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ledger.errors import BadInput, NotFound
from tasks.text import printable
from workers.cli import output, say
from workers.cli.session import json_option, opened, with_context
from workers.cli.verify import verify

if TYPE_CHECKING:
    from tasks.context import Context

LOOK_S: Final = 5.0  # between two lines of progress
VERDICT_MAX: Final = 2_000  # characters
WITNESSES: Final = ("name", "witness", "url", "size", "behind", "signed_at", "asked_at", "fault")


@click.group()
def log() -> None:
    """Read and check the log of everything that moved credit."""


log.add_command(verify)


@log.command()
@with_context
def checkpoint(context: Context) -> None:
    """The newest checkpoint, with the signatures of its witnesses; nothing else on stdout."""
    from ledger import checkpoints

    _put(checkpoints.newest(context.engine).note.encode().encode())


@log.command()
@click.option("--from", "first", type=click.IntRange(0), default=0, help="The first leaf (0).")
@click.option("--to", "end", type=click.IntRange(0), help="The leaf to stop before; all there are.")
@with_context
def export(context: Context, first: int, end: int | None) -> None:
    """The entries in order, one canonical JSON a line. Progress goes to stderr."""
    from ledger import leaves

    size, _ = leaves.size(context.engine)
    until = size if end is None else end
    if not first <= until <= size:
        name = "--from" if first > size or end is None else "--to"
        reason = f"{first} to {until} is no part of a log of {size} leaves"
        raise BadInput(name, reason, f"use 0 to {size}, and --to no less than --from")
    tell = _progress(until - first)
    out = sys.stdout.buffer
    for number, data in enumerate(leaves.entries(context.engine, first, until), 1):
        out.write(data + b"\n")
        tell(number)
    out.flush()


@log.command()
@click.argument("task_or_index")
@with_context
def entry(context: Context, task_or_index: str) -> None:
    """The bytes of one entry: of a task's settlement, or of a leaf by its number."""
    from ledger import leaves

    _put(leaves.entry(context.engine, _index(context, task_or_index)))


@log.command()
@click.argument("task_or_index")
@with_context
def receipt(context: Context, task_or_index: str) -> None:
    """Proof that an entry is in the log, for `clearlane verify`; nothing else on stdout."""
    from ledger import checkpoints

    found = checkpoints.receipt(context.engine, _index(context, task_or_index))
    _put(found.encode().encode())


@log.command()
@click.option("--all", "every", is_flag=True, help="Also those it was signed with before.")
@json_option
@with_context
def key(context: Context, every: bool, as_json: bool) -> None:
    """The verifier key of the log, the one that signs now first; nothing else on stdout.

    With --json a list, with the leaf where the log announces the key; null: it was the first.
    """
    from ledger import checkpoints

    known = checkpoints.keys(context.engine)
    if not known:
        raise NotFound("log key", "the log has none yet", "it is made by `clearlane up`")
    wanted = known if every else known[:1]
    if as_json:
        output.document([{"key": k.key.encode(), "leaf": k.leaf, "at": k.at} for k in wanted])
        return
    for found in wanted:
        click.echo(found.key.encode())


@log.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Home of the stack (CLEARLANE_DATA, else .clearlane).",
)
def rotate(data: Path | None) -> None:
    """Sign the log with a new key from here on, and print it.

    The log announces it, and the first checkpoint with it has both keys' signatures.
    """
    from ledger import checkpoints
    from workers import logkey
    from workers.settings import load_settings

    settings = load_settings()
    with opened(data) as context:
        path = logkey.place(settings, data)
        new = logkey.rotate(context.engine, path, settings.log_origin, context.now())
        leaf = next(k.leaf for k in checkpoints.keys(context.engine) if k.key == new.key)
    click.echo(new.key.encode())
    say(f"the key is in {path}; give the new verifier key to witnesses, and into their policies")
    say(f"whoever has the old one needs `clearlane log receipt {leaf}` and `log entry {leaf}`")


@log.command()
@json_option
@with_context
def witnesses(context: Context, as_json: bool) -> None:
    """How far the log is final, what each witness of the policy has signed, and why not more."""
    from ledger import gauges
    from workers.witnesses import judge

    policy = None if context.notary is None else context.notary.policy()
    if policy is None:
        reason = "it is not set, and no stack that has one runs in the data directory"
        remedy = "name the file with the witnesses here and where `clearlane up` starts"
        raise NotFound("CLEARLANE_LOG_POLICY", reason, remedy)
    verdict = judge(context.engine, policy, gauges.log(context.engine))
    rows = [
        {
            "name": found.witness.name,
            "witness": str(found.witness.key),
            "url": found.witness.url,
            "size": found.state.signed,
            "behind": found.behind,
            "signed_at": found.state.signed_at,
            "asked_at": found.state.asked_at,
            "fault": found.state.fault,
            "accuses": found.accuses,
        }
        for found in verdict.witnesses
    ]
    if not as_json:
        output.table(WITNESSES, rows)
        click.echo(printable(verdict.text(), VERDICT_MAX))
        return
    output.document(
        {
            "final": verdict.final,
            "leaves": verdict.size,
            "needs": verdict.needs,
            "lacks": [{"name": item.witness.name, "why": item.why} for item in verdict.lacks],
            "verdict": verdict.text(),
            "witnesses": rows,
        }
    )


def _index(context: Context, text: str) -> int:
    """The leaf that is meant, one that is there. Raises BadInput, NotFound."""
    from ledger import leaves
    from ledger.intake import checked_id
    from ledger.proof.text import NUMBER, NUMBER_MAX

    if NUMBER.fullmatch(text) and int(text) < NUMBER_MAX:
        index, (size, _) = int(text), leaves.size(context.engine)
        if index >= size:
            raise leaves.no_leaf(index, size)
        return index
    try:
        task = checked_id(text)
    except BadInput:
        reason = f"{text!r} is neither the number of a leaf nor the id of a task"
        remedy = "leaves are counted from 0; for tasks see `clearlane task list`"
        raise BadInput("TASK_OR_INDEX", reason, remedy) from None
    return leaves.leaf_of(context.engine, task)


def _put(data: bytes) -> None:
    """These bytes and no more."""
    click.echo(data, nl=False)


def _progress(total: int) -> Callable[[int], None]:
    """What tells how far it is: a line now and then, for what takes long."""
    told_s = time.monotonic()

    def tell(done: int) -> None:
        nonlocal told_s
        if done % 1000 == 0 and time.monotonic() - told_s >= LOOK_S:
            told_s = time.monotonic()
            say(f"{done} of {total} entries")

    return tell
