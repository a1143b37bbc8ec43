"""`clearlane batch`: many items by hand, with a lane to themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.errors import BadInput
from workers.cli import PARTLY, WRONG_USAGE, output, say
from workers.cli.lanes import as_option
from workers.cli.session import json_option, timeout_option, with_context

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.batches import Counts, Kept
    from tasks.context import Context
    from workers.batchfile import Items
    from workers.batchjob import Report
    from workers.batchrun import Voice

LIST = ("batch", "state", "lane", "client", "principal", "items", "committed", "failed", "left",
        "spent_ub", "began_at", "file")  # fmt: skip
SUMMARY = ("batch", "items", "done", "failed", "left", "before", "spent_ub", "elapsed_s")
RATE_MAX: Final = 1_000_000.0
_RATE = re.compile(r"(\d{1,7}(?:\.\d{1,3})?)(?:/([smh]))?")
_UNIT_S = {None: 1, "s": 1, "m": 60, "h": 3600}


def _rate(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float | None:  # noqa: ARG001
    """Items a second, from `50/s`, `50` or `600/m`. Raises BadInput."""
    if value is None:
        return None
    found = _RATE.fullmatch(value.strip())
    rate = float(found[1]) / _UNIT_S[found[2]] if found else 0.0
    if not 0 < rate <= RATE_MAX:
        raise BadInput("--rate", f"{value!r} is no rate", "use 50/s, 600/m or 100/h")
    return rate


rate_option = click.option(
    "--rate", metavar="N/s", callback=_rate, help="Submit no faster than that; also N/m, N/h."
)
reason_option = click.option(
    "--reason", default="batch", show_default=True, help="Why; whoever is refused reads it."
)
file_type = click.Path(path_type=Path, exists=True, dir_okay=False, readable=True)


@click.group()
def batch() -> None:
    """Run many items by hand: they have their lane to themselves, and none is done twice."""


@batch.command()
@click.option("--lane", required=True, help="Held for the batch alone while it runs.")
@click.option("--file", required=True, type=file_type, help="One item a line, as for `submit`.")
@click.option("--client", required=True, help="Who pays.")
@click.option("--family", help="Kind of work of lines that do not say it.")
@click.option("--size", type=int, help="Tokens of lines that do not say it.")
@click.option("--type", "kind", default="work", show_default=True, help="Type of the tasks.")
@reason_option
@rate_option
@click.option("--dry-run", is_flag=True, help="Check everything and say what would be done.")
@click.option("--skip-bad", is_flag=True, help="Go on without the lines that are wrong.")
@timeout_option
@as_option
@json_option
@with_context
def run(  # noqa: PLR0917 - click names them all
    context: Context,
    /,
    lane: str,
    file: Path,
    client: str,
    reason: str,
    dry_run: bool,
    timeout: float | None,
    name: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Submit the items of a file as tasks and wait until all have ended.

    Takes the lane, waits until what is in flight there has ended, and gives the lane back at the
    end. Every line is checked before. An item is known by its key, or by its content: running the
    same file again does what is left of it.

    Ctrl-C stops submitting, waits for what is in flight and gives the lane back; what is left waits
    for `batch resume`. A second Ctrl-C gives the lane back at once: what runs is refused.

    Exits 0 when all were done, 3 when some failed, 4 when the lane was lost, 5 when it is held by
    somebody else.
    """
    from workers.batchfile import Options, read_bytes, read_items
    from workers.batchjob import Job, started
    from workers.principal import principal
    from workers.principal import reason as checked

    options = Options(
        family=given["family"],
        size=given["size"],
        type=given["kind"],
        rate_per_s=given["rate"],
        skip_bad=given["skip_bad"],
    )
    job = Job(
        client=client,
        lane=lane,
        principal=principal(name),
        reason=checked(reason),
        options=options,
        timeout_s=timeout,
    )
    path = file.resolve()
    items = read_items(context, path, read_bytes(path), client=client, lane=lane, options=options)
    _check(items, skip_bad=options.skip_bad)
    if dry_run:
        _tell_plan(context, lane, items, as_json)
        return
    _ended(_run(lambda voice: started(context, job, items, voice), items), as_json)


