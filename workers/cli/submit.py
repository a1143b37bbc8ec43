"""`clearlane submit`: tasks from flags or from a file of JSON lines, durable when printed."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import click

from workers.cli import PARTLY, WRONG_USAGE, output, say
from workers.cli.session import with_context
from workers.terms import EXPIRES_S_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.errors import BadInput
    from ledger.intake import Accepted, Submission
    from tasks.context import Context
    from workers.tasklines import Defaults

    Accept = Callable[[Sequence[Submission]], list[Accepted]]

FAULTS_MAX: Final = 20  # lines told one by one

WHO: Final = ("client", "as_agent", "parent", "attempt")

Lines = dict[str, dict[str, Any]]


@click.command()
@click.argument("file", type=click.File("rb"), required=False, metavar="[FILE.jsonl]")
@click.option("--client", help="Who pays.")
@click.option("--as-agent", metavar="A", help="Instead: the agent who pays, of its own --parent.")
@click.option("--parent", metavar="TASK", help="The task that the agent is working on.")
@click.option("--attempt", type=click.IntRange(1), help="And the number of its attempt.")
@click.option("--family", help="Kind of work.")
@click.option("--size", type=int, help="Tokens; without it the family's.")
@click.option("--payload", metavar="JSON", help="What the agent gets.")
@click.option("--type", "kind", default="work", show_default=True, help="Type of the task.")
@click.option("--lane", default="default", show_default=True, help="Whose agents do it.")
@click.option("--count", type=click.IntRange(1, 1_000_000), help="So many equal tasks.")
@click.option(
    "--expires-s",
    type=click.FloatRange(0, EXPIRES_S_MAX, min_open=True),
    help="Seconds from now after which a task is no longer worth doing. A known key: as it was.",
)
@click.option("--key", help="Idempotency key; of several tasks KEY:1, KEY:2, … (KEY:line).")
@click.option("--wait", is_flag=True, help="Print each task when it has ended, with its result.")
@click.option("--timeout", type=click.FloatRange(0), help="With --wait: seconds at most.")
@with_context
def submit(
    context: Context,
    /,
    file: BinaryIO | None,
    count: int | None,
    wait: bool,
    **given: Any,
) -> None:
    """Submit tasks; print one JSON line for each, in order, once it is durable.

    FILE.jsonl (- for standard input) holds one task a line: {"family", "payload", "size",
    "type", "lane", "key"}, where a field may be missing if the option gives it. Every line is
    checked before anything is submitted. Lines without a key get one made of the file's SHA-256
    and the line's number: a file that was submitted halfway can be submitted again and duplicates
    nothing. To run the same file once more on purpose, give a new --key.

    Exits 3 with --wait if not every task was committed.
    """
    accept = _acceptor(context, *(given.pop(name) for name in WHO))
    timeout_s, expires_s = given.pop("timeout"), given.pop("expires_s")
    _check_times(wait, timeout_s, expires_s)
    items = _items(file, _defaults(context, **given), count)
    if expires_s is not None:
        until = context.now() + timedelta(seconds=expires_s)
        items = [replace(item, expires_at=until) for item in items]
    keyed = file is not None or given["key"] is not None
    batches = _submitted(accept, items, keyed=keyed)
    if wait:
        if not _waited(context, _accepted(batches, len(items)), timeout_s):
            click.get_current_context().exit(PARTLY)
        return
    with _progress(len(items)) as advance:
        for batch in batches:
            for item in batch:
                output.document({"task": item.task, "state": item.state})
            advance(len(batch))


def _defaults(context: Context, kind: str, **given: Any) -> Defaults:
    from workers.tasklines import Defaults

    return Defaults(
        families=context.registry().families.keys(), lanes=known_lanes(context), type=kind, **given
    )


def known_lanes(context: Context) -> list[str]:
    """The names of all lanes."""
    from ledger.lanes import lanes

    return [lane.lane for lane in lanes(context.engine, context.now())]


def _check_times(wait: bool, timeout_s: float | None, expires_s: float | None) -> None:
    """Raises UsageError for a time that has no use, BadInput for one that is none."""
    from ledger.errors import BadInput

    if timeout_s is not None and not wait:
        raise click.UsageError("--timeout goes with --wait")
    for name, seconds in (("--expires-s", expires_s), ("--timeout", timeout_s)):
        if seconds is not None and not math.isfinite(seconds):
            raise BadInput(name, f"{seconds} is no time", "use a number of seconds, as 60")


def _accepted(batches: Iterable[list[Accepted]], total: int) -> list[Accepted]:
    """All tasks, once all are accepted. Interrupted before, it prints those that are."""
    found: list[Accepted] = []
    try:
        with _progress(total) as advance:
            for batch in batches:
                found += batch
                advance(len(batch))
    except KeyboardInterrupt:
        for item in found:
            output.document({"task": item.task, "state": item.state})
        say(f"{len(found)} of {total} tasks were accepted; `clearlane task cancel` ends one")
        raise
    return found


def _items(file: BinaryIO | None, defaults: Defaults, count: int | None) -> list[Submission]:
    """What to submit. Tells what is wrong with a file's lines, and exits 2."""
    from ledger.errors import BadInput
    from workers.tasklines import FILE_MAX_BYTES, by_line, from_flags, read_lines

    if file is None:
        return from_flags(defaults, count or 1)
    if count is not None:
        raise click.UsageError("--count does not go with a file")
    name = "stdin" if file.name in ("<stdin>", 0) else str(file.name)
    data = file.read(FILE_MAX_BYTES + 1)
    if len(data) > FILE_MAX_BYTES:
        raise BadInput(name, f"it is larger than {FILE_MAX_BYTES} bytes", "split it")
    lines, faults = read_lines(name, data, defaults, by_line(data, defaults.key))
    if not lines and not faults:
        raise BadInput(name, "it holds no tasks", 'write one a line, as {"payload": …}')
    if faults:
        tell_faults(faults)
        say("nothing was submitted")
        raise click.exceptions.Exit(WRONG_USAGE)
    return [line.item for line in lines]


