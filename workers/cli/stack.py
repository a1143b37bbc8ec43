"""`clearlane up`, `down`, `status`: the whole product on this machine (row M09)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
import psutil

from workers import home as homes
from workers import leftovers
from workers.cli import FAILED, INTERRUPTED, say
from workers.cli.session import HomePath
from workers.locate import live_run
from workers.process import Process
from workers.settings import Settings, load_settings
from workers.supervisor import State, Status, Supervisor

if TYPE_CHECKING:
    from rich.console import Console

STOP_TIMEOUT_S = 120.0
POLL_S = 0.1

_data_option = click.option(
    "--data",
    type=HomePath(),
    help="Home of the stack (CLEARLANE_DATA, else .clearlane).",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wiring:
    """What `up` needs from the rest of the product; the group's context object."""

    migrate: Callable[[str], None]
    """Brings the database at a URL to the current schema."""
    check: Callable[[Path], object]
    """Refuses a configuration file that cannot be applied, without a database."""
    configure: Callable[[str, Path], Sequence[str]]
    """Applies a configuration file to the database at a URL; says what it changed."""
    fleet: Callable[[Path], tuple[Sequence[Process], Path]]
    """The sample agents for a home, and the configuration that names them."""
    command: tuple[str, ...]
    """How a copy of this program is started: what `--detach` runs."""


_pass_wiring = click.make_pass_decorator(Wiring)


@click.command()
@_data_option
@click.option(
    "--fleet",
    type=click.Choice(["sample", "none"]),
    default="none",
    show_default=True,
    help="Run the sample agents beside the stack.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, resolve_path=True),
    help="Configuration to apply before anything starts.",
)
@click.option("--detach", is_flag=True, help="Return when everything is ready.")
@_pass_wiring
def up(wiring: Wiring, data: Path | None, fleet: str, config: Path | None, detach: bool) -> None:
    """Start everything and keep it running.

    Without DATABASE_URL or REDIS_URL it starts servers of its own.
    """
    from workers.stack import check_ports

    settings = load_settings()
    if config is not None:
        wiring.check(config)
    if settings.log_policy is not None:
        from workers.logkey import read_policy

        read_policy(settings.log_policy)
    place = data or settings.data
    # Nothing is made where nothing can start. In a home there may be a stack that has the ports.
    if not place.expanduser().exists():
        check_ports(settings)
    home = homes.prepare(place)
    if detach:
        configuration = ["--config", str(config)] if config is not None else []
        _detach(
            home, [*wiring.command, "up", "--data", str(home), "--fleet", fleet, *configuration]
        )
    else:
        _foreground(settings, home, wiring, fleet, config)


@click.command()
@_data_option
def down(data: Path | None) -> None:
    """Stop everything, also what a killed supervisor left behind."""
    home = (data or load_settings().data).expanduser().resolve()
    if not (home / homes.LOCK).is_file():  # nothing ever ran there: leave the directory alone
        _fail(f"nothing is running in {home}", FAILED)
    stopped = _stop_supervisor(home)
    with homes.locked(home, wait_s=5.0):
        count = leftovers.reclaim(home)
        (home / homes.RUN).unlink(missing_ok=True)
        remaining = leftovers.of(home)
    if remaining:
        _fail(f"still running: {', '.join(f'{p.name()} ({p.pid})' for p in remaining)}", FAILED)
    if not stopped and not count:
        _fail(f"nothing is running in {home}", FAILED)
    left = f", with {count} processes that a dead supervisor had left" if count else ""
    click.echo(f"stopped {home}{left}")


@click.command()
@_data_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document, passwords included.")
def status(data: Path | None, as_json: bool) -> None:
    """Show the addresses and the processes."""
    home = (data or load_settings().data).expanduser().resolve()
    run = live_run(home)
    if not run:
        _fail(_why_not_running(home), FAILED)
    if as_json:
        keys = ("database_url", "redis_url", "gateway_url", "flower_url")
        processes = [{k: p[k] for k in ("name", "pid", "state")} for p in run["processes"]]
        click.echo(json.dumps({**{k: run[k] for k in keys}, "processes": processes}))
        return
    from rich.table import Table

    from workers.gateway.local import FILE as TOKEN_FILE

    console = _console()
    for name in ("gateway_url", "flower_url", "database_url", "redis_url"):
        console.print(f"{name.removesuffix('_url'):9} {_masked(run[name])}")
    console.print(f"token     {home / TOKEN_FILE}", markup=False)
    console.print(f"login     {home / homes.FLOWER_LOGIN}", markup=False)
    table = Table("process", "pid", "state", "restarts", "reason", box=None, pad_edge=False)
    for entry in run["processes"]:
        state, pid = entry["state"], entry["pid"]
        style = {"running": "green", "failed": "red"}.get(state, "yellow")
        cells = (str(pid or "-"), f"[{style}]{state}[/]", str(entry["restarts"]), entry["reason"])
        table.add_row(entry["name"], *cells)
    console.print(table)


