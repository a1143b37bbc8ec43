"""`python -m bench`: every section by turns on the same servers, then the report."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import click
import psycopg
import redis
from rich.console import Console

from bench import (
    backlog,
    bare,
    calls,
    cores,
    durable,
    entries,
    epochs,
    fleet,
    lanes,
    load,
    log,
    memory,
    pipelines,
    replay,
    report,
    settling,
    waiting,
    windows,
)
from bench.processes import ROOT
from bench.section import Bench, LeftOutError, Section, Trial
from bench.stand import PROFILED
from ledger.errors import ClearlaneError
from tests.servers import embedded_servers

HERE = Path(__file__).resolve().parent
HOME = Path(".clearlane")  # where `up` keeps its data: the same disk
PEERS = ROOT / ".venv-bench" / "bin" / "python"

FAILURES = (RuntimeError, AssertionError, ClearlaneError, psycopg.Error, redis.RedisError)

SECTIONS = {
    module.SECTION.name: module.SECTION
    for module in (
        *(bare, durable, pipelines, backlog, calls, load, cores, fleet, settling),
        *(lanes, windows, log, replay, epochs, entries, waiting, memory),
    )
}


def _pick(names: Sequence[str], *, long: bool) -> list[Section]:
    """The sections asked for by name, else all that are long, or all that are not."""
    if names:
        return [section for section in SECTIONS.values() if section.name in names]
    return [section for section in SECTIONS.values() if section.long is long]


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nSections:\n"
    + "\n".join(
        f"  {name:<9} {section.about}{' (long)' if section.long else ''}"
        for name, section in SECTIONS.items()
    ),
)
@click.option("--only", multiple=True, metavar="NAME", help="This section alone; may be repeated.")
@click.option("--long", is_flag=True, help="The long sections instead of the others.")
@click.option("--quick", is_flag=True, help="A smoke run: figures without weight.")
@click.option(
    "--pgledger",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="pgledger.sql of a checkout of pgledger, for the section `settling`.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the report goes: bench/results, with --quick or --profile .clearlane/bench.",
)
@click.option(
    "--profile",
    type=click.Choice(PROFILED),
    help="Run this process of ours under cProfile: PROCESS.prof of its last stand, beside the "
    "report. Its figures are without weight.",
)
def main(
    *,
    only: tuple[str, ...],
    long: bool,
    quick: bool,
    pgledger: Path | None,
    out: Path | None,
    profile: str | None,
) -> None:
    """Measure Clearlane beside its peers on embedded servers: some 40 minutes for all."""
    unknown = sorted(set(only) - SECTIONS.keys())
    if unknown:
        raise click.BadParameter(
            f"{unknown[0]!r} is no section; choose from {', '.join(SECTIONS)}", param_hint="--only"
        )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    console = Console()
    HOME.mkdir(exist_ok=True)
    # Figures without weight never replace those of a full run.
    directory = out or (HOME / "bench" if quick or profile else HERE / "results")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=HOME) as scratch:
            found = _measure(
                Path(scratch),
                _pick(only, long=long),
                pgledger,
                profile=(profile, directory.resolve() / f"{profile}.prof") if profile else None,
                quick=quick,
            )
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        raise SystemExit(130) from None
    report.show(console, found)
    name = "-".join(only) or ("long" if long else "main")
    for path in report.write(directory, name, found):
        console.print(f"written: {path}")
    if found.left_out:
        raise SystemExit(1)


def _stop(_number: int, _frame: FrameType | None) -> None:
    """End the run; a second Ctrl-C must not cut short the end of the others."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _measure(
    directory: Path,
    sections: Sequence[Section],
    pgledger: Path | None,
    *,
    profile: tuple[str, Path] | None,
    quick: bool,
) -> report.Report:
    say = _teller()
    trials: dict[str, list[Trial]] = {section.name: [] for section in sections}
    left_out: dict[str, str] = {}
    with embedded_servers(directory) as (database_url, redis_url):
        bench = Bench(
            database_url=database_url,
            redis_url=redis_url,
            place=directory.resolve(),
            peers=PEERS,
            pgledger=pgledger,
            profile=profile,
            quick=quick,
            say=say,
        )
        about = report.machine(
            _versions(database_url, redis_url) | report.locked(HERE / "requirements.lock"),
            sys.argv[1:],
        )
        rounds = max((section.trials for section in sections), default=0)
        for number in range(1, 2 if quick else rounds + 1):
            for section in sections:
                if number > section.trials or section.name in left_out:
                    continue
                say(f"{section.name}, trial {number}")
                try:
                    trials[section.name].append(section.measure(bench, number))
                except LeftOutError as error:
                    left_out[section.name] = str(error)
                    say(f"{section.name} is left out: {error}")
                except FAILURES as error:
                    # What the others measured is worth keeping; this section's trials are not.
                    trials[section.name].clear()
                    left_out[section.name] = f"it failed: {str(error).partition(chr(10))[0]}"
                    say(f"{section.name} failed: {error}")
    return report.Report(about=about, sections=sections, trials=trials, left_out=left_out)


def _teller() -> Callable[[str], None]:
    """Progress on stderr: the report alone goes to stdout."""
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {line}", file=sys.stderr, flush=True)

    return say


def _versions(database_url: str, redis_url: str) -> dict[str, str]:
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    with redis.Redis.from_url(redis_url) as client:
        info: dict[str, Any] = client.info("server")
    valkey = info.get("valkey_version") or info["redis_version"]
    return {"postgresql": str(row[0]) if row else "unknown", "valkey": str(valkey)}


if __name__ == "__main__":
    main()