def tell_faults(faults: Sequence[BadInput]) -> None:
    """What is wrong with a file, line by line; of many lines the first."""
    for fault in faults[:FAULTS_MAX]:
        say(str(fault))
    more = len(faults) - FAULTS_MAX
    if more > 0:
        say(f"{more} more lines are wrong")


def _acceptor(
    context: Context,
    client: str | None,
    agent: str | None,
    parent: str | None,
    attempt: int | None,
) -> Accept:
    """What accepts tasks for whoever pays: a client, or an agent for a part of its own task."""
    from ledger import intake
    from ledger.model import AttemptKey
    from tasks.outsource import outsource

    if client is not None:
        if (agent, parent, attempt) != (None, None, None):
            raise click.UsageError("--client does not go with --as-agent, --parent or --attempt")
        return lambda items: intake.submit(context.engine, client, items, context.now())
    if agent is None:
        raise click.UsageError("Missing option '--client'.")
    if parent is None or attempt is None:
        raise click.UsageError("--as-agent goes with --parent and --attempt")
    key = AttemptKey(intake.checked_id(parent), attempt)
    return lambda items: outsource(context, agent, key, items)


def _submitted(
    accept: Accept, items: Sequence[Submission], *, keyed: bool
) -> Iterator[list[Accepted]]:
    """Accept batch after batch, each whole or not at all; says how far it came if one fails."""
    from ledger.errors import ClearlaneError
    from workers.chunks import chunks

    done = 0
    for batch in chunks(items):
        try:
            accepted = accept(batch)
        except ClearlaneError:
            if done:
                again = "; repeat the command: nothing is accepted twice" if keyed else ""
                say(f"the first {done} of {len(items)} tasks were accepted, the rest not{again}")
            raise
        done += len(batch)
        yield accepted


def _waited(context: Context, accepted: Sequence[Accepted], timeout_s: float | None) -> bool:
    """Print every task in order when it has ended; True if all were committed.

    What has not ended when the time is over, or when someone interrupts, is printed as it stood.
    """
    from workers.endings import endings

    tasks = list(dict.fromkeys(item.task for item in accepted))
    pending = iter(tasks)
    current = next(pending, None)
    ended: Lines = {}
    committed = 0
    try:
        with _progress(len(tasks)) as advance:
            for row in endings(context, tasks, timeout_s, partial(_say_why, context)):
                ended[str(row["id"])] = _line(row)
                committed += row["state"] == "COMMITTED"
                advance(1)
                while current in ended:
                    output.document(ended.pop(current))
                    current = next(pending, None)
    finally:
        while current is not None:
            output.document(ended.get(current, {"task": current, "state": "INIT"}))
            current = next(pending, None)
    if committed < len(tasks):
        missing = f"{len(tasks) - committed} of {len(tasks)} tasks were not committed"
        say(f"{missing}; `clearlane task show ID` says why")
    return committed == len(tasks)


def _say_why(context: Context, task: str) -> None:
    """One line for who has waited for a while and may wonder."""
    from ledger.intake import task_row
    from workers.waits import explain

    row = task_row(context.engine, task)
    if row["state"] == "INIT":
        say(f"still waiting for {task}: {explain(context, row).words}")


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    is_committed = row["state"] == "COMMITTED"
    return {
        "task": row["id"],
        "state": row["state"],
        "agent": row["agent"],
        # Not the fencing number: that one grows also when no agent had room.
        "attempts": row["failures"] + row["losses"] + is_committed,
        "cost_ub": row["cost_ub"],
        "reason": row["reason"],
        "result": output.Foreign(row["output"]),
    }


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr while many are sent or waited for at a terminal; else nothing."""
    console = output.console(stderr=True)
    if total == 1 or not console.is_terminal:
        yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    shared = sys.stdout.isatty()  # else what we print would go where the bar is: to stderr
    with Progress(*columns, console=console, transient=True, redirect_stdout=shared) as bar:
        number = bar.add_task("", total=total)
        yield lambda count: bar.advance(number, count)