def _foreground(
    settings: Settings, home: Path, wiring: Wiring, fleet: str, config: Path | None
) -> None:
    from workers.gateway.local import FILE as TOKEN_FILE
    from workers.gateway.local import keep_token
    from workers.logkey import keep_key
    from workers.logs import configure_logs
    from workers.stack import plan, policy

    configure_logs(settings)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # the plan, not every step of it
    console = _console()
    configurations = [] if config is None else [config]

    def prepare(database_url: str) -> None:
        wiring.migrate(database_url)
        for path in configurations:
            for change in wiring.configure(database_url, path):
                console.print(change, markup=False)
        keep_token(database_url, home, datetime.now(UTC))
        # What is settled is logged with and without it, and signed when it is there.
        for fault in keep_key(database_url, settings, home, datetime.now(UTC)):
            console.print(f"log key      {fault}", style="red", markup=False)

    def report(status: Status) -> None:
        if status.state is State.RUNNING:
            console.print(f"{status.name:12} ready  (pid {status.pid})")

    with homes.locked(home):
        leftovers.reclaim(home)
        extra: Sequence[Process] = ()
        if fleet == "sample":
            extra, path = wiring.fleet(home)
            configurations.insert(0, path)
        stack = plan(settings, home, prepare=prepare, extra=extra)
        supervisor = Supervisor(
            home=home,
            stages=stack.stages,
            addresses=stack.addresses,
            policy=policy(settings),
            report=report,
        )

        def on_ready() -> None:
            console.print(f"gateway      {stack.addresses.gateway_url}")
            console.print(f"token        {home / TOKEN_FILE}", markup=False)
            console.print(f"flower       {stack.addresses.flower_url}")
            console.print(f"login        {home / homes.FLOWER_LOGIN}", markup=False)
            console.print(f"database     {_masked(stack.addresses.database_url)}")
            console.print(f"redis        {_masked(stack.addresses.redis_url)}")

        asyncio.run(supervisor.run(on_ready))
        if not supervisor.was_ready:
            _fail("interrupted before everything was ready; all is stopped", INTERRUPTED)


def _detach(home: Path, argv: list[str]) -> None:
    """Run `up` as a daemon; pass on what it says until everything is ready."""
    with homes.locked(home):  # refuses here already when a stack runs
        pass
    log = homes.open_log(home, "supervisor")
    with (home / "log" / "supervisor.log").open("rb") as said:
        said.seek(0, os.SEEK_END)
        daemon = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        os.close(log)
        try:
            while daemon.poll() is None and not _is_complete(home, daemon.pid):
                time.sleep(POLL_S)
                click.echo(said.read().decode(errors="replace"), nl=False)
        except KeyboardInterrupt:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait()
            _fail("interrupted; all is stopped", INTERRUPTED)
        click.echo(said.read().decode(errors="replace"), nl=False)
    if daemon.returncode is not None:
        sys.exit(daemon.returncode if daemon.returncode > 0 else FAILED)


def _is_complete(home: Path, pid: int) -> bool:
    supervisor = homes.read_json(home / homes.RUN).get("supervisor", {})
    return bool(supervisor.get("pid") == pid and supervisor.get("complete"))


def _stop_supervisor(home: Path) -> bool:
    """End the supervisor that owns the home, if there is one: in order, by force if it must be."""
    pid = homes.owner(home)
    if pid is None:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        supervisor = psutil.Process(pid)
        _terminate(supervisor)
        for late in leftovers.wait_gone([supervisor], STOP_TIMEOUT_S):
            late.kill()
            leftovers.wait_gone([late], STOP_TIMEOUT_S)
    return True


def _terminate(supervisor: psutil.Process) -> None:
    try:
        supervisor.terminate()
    except psutil.AccessDenied as error:
        raise PermissionError(f"process {supervisor.pid} belongs to somebody else") from error


def _why_not_running(home: Path) -> str:
    if homes.owner(home) is not None:
        return f"{home} is still starting; see {home / 'log' / 'supervisor.log'}"
    left = len(leftovers.of(home)) if home.is_dir() else 0
    if left:
        return (
            f"the supervisor of {home} is gone and left {left} processes; "
            "`clearlane down` ends them, `clearlane up` ends them and starts again"
        )
    return f"nothing is running in {home}; start it with `clearlane up --detach`"


def _masked(url: str) -> str:
    password = urlsplit(url).password
    return url.replace(f":{password}@", ":***@", 1) if password else url


def _console() -> Console:
    from rich.console import Console

    # A line stays a line, also in a file or a narrow terminal.
    return Console(highlight=False, soft_wrap=True, markup=True)


def _fail(message: str, code: int) -> None:
    say(message)
    sys.exit(code)