@batch.command()
@click.argument("number", metavar="ID", type=click.IntRange(1))
@click.option("--file", type=file_type, help="Where its file is now, if it was moved.")
@click.option("--reason", help="Why; the batch's own if absent.")
@rate_option
@timeout_option
@as_option
@json_option
@with_context
def resume(  # noqa: PLR0917
    context: Context,
    number: int,
    file: Path | None,
    reason: str | None,
    rate: float | None,
    timeout: float | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Go on with a batch that was stopped, or whose command died: do what is left of it.

    Its file must be as it was. When the command died its lease of the lane may still run: then
    this waits for its end.
    """
    from dataclasses import replace

    from ledger.batches import batch as kept_batch
    from workers.batchfile import options_of
    from workers.batchjob import Job, again, same_items
    from workers.principal import principal
    from workers.principal import reason as checked

    kept = kept_batch(context.engine, number)
    options = options_of(kept.options)
    items = same_items(context, kept, file.resolve() if file else None)
    _check(items, skip_bad=options.skip_bad)
    job = Job(
        client=kept.client,
        lane=kept.lane,
        principal=principal(name),
        reason=kept.reason if reason is None else checked(reason),
        options=replace(options, rate_per_s=rate or options.rate_per_s),
        timeout_s=timeout,
    )
    _ended(_run(lambda voice: again(context, job, kept.id, items, voice), items), as_json)


@batch.command()
@click.argument("number", metavar="[ID]", type=click.IntRange(1), required=False)
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@json_option
@with_context
def status(context: Context, number: int | None, limit: int, as_json: bool) -> None:
    """How a batch stands, or the newest batches.

    A batch is running, done, stopped, lost (somebody else got its lane) or died (its command
    ended without a word). `unknown` are items with no task in this batch: not submitted yet, or
    done before it.
    """
    from ledger.batches import batch as kept_batch
    from ledger.batches import batches, counts

    found = (
        batches(context.engine, limit=limit)
        if number is None
        else [kept_batch(context.engine, number)]
    )
    rows = [_row(kept, counts(context.engine, kept.id)) for kept in found]
    if as_json:
        output.document(rows if number is None else rows[0])
    elif number is None:
        output.table(LIST, rows)
    else:
        output.fields(rows[0], tuple(rows[0]))


def _row(kept: Kept, counts: Counts) -> dict[str, Any]:
    known = counts.left + counts.committed + counts.failed
    return {
        "batch": kept.id,
        "state": kept.state,
        **{
            name: getattr(kept, name) for name in ("lane", "client", "principal", "reason", "items")
        },
        **asdict(counts),
        "failed": counts.failed,
        "left": counts.left,
        "unknown": max(0, kept.items - known),
        "began_at": kept.began_at,
        "ended_at": kept.ended_at,
        "file": kept.file,
    }


def _check(items: Items, *, skip_bad: bool) -> None:
    """Tell what is wrong with the file; exit 2 unless the batch may go on without those lines."""
    from workers.cli.submit import tell_faults

    if not items.faults:
        return
    tell_faults(items.faults)
    if skip_bad and items.items:
        say(f"going on without {len(items.faults)} lines")
        return
    hint = "" if skip_bad else "; --skip-bad goes on without these lines"
    say(f"nothing was submitted{hint}")
    raise click.exceptions.Exit(WRONG_USAGE)


def _tell_plan(context: Context, lane: str, items: Items, as_json: bool) -> None:
    from ledger.lanes import lane as ledger_lane

    found = ledger_lane(context.engine, lane, context.now())
    plan: Mapping[str, Any] = {
        "items": len(items.items),
        "bad": len(items.faults),
        "before": len(items.settled),
        "to_do": len(items.items) - len(items.settled),
        "lane": lane,
        "mode": found.mode,
        "principal": found.principal,
        "in_flight": found.in_flight,
    }
    if as_json:
        output.document(plan)
    else:
        output.fields(plan, tuple(plan))


def _run(call: Callable[[Voice], Report], items: Items) -> Report:
    from workers.batchrun import Voice
    from workers.cli.progress import Draining, shown

    with shown(len(items.items)) as tell:
        return call(Voice(tell=tell, draining=Draining(), say=say))


def _ended(report: Report, as_json: bool) -> None:
    """The summary, and the exit code it stands for."""
    from workers.cli import INTERRUPTED

    row = {name: getattr(report, name) for name in SUMMARY} | {"state": report.state}
    if as_json:
        output.document(row)
    else:
        output.fields(row, ("state", *SUMMARY))
    if report.lost is not None:
        say("the lane was lost: nothing more of the batch is accepted")
    if report.before == report.items:
        say("every item had ended before; to do one again on purpose, give it a new key")
    elif report.left and report.batch is not None:
        say(f"{report.left} items are left: `clearlane batch resume {report.batch}` goes on")
    if report.failed:
        say(
            f"{report.failed} items failed;"
            f" `clearlane task list --client {report.client} --state quarantined` says why"
        )
    ctx = click.get_current_context()
    if report.lost is not None:
        raise report.lost
    if report.state == "stopped":
        ctx.exit(INTERRUPTED)
    if report.failed:
        ctx.exit(PARTLY)
