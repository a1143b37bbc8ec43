"""The bench's arithmetic, its verdicts and its report; the measuring itself is not tested here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench import __main__ as bench_main
from bench import agent, backlog, cost, log, report, stats, windows
from bench.goals import GOALS, judge
from bench.section import Bench, Grid, LeftOutError, Section


def test_a_quantile_is_a_value_that_was_measured():
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert stats.quantile(values, 0.5) == 3.0
    assert stats.quantile(values, 0.99) == 5.0
    assert stats.quantile(values, 0.2) == 1.0
    assert stats.quantile([7.0], 0.5) == 7.0


def test_latency_is_the_median_of_the_trials_quantiles():
    trials = [[1.0] * 99 + [50.0] * 2, [2.0] * 101, [3.0] * 99 + [70.0] * 2]
    assert stats.latency(trials) == {"p50_ms": 2.0, "p99_ms": 50.0}


def test_a_growing_queue_shows_as_drift():
    assert stats.drift([5.0] * 30) == 1.0
    assert stats.drift([5.0] * 10 + [10.0] * 10 + [40.0] * 10) == 8.0
    assert stats.drift([3.0]) == 1.0


def test_arrivals_are_repeatable_in_order_and_as_many_as_asked_for():
    found = stats.poisson(1_000.0, 10.0, seed=1)
    assert found == stats.poisson(1_000.0, 10.0, seed=1)
    assert found != stats.poisson(1_000.0, 10.0, seed=2)
    assert found == sorted(found)
    assert found[0] > 0
    assert found[-1] < 10.0
    assert len(found) == pytest.approx(10_000, rel=0.05)


def test_what_is_due_is_what_has_arrived_and_no_more_than_fits():
    arrivals_s = [0.1, 0.2, 0.3, 0.9]
    assert stats.due(arrivals_s, 0, 0.05, 10) == 0
    assert stats.due(arrivals_s, 0, 0.3, 10) == 3
    assert stats.due(arrivals_s, 0, 0.3, 2) == 2
    assert stats.due(arrivals_s, 3, 5.0, 10) == 1


def test_a_trial_without_a_part_counts_as_none_of_it():
    assert stats.medians([{"a": 1.0}, {"a": 3.0, "b": 5.0}, {"a": 2.0}]) == {"a": 2.0, "b": 0.0}


def test_a_step_costs_its_processes_and_their_backends():
    used = {
        "process": {"reserve1": 1.0, "reserve2": 2.0, "postgres": 9.0, "valkey": 9.0},
        "backend": {"reserve1": 0.5, cost.REST: 0.25},
        "valkey": {"scripts": 1.0, "messages": 1.0},
    }
    assert cost.by_step(used) == {
        "reserve": {"process": 3.0, "backend": 0.5},
        cost.REST: {"process": 0.0, "backend": 0.25},
    }
    assert backlog.per_task({"process": {"a": 2.0}}, 1_000) == {"process": {"a": 2_000.0}}


def test_the_agent_answers_each_whole_request_once():
    request = b"POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 3\r\n\r\nabc"
    whole = bytearray(request * 2 + request[:-1])
    assert agent.requests_in(whole) == 2
    assert bytes(whole) == request[:-1]
    whole += b"c"
    assert agent.requests_in(whole) == 1
    assert not whole


def test_a_window_is_used_for_a_cooldown_from_each_start():
    found = windows.used([[9.0, 19.5, 30.0], [11.0]], 10.0, 30.0, 10.0)
    # The first agent stood still from 19.0 to 19.5 and from 29.5, the second to 11 and from 21.
    assert found["share"] == pytest.approx((19.0 + 10.0) / 40.0)
    assert found["starts"] == 2
    assert found["late_ms"] == pytest.approx([500.0])


def test_what_a_window_loses_has_three_parts():
    accepted, opened = [10.010, 20.070], {10_000: 20_020, 20_050: 30_080}
    (found,) = windows.parts(accepted, opened, 10.0)
    assert found == pytest.approx({"answer": 10.0, "turn": 30.0, "call": 20.0, "at": 20.070})
    late_ms = windows.used([accepted], 0.0, 30.0, 10.0)["late_ms"]
    assert late_ms == pytest.approx([found["answer"] + found["turn"] + found["call"]])


def test_what_the_log_costs_is_shown_with_receipts_by_its_length():
    row = {"per_s": 10_000.0, "cpu_us": 99.0, "made_per_s": 400.0, "checked_per_s": 50_000.0}
    trials = [
        {
            "chunks": {},
            "sizes": {"10000": row | {"receipts_made_per_s": n, "receipts_checked_per_s": 9 * n}},
        }
        for n in (200.0, 300.0, 900.0)
    ]
    _, grid = log.grids(log.summarise(trials))
    assert [dict(zip(grid.head, cells, strict=True)) for cells in grid.rows] == [
        {
            "leaves": "10,000",
            "settlements/s": "10,000",
            "CPU µs": "99",
            "proofs made/s": "400",
            "proofs checked/s": "50,000",
            "receipts made/s": "300",
            "receipts checked/s": "2,700",
        }
    ]


def _figures(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "backlog": {"per_s": 5_000.0, "alone": {"p50_ms": 9.0, "p99_ms": 12.0}},
        "bare": {"chains_per_s": 400.0, "p50_ms": 4.0, "p99_ms": 6.0},
        "dbos": {"per_s": 250.0},
        "settling": {"settlements_per_s": 20_000.0, "transfers_per_s": None},
    }
    return found | changes


def test_goals_are_judged_by_their_ratios():
    verdicts = {verdict.name: verdict for verdict in judge(_figures())}
    bare, dbos, p50, p99 = verdicts.values()
    assert (bare.ratio, bare.wanted, bare.verdict) == (12.5, "≥ 10", "pass")
    assert (dbos.ratio, dbos.wanted, dbos.verdict) == (20.0, "≥ 25", "FAIL")
    assert (p50.ratio, p50.wanted, p50.verdict) == (2.25, "≤ 3", "pass")
    assert (p99.ratio, p99.verdict) == (2.0, "pass")


def test_a_goal_without_its_peer_is_not_judged():
    names = [verdict.name for verdict in judge(_figures())]
    assert not any("Dramatiq" in name or "pgledger" in name for name in names)
    found = judge(_figures(settling={"settlements_per_s": 20_000.0, "transfers_per_s": 5_000.0}))
    assert [goal.ratio for goal in found if "pgledger" in goal.name] == [4.0]


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.name)
def test_every_goal_has_one_bound_and_sections_that_exist(goal):
    assert (goal.least is None) != (goal.most is None)
    assert set(goal.needs) <= set(bench_main.SECTIONS)
    bound = goal.least or goal.most
    assert goal.verdict(bound) == "pass"
    assert {goal.verdict(bound * 0.9), goal.verdict(bound * 1.1)} == {"pass", "FAIL"}


def _section(name: str) -> Section:
    return Section(
        name=name,
        about="counts",
        measure=lambda _bench, number: {"n": number},
        summarise=lambda trials: {"n": sum(trial["n"] for trial in trials)},
        grids=lambda figures: [Grid(title="Counted", head=("n",), rows=[(str(figures["n"]),)])],
        notes=(f"{name} counts.",),
    )


def _report() -> report.Report:
    return report.Report(
        about={
            "command": "python -m bench",
            "date": "2026-01-01",
            "cpu": "a cpu",
            "cores": 2,
            "memory_gib": 1,
            "load_before": 0,
            "versions": {"python": "3.11"},
        },
        sections=[_section("one"), _section("two")],
        trials={"one": [{"n": 1}, {"n": 2}], "two": []},
        left_out={"two": "there is no peer"},
    )


def test_a_report_says_what_was_measured_how_and_what_is_missing(tmp_path: Path):
    data, page = report.write(tmp_path, "main", _report())
    text = page.read_text()
    assert "`python -m bench`, 2026-01-01, a cpu, 2 cores" in text
    assert "## Counted\n\n| n |\n| --- |\n| 3 |\n" in text
    assert "- one counts.\n" in text
    assert "two counts" not in text
    assert "- Left out: `two`: there is no peer.\n" in text
    content = json.loads(data.read_text())
    assert content["figures"] == {"one": {"n": 3}}
    assert content["trials"]["one"] == [{"n": 1}, {"n": 2}]


def test_long_series_are_kept_as_few_values_in_order():
    kept = report.thinned({"ms": list(range(1001)), "n": [1, 2], "name": "one"})
    assert kept == {"ms": list(range(0, 1001, 6)), "n": [1, 2], "name": "one"}


def test_the_lock_file_says_what_the_peers_are():
    lock = Path(bench_main.HERE / "requirements.lock")
    assert set(report.locked(lock)) == set(report.PEERS)
    assert "://" not in lock.read_text()


def test_peers_that_are_not_installed_are_named_with_the_remedy(tmp_path: Path):
    bench = Bench(
        database_url="",
        redis_url="",
        place=tmp_path,
        peers=tmp_path / ".venv-bench" / "bin" / "python",
        pgledger=None,
        profile=None,
        quick=True,
        say=lambda _line: None,
    )
    with pytest.raises(LeftOutError, match=r"no \.venv-bench: run `make bench-peers`"):
        bench.require_peers()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--only", "nothing"], "'nothing' is no section; choose from bare, dbos"),
        (["--pgledger", "/nowhere"], "'/nowhere' does not exist"),
        (["--profile", "postgres"], "'postgres' is not one of 'reserve1', 'execute1'"),
        (["--loud"], "No such option '--loud'"),
    ],
)
def test_wrong_options_end_with_one_clear_error(options: list[str], reason: str):
    done = CliRunner().invoke(bench_main.main, options)
    assert done.exit_code == 2
    assert reason in done.output


def test_long_sections_run_when_asked_for():
    names = [section.name for section in bench_main._pick([], long=False)]
    long = [section.name for section in bench_main._pick([], long=True)]
    assert long == ["entries", "waiting", "memory"]
    assert not set(names) & set(long)
    assert [section.name for section in bench_main._pick(["memory"], long=False)] == ["memory"]
