"""What the processes write for people and for machines: named attempts, no control characters."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

import workers.watch
from scheduler.step_times import StepTimes
from workers import logs
from workers.logs import configure_logs, visible
from workers.settings import Settings
from workers.tallies import Tallies
from workers.watch import Watch

HOSTILE = "\x1b[2J\x07\x00\x7f\x9b31m\u202egnirts\r\n"


Configure = Callable[..., io.StringIO]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Configures logs and says where the lines go; what was configured before is put back."""
    root = logging.getLogger()
    handlers, level, kept = root.handlers[:], root.level, structlog.get_config()
    monkeypatch.setattr(workers.watch, "log", structlog.get_logger())  # they keep their first form

    def configured(**given: Any) -> io.StringIO:
        with redirect_stderr(io.StringIO()) as found:
            configure_logs(Settings(**given))
        return found

    yield configured
    root.handlers[:], root.level = handlers, level
    structlog.configure(**kept)


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_for_machines_is_json_and_holds_no_control_character(
    configure: Configure,
) -> None:
    out = configure()
    structlog.get_logger().info("agent said", detail=HOSTILE)
    logging.getLogger("a.library").warning("it said %s", HOSTILE)
    assert all(c.isprintable() for c in out.getvalue().replace("\n", ""))
    ours, theirs = lines(out)
    assert ours["detail"] == HOSTILE
    assert theirs["event"] == f"it said {HOSTILE}"


def test_a_terminal_gets_nothing_that_it_would_obey() -> None:
    event = visible(
        None, "info", {"event": f"said {HOSTILE}", "by": HOSTILE, "n": 1, "l": ["\x1b"]}
    )
    assert event == {
        "event": r"said \x1b[2J\x07\x00\x7f\x9b31m\u202egnirts\r\n",
        "by": r"\x1b[2J\x07\x00\x7f\x9b31m\u202egnirts\r\n",
        "n": 1,
        "l": ["\x1b"],  # shown by its repr, which spells it out
    }
    trace = visible(None, "error", {"exception": "Traceback\n\tline\x1b[2J"})
    assert trace == {"exception": "Traceback\n\tline\\x1b[2J"}
    (first, last) = logs._renderers(is_terminal=True)
    shown = last(None, "info", first(None, "info", {"event": HOSTILE, "level": "info"}))
    assert isinstance(shown, str)
    assert "\x1b[2J" not in shown


@pytest.fixture
def watch() -> Watch:
    """One that carries nothing anywhere: it is never started."""
    return Watch(Tallies(StepTimes(None)), None, lambda: datetime.now(UTC))  # type: ignore[arg-type]


def test_every_line_of_a_step_names_its_attempts(configure: Configure, watch: Watch) -> None:
    out = configure(log_level="DEBUG")
    log = structlog.get_logger("tests")
    watch.begin("saga.commit", [[["0199-a", 2], ["0199-b", 1]]])
    log.warning("waiting for a server")
    logging.getLogger("a.library").error("it failed")
    watch.end(failed=False)
    log.info("between two steps")
    watch.begin("cron.sweep", [])
    watch.end(failed=True)
    *within, ended, between, swept = lines(out)
    for line in (*within, ended):
        assert (line["step"], line["attempts"], line["first"]) == ("saga.commit", 2, "0199-a:2")
    assert (ended["event"], ended["failed"]) == ("step ended", False)
    assert not {"step", "attempts", "first"} & between.keys()
    assert (swept["step"], swept["failed"]) == ("cron.sweep", True)
    assert "first" not in swept


@pytest.mark.parametrize("args", [[], ["x"], [{}], [[]], [[7, HOSTILE]], [[[HOSTILE]]], [[None]]])
def test_a_message_may_hold_anything(
    configure: Configure, watch: Watch, args: list[object]
) -> None:
    out = configure(log_level="DEBUG")
    watch.begin("saga.reserve", args)
    watch.end(failed=False)
    (line,) = lines(out)
    assert str(line.get("first", "")).isprintable()


def test_what_is_not_asked_for_is_not_written(configure: Configure, watch: Watch) -> None:
    out = configure(log_level="INFO")
    watch.begin("saga.commit", [[["a", 1]]])
    watch.end(failed=False)
    assert out.getvalue() == ""
