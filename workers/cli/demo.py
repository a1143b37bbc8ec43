"""`clearlane demo`: the main job told to someone who knows nothing of the project."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Iterable
from contextlib import closing
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ledger.money import show_b

if TYPE_CHECKING:
    from workers.demo.lanes import Ending, Size
    from workers.demo.lanes import Event as LaneEvent
    from workers.demo.library import Closing, Decision, Event, Reckoning
    from workers.demo.line import Doing, Line
    from workers.demo.log import Event as LogEvent
    from workers.demo.proof import Proof

TOLD_PER_AGENT = 3  # decisions told in words; the rest are counted
PROGRESS_S = 1.0
ISOLATED = 2.0  # judged this many times dearer than its load alone would make it


@click.command()
@click.option(
    "--tasks",
    type=click.IntRange(20, 2000),
    default=300,
    show_default=True,
    help="How many modules of the standard library to send through the fleet.",
)
@click.option(
    "--paper",
    is_flag=True,
    help="Instead, walk through the worked example of the paper, number by number.",
)
@click.option(
    "--lanes",
    is_flag=True,
    help="Instead, a person runs a batch where cron is at work, on 32 agents with a cooldown.",
)
@click.option(
    "--log",
    "replicas",
    is_flag=True,
    help="Instead, three replicas check the log: two sign, a lying log is refused.",
)
@click.option("--json", "as_json", is_flag=True, help="With --paper: the numbers as JSON.")
def demo(tasks: int, paper: bool, lanes: bool, replicas: bool, as_json: bool) -> None:
    """Run the main job on a stack of its own and tell what happens.

    Exits 0 only if every task has ended, every balance reconciles, also after the epoch is closed,
    and a receipt verifies; with --lanes, if every item is done, nobody called an agent too soon and
    the lane had one holder at any instant; with --log, if two of three have signed and the lie was
    refused.
    """
    from workers.interrupts import breaking_off

    if paper + lanes + replicas > 1:
        raise click.UsageError("--paper, --lanes and --log are three demos")
    if as_json and not paper:
        raise click.UsageError("--json goes with --paper")
    with breaking_off():
        sys.exit(_play(tasks, paper=paper, lanes=lanes, replicas=replicas, as_json=as_json))


def _play(tasks: int, *, paper: bool, lanes: bool, replicas: bool, as_json: bool) -> int:
    """The demo that was asked for. Closed, it stops its stack, also when telling it fails."""
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 110)
    if paper:
        with closing(_paper_events()) as lines:
            return _paper(console, lines, as_json)
    if lanes:
        from workers.demo.lanes import Size
        from workers.demo.lanes import play as play_lanes

        size = Size()
        with closing(play_lanes(size)) as acts:
            return _lanes(console, acts, size)
    if replicas:
        from workers.demo.log import play as play_log

        with closing(play_log()) as told:
            return _log(console, told)
    from workers.demo.library import play as play_library

    with closing(play_library(tasks)) as events:
        return _library(console, events, tasks)


def _paper_events() -> Generator[Line | Doing, None, None]:
    from workers.demo.paper import play as play_paper
    from workers.demo.paper_epoch import play as play_epoch

    yield from play_paper()
    yield from play_epoch()


def _paper(console: Console, lines: Iterable[Line | Doing], as_json: bool) -> int:
    from workers.demo.line import Doing

    found = []
    for line in lines:
        if isinstance(line, Doing):
            click.echo(f"{line.words} …", err=as_json)
            continue
        found.append(line)
        if not as_json:
            mark = "[green]=[/]" if line.ok else "[red]≠[/]"
            console.print(f"§{line.step:4} {line.what:38} {line.paper:>14} {mark} {line.live}")
    wrong = [line for line in found if not line.ok]
    if as_json:
        rows = [
            {"step": i.step, "what": i.what, "paper": i.paper, "live": i.live, "ok": i.ok}
            for i in found
        ]
        click.echo(json.dumps(rows))
    else:
        console.print(f"{len(found) - len(wrong)} of {len(found)} numbers are the paper's")
    return 1 if wrong or not found else 0


def _library(console: Console, events: Iterable[Event], tasks: int) -> int:
    from workers.demo.library import Closing, Decision, Progress, Reckoning
    from workers.demo.proof import Proof

    console.print(
        f"[bold]{tasks} Python modules, five agents, one of them good.[/]\n"
        "Each task: say which functions, classes and imports a module has. An agent is paid when "
        "its answer\nholds against the source; a failure raises its price, and work goes to the "
        "lowest price.\n\nStarting PostgreSQL, Valkey, workers, agents …"
    )
    told: dict[str, int] = {}
    last_s = -PROGRESS_S
    for event in events:
        match event:
            case Decision():
                _tell(console, event, told)
            case Progress():
                if event.at_s - last_s >= PROGRESS_S or event.ended == event.total:
                    last_s = event.at_s
                    console.print(
                        f"{event.at_s:5.1f}s  {event.ended:4} of {event.total} ended, "
                        f"{event.in_flight} in flight"
                    )
            case Reckoning():
                if not _reckon(console, event, tasks):
                    return 1
            case Closing():
                if not _close(console, event):
                    return 1
            case Proof():
                _prove(console, event)
                return 0
            case _:
                console.print(f"Running. Watch it in Flower: {event.flower_url}")
                console.print(f"Its user and password: {event.flower_login}\n", markup=False)
    return 1


def _tell(console: Console, decision: Decision, told: dict[str, int]) -> None:
    count = told[decision.agent] = told.get(decision.agent, 0) + 1
    if count > TOLD_PER_AGENT:
        return
    more = " [dim](from here on only counted)[/]" if count == TOLD_PER_AGENT else ""
    dearer = decision.price_after > decision.price_before
    effect = (
        f"its price {decision.price_before:.0f} → {decision.price_after:.0f} B"
        if dearer
        else "it may rest"
    )
    console.print(
        f"{decision.at_s:5.1f}s  [yellow]{escape(decision.agent)}[/] {decision.what}: {effect}; "
        f"the task goes elsewhere{more}"
    )


def _reckon(console: Console, end: Reckoning, tasks: int) -> bool:
    """Tell how the job ended; whether everything adds up."""
    console.print(f"\n[bold]Settled in {end.took_s:.1f} s[/]")
    table = Table("agent", "tried", "passed", "failed", "paid (B)", "price now (B)", "")
    for row in end.agents:
        price = "-" if row.price_ub is None else f"{row.price_ub / 1e6:.0f}"
        isolated = (1 + row.f) / row.s > ISOLATED
        table.add_row(
            row.agent, str(row.tries), str(row.passed), str(row.failed), show_b(row.paid_ub), price,
            f"isolated: risk {row.f:.1f}, quality {row.s:.2f}" if isolated else "",
        )  # fmt: skip
    console.print(table)
    paid_ub = sum(row.paid_ub for row in end.agents)
    console.print(
        f"{end.committed} of {tasks} tasks settled, {end.quarantined} given up after their last "
        f"attempt.\nClient R started with {show_b(end.minted_ub)} B and has "
        f"{show_b(end.client_ub)} B; agents earned {show_b(paid_ub)} B;\n1 % of every payment was "
        f"burned: {show_b(end.burned_ub)} B."
    )
    adds_up = end.client_ub + paid_ub + end.burned_ub == end.minted_ub
    for violation in end.violations:
        console.print(f"[red]violation:[/] {escape(violation)}")
    complete = end.committed + end.quarantined == tasks
    if adds_up and complete and not end.violations:
        console.print("[green]Every task has ended once, every balance reconciles.[/]")
        return True
    console.print("[red]The books do not balance, or a task is missing.[/]")
    return False


def _close(console: Console, end: Closing) -> bool:
    """Tell what the end of the epoch took; whether everything still adds up."""
    totals = end.totals
    console.print(
        f"\n[bold]Epoch {end.epoch} is closed[/]\n"
        f"It holds {totals.settled} settlements; {show_b(totals.burned_ub)} B burned in it.\n"
        f"Demurrage took {show_b(totals.demurrage_ub)} B of credit that lay about, charges took "
        f"{show_b(totals.charge_ub)} B from debtors:\nthat is now the commons'. Client R has "
        f"{show_b(end.clients_ub)} B, agents have {show_b(end.agents_ub)} B,\nthe commons "
        f"{show_b(end.commons_ub)} B; with the {show_b(end.burned_ub)} B burned that is again "
        f"{show_b(end.minted_ub)} B."
    )
    for wrong in end.broken:
        console.print(f"[red]wrong:[/] {escape(wrong)}")
    return not end.broken


def _prove(console: Console, proof: Proof) -> None:
    console.print(
        f"\n[bold]The log has signed a checkpoint of {proof.size} leaves[/]\n"
        "It covers the last settlement and the end of the epoch. By the entry in leaf "
        f"{proof.index}, task\n{proof.task} cost {show_b(proof.price_ub)} B, of which "
        f"{proof.agent} was paid {show_b(proof.paid_ub)} B.\n"
        f"[green]Its receipt verifies offline, with nothing but the log's key[/] {proof.key}."
    )


def _lanes(console: Console, events: Iterable[LaneEvent], size: Size) -> int:
    from workers.demo.lanes import Ending, Told

    console.print(
        f"[bold]{size.agents} agents, one lane, cron, and a person with a batch.[/]\n"
        f"Every agent rests {size.cooldown_s:g} s between two calls and bans whoever comes sooner. "
        "When cron and a\nperson use such agents at once, one ban follows the other until all "
        "are down. Here they share\na lane, which has one holder at a time.\n\n"
        "Starting PostgreSQL, Valkey, workers, agents …"
    )
    for event in events:
        match event:
            case Told():
                console.print(f"{event.at_s:5.1f}s  {event.words}", markup=False)
            case Ending():
                return _end_lanes(console, event)
            case _:
                console.print("Running.\n")
    return 1


def _end_lanes(console: Console, end: Ending) -> int:
    console.print("\n[bold]Who held the lane[/]")
    table = Table("token", "holder", "reason", "asked", "from", "to", "ended")
    for row in end.tenures:
        instants = (row[name] for name in ("asked_at", "granted_at", "ended_at"))
        table.add_row(
            str(row["token"]), escape(row["principal"]), escape(row["reason"]),
            *(at.strftime("%H:%M:%S.%f")[:-3] if at else "-" for at in instants),
            row["ended"] or "-",
        )  # fmt: skip
    console.print(table)
    calls = ", ".join(f"{count} of {who}" for who, count in sorted(end.calls.items()))
    slots = ", ".join(f"{count} {state}" for state, count in sorted(end.slots.items()))
    console.print(f"Calls served: {calls}; answered 429: {end.refused}. Cron's slots: {slots}.")
    for wrong in end.broken:
        console.print(f"[red]wrong:[/] {escape(wrong)}")
    if end.broken:
        return 1
    console.print(
        "[green]Cron made room and came back; every item is done; nobody was called too soon.[/]"
    )
    return 0


def _log(console: Console, events: Iterable[LogEvent]) -> int:
    from workers.demo.log import Told

    console.print(
        "[bold]Three replicas check one log.[/]\n"
        "Each reads it over HTTP, replays every entry and signs only what holds. What two of three "
        "have signed\nis final.\n\nStarting PostgreSQL, Valkey, workers, agents …"
    )
    for event in events:
        if isinstance(event, Told):
            console.print(f"{event.at_s:5.1f}s  {event.words}", markup=False)
            continue
        for wrong in event.broken:
            console.print(f"[red]wrong:[/] {escape(wrong)}")
        if event.broken:
            return 1
        console.print(
            f"[green]{event.final} leaves are final. The lie was named by its leaf, and what "
            "convicts it verifies with\nthe log's own key alone.[/]"
        )
        return 0
    return 1
