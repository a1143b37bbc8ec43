"""`python -m bench [--quick]`: bare Celery and Clearlane by turns, then the report."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import click
import psycopg
import redis
from rich.console import Console

from bench import celery_chain, drain, report
from tests.servers import embedded_servers


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How much one run measures. `share` shortens the bare backlogs."""

    trials: int
    tasks: int
    singles: int
    share: float


RESULTS = Path(__file__).resolve().parent / "results"
HOME = Path(".clearlane")  # where `up` keeps its data: the same disk

FULL = Size(trials=3, tasks=20_000, singles=200, share=1.0)
QUICK = Size(trials=1, tasks=1_000, singles=20, share=0.05)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="A smoke run: figures without weight.")
def main(quick: bool) -> None:
    """Measure Clearlane beside bare Celery on embedded servers, about five minutes."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    console = Console()
    HOME.mkdir(exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=HOME) as directory:
            about, trials = _measure(Path(directory), QUICK if quick else FULL, console)
    except KeyboardInterrupt:
        console.print("stopped; nothing was written")
        raise SystemExit(130) from None
    summary = report.summarise(trials)
    report.show(console, summary)
    # Figures without weight never replace those of a full run.
    for path in report.write(HOME / "bench" if quick else RESULTS, about, trials, summary):
        console.print(f"written: {path}")


def _stop(_number: int, _frame: FrameType | None) -> None:
    """End the run; a second Ctrl-C must not cut short the end of the others."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _measure(
    directory: Path, size: Size, console: Console
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    with embedded_servers(directory) as (database_url, redis_url):
        place = directory.resolve()
        about = report.machine(_versions(database_url, redis_url), sys.argv[1:])
        trials: list[dict[str, Any]] = []
        for number in range(1, size.trials + 1):
            for setup in celery_chain.SETUPS:
                trials.append(
                    celery_chain.trial(
                        setup,
                        redis_url=redis_url,
                        place=place,
                        chains=int(setup.chains * size.share),
                        singles=size.singles,
                    )
                )
                _say(console, number, trials)
            trials.append(
                drain.trial(
                    number,
                    database_url=database_url,
                    redis_url=redis_url,
                    place=place,
                    tasks=size.tasks,
                    singles=size.singles,
                )
            )
            _say(console, number, trials)
    return about, trials


def _say(console: Console, number: int, trials: Sequence[dict[str, Any]]) -> None:
    last = trials[-1]
    console.print(
        f"trial {number}, {last['setup']}: {last['per_s']:,.0f}/s in {last['wall_s']:.1f} s, "
        f"alone p50 {last['alone_p50_ms']:.1f} ms",
        highlight=False,
    )


def _versions(database_url: str, redis_url: str) -> dict[str, str]:
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    with redis.Redis.from_url(redis_url) as client:
        info: dict[str, Any] = client.info("server")
    valkey = info.get("valkey_version") or info["redis_version"]
    return {"postgresql": str(row[0]) if row else "unknown", "valkey": str(valkey)}


if __name__ == "__main__":
    main()
