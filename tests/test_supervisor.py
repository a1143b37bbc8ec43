"""The supervisor of `up`: order, readiness, restarts within a budget, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from workers import home as homes
from workers import leftovers
from workers.cli import main
from workers.restarts import RestartPolicy, next_start

PROGRAM = str(Path(__file__).with_name("supervised.py"))
FOREVER = "import time\nwhile True: time.sleep(60)"
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
WAIT_S = 60.0


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    place = homes.prepare(tmp_path / "home")
    yield place
    leftovers.reclaim(place)


@pytest.fixture
def start(home: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a supervisor of the given stages; it is gone at the end, whatever happened."""
    started: list[subprocess.Popen[str]] = []

    def run(*stages: list[dict[str, Any]], **policy: float) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, PROGRAM, str(home)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(child)
        assert child.stdin is not None
        child.stdin.write(json.dumps({"stages": stages, "policy": policy}))
        child.stdin.close()
        return child

    yield run
    for child in started:
        child.kill()
        child.wait()


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (value := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)
    return value


def run_file(home: Path) -> dict[str, Any]:
    return homes.read_json(home / homes.RUN)


def entry(home: Path, name: str) -> dict[str, Any]:
    return next((p for p in run_file(home).get("processes", []) if p["name"] == name), {})


def complete(home: Path) -> bool:
    return bool(run_file(home).get("supervisor", {}).get("complete"))


def ended(child: subprocess.Popen[str]) -> tuple[int, str]:
    assert child.stderr is not None
    message = child.stderr.read()
    return child.wait(WAIT_S), message


def test_a_stage_waits_until_the_one_before_is_ready(home: Path, tmp_path: Path, start) -> None:
    ready = tmp_path / "ready"
    start(
        [{"name": "first", "code": FOREVER, "ready": str(ready)}],
        [{"name": "second", "code": FOREVER}],
    )
    until(lambda: entry(home, "first").get("pid"))
    assert entry(home, "first")["state"] == "starting"
    assert entry(home, "second") == {}
    ready.touch()
    until(lambda: complete(home))
    assert entry(home, "first")["state"] == entry(home, "second")["state"] == "running"


def test_the_run_file_names_each_incarnation_and_is_private(home: Path, start) -> None:
    child = start([{"name": "a", "code": FOREVER}])
    until(lambda: complete(home))
    assert stat.S_IMODE((home / homes.RUN).stat().st_mode) == 0o600
    run = run_file(home)
    assert run["supervisor"]["pid"] == child.pid
    assert leftovers.identify(run["processes"][0]["pid"], run["processes"][0]["created"])
    assert not leftovers.identify(run["processes"][0]["pid"], run["processes"][0]["created"] + 9)


def test_it_stops_in_reverse_order_and_leaves_nothing(home: Path, tmp_path: Path, start) -> None:
    order = tmp_path / "order"
    code = (
        "import signal, sys\n"
        "def end(*_):\n"
        f"    open({str(order)!r}, 'a').write('{{}}')\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "open({!r}, 'w').close()\n" + FOREVER
    )
    stages = [
        [{"name": n, "code": code.format(n, str(tmp_path / n)), "ready": str(tmp_path / n)}]
        for n in "abc"
    ]
    child = start(*stages)
    until(lambda: complete(home))
    child.terminate()
    assert ended(child)[0] == 0
    assert order.read_text() == "cba"
    assert leftovers.of(home) == []
    assert not (home / homes.RUN).exists()


def test_who_ignores_the_signal_is_killed_with_its_children(
    home: Path, tmp_path: Path, start
) -> None:
    ready = tmp_path / "ready"
    # The grandchild leaves its parent's session, so only its mark tells whose it is.
    code = (
        STUBBORN
        + "import subprocess, sys\n"
        + f"subprocess.Popen([sys.executable, '-c', {(STUBBORN + FOREVER)!r}], "
        + "start_new_session=True)\n"
        + f"open({str(ready)!r}, 'w').close()\n"
        + FOREVER
    )
    child = start([{"name": "a", "code": code, "ready": str(ready), "stop_timeout_s": 0.2}])
    until(lambda: complete(home))
    assert len(leftovers.workers_of(home)) == 2
    child.terminate()
    assert ended(child)[0] == 0
    assert leftovers.of(home) == []


def test_a_second_interrupt_kills_at_once(home: Path, tmp_path: Path, start) -> None:
    asked = tmp_path / "asked"
    code = (
        "import signal\n"
        f"signal.signal(signal.SIGTERM, lambda *_: open({str(asked)!r}, 'w').close())\n"
        f"open({str(tmp_path / 'ready')!r}, 'w').close()\n" + FOREVER
    )
    ready = str(tmp_path / "ready")
    child = start([{"name": "a", "code": code, "ready": ready, "stop_timeout_s": 100}])
    until(lambda: complete(home))
    child.send_signal(signal.SIGINT)
    until(asked.exists)
    assert child.poll() is None
    child.send_signal(signal.SIGINT)
    assert ended(child)[0] == 0
    assert leftovers.of(home) == []


def test_a_dead_process_is_replaced_and_its_children_go_with_it(home: Path, start) -> None:
    code = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {FOREVER!r}])\n"
    start([{"name": "a", "code": code + FOREVER}])
    until(lambda: complete(home))
    until(lambda: len(leftovers.workers_of(home)) == 2)
    old = leftovers.workers_of(home)
    os.kill(entry(home, "a")["pid"], signal.SIGKILL)
    until(lambda: entry(home, "a")["restarts"] == 1 and entry(home, "a")["state"] == "running")
    assert leftovers.wait_gone(old, WAIT_S) == []


def test_a_process_that_keeps_dying_stays_down_and_its_neighbour_lives(
    home: Path, tmp_path: Path, start
) -> None:
    starts, die = tmp_path / "starts", tmp_path / "die"
    code = (
        f"import os, time\nopen({str(starts)!r}, 'a').write('x')\n"
        f"open({str(tmp_path / 'ready')!r}, 'w').close()\n"
        f"while not os.path.exists({str(die)!r}): time.sleep(0.02)\n"
        "os._exit(3)"
    )
    start(
        [{"name": "a", "code": code, "ready": str(tmp_path / "ready")}],
        [{"name": "b", "code": FOREVER}],
        budget=3,
        first_s=0.05,
    )
    until(lambda: complete(home))
    die.touch()
    until(lambda: entry(home, "a")["state"] == "failed")
    assert starts.read_text() == "xxx"
    assert entry(home, "a")["pid"] is None
    assert "exit code 3" in entry(home, "a")["reason"]
    assert entry(home, "b")["state"] == "running"


def test_a_process_that_cannot_start_stops_the_rest_and_says_why(home: Path, start) -> None:
    child = start(
        [{"name": "good", "code": FOREVER}],
        [
            {"name": "bad", "code": "import sys; sys.exit('no such table')", "settle_s": 60},
            {"name": "neighbour", "code": FOREVER, "settle_s": 60},
        ],
    )
    code, message = ended(child)
    assert code != 0
    assert "bad did not start: ended with exit code 1" in message
    assert "no such table" in message
    assert leftovers.of(home) == []
    assert not (home / homes.RUN).exists()


def test_a_process_that_is_never_ready_is_not_left_behind(home: Path, start) -> None:
    child = start(
        [{"name": "a", "code": FOREVER, "ready": "/nonexistent/x", "ready_timeout_s": 0.5}]
    )
    code, message = ended(child)
    assert code != 0
    assert "a did not start: not ready after 0.5 s" in message
    assert leftovers.of(home) == []


def test_a_process_that_a_signal_stopped_is_told_and_restarted(home: Path, start) -> None:
    start([{"name": "a", "code": FOREVER}], stopped_max_s=4.0)
    until(lambda: complete(home))
    old = entry(home, "a")["pid"]
    os.kill(old, signal.SIGSTOP)
    until(lambda: "stopped by a signal" in entry(home, "a")["reason"])
    until(lambda: entry(home, "a")["restarts"] == 1 and entry(home, "a")["state"] == "running")
    assert entry(home, "a")["pid"] != old
    assert entry(home, "a")["reason"] == ""


def test_a_process_that_goes_on_by_itself_is_left_alone(home: Path, start) -> None:
    start([{"name": "a", "code": FOREVER}], stopped_max_s=1000.0)
    until(lambda: complete(home))
    pid = entry(home, "a")["pid"]
    os.kill(pid, signal.SIGSTOP)
    until(lambda: entry(home, "a")["state"] == "stopped")
    os.kill(pid, signal.SIGCONT)
    until(lambda: entry(home, "a")["state"] == "running")
    assert (entry(home, "a")["pid"], entry(home, "a")["restarts"]) == (pid, 0)


def test_a_log_that_grows_while_its_process_runs_is_put_aside(home: Path, start) -> None:
    count = homes.LOG_BYTES_MAX // 1000 + 100
    code = f"for n in range({count}): print('x' * 999, flush=True)\n"
    again = "import time\nwhile True: print('again', flush=True); time.sleep(0.1)"
    start([{"name": "a", "code": code + again}])
    path = home / "log" / "a.log"
    aside = path.with_suffix(".log.1")
    until(aside.exists)
    assert aside.stat().st_size > homes.LOG_BYTES_MAX
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    until(lambda: "again" in path.read_text())
    assert path.stat().st_size < homes.LOG_BYTES_MAX
    assert path.read_bytes().count(b"\0") == 0  # it appends where the file ends now


def test_two_supervisors_never_own_one_home(home: Path, start) -> None:
    first = start([{"name": "a", "code": FOREVER}])
    until(lambda: complete(home))
    code, message = ended(start([{"name": "a", "code": FOREVER}]))
    assert code != 0
    assert f"a stack already runs in {home}" in message
    assert homes.owner(home) == first.pid
    assert entry(home, "a")["state"] == "running"


def test_after_kill_9_the_next_one_ends_what_was_left(home: Path, start) -> None:
    first = start([{"name": "a", "code": FOREVER}])
    until(lambda: complete(home))
    first.kill()
    first.wait()
    left = leftovers.of(home)
    assert len(left) == 1
    start([{"name": "a", "code": FOREVER}])
    until(lambda: complete(home) and entry(home, "a")["pid"] != left[0].pid)
    assert not leftovers.is_alive(left[0])


def test_who_only_got_the_pid_of_a_dead_process_is_left_alone(home: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", FOREVER]) as innocent:
        claim = {"pid": innocent.pid, "created": psutil.Process(innocent.pid).create_time() - 60}
        (home / homes.RUN).write_text(json.dumps({"processes": [claim]}))
        assert leftovers.reclaim(home) == 0
        assert innocent.poll() is None
        innocent.kill()


def test_down_after_kill_9_leaves_nothing(home: Path, start) -> None:
    first = start([{"name": "a", "code": FOREVER}])
    until(lambda: complete(home))
    first.kill()
    first.wait()
    asked = CliRunner().invoke(main, ["status", "--data", str(home)])
    assert asked.exit_code == 1
    assert "is gone and left 1 processes" in asked.stderr
    done = CliRunner().invoke(main, ["down", "--data", str(home)])
    assert done.exit_code == 0, done.output
    assert leftovers.of(home) == []
    assert CliRunner().invoke(main, ["down", "--data", str(home)]).exit_code == 1


def test_down_ends_a_live_supervisor(home: Path, start) -> None:
    child = start([{"name": "a", "code": FOREVER}])
    until(lambda: complete(home))
    done = CliRunner().invoke(main, ["down", "--data", str(home)])
    assert done.exit_code == 0, done.output
    assert child.wait(WAIT_S) == 0
    assert leftovers.of(home) == []


def test_status_shows_the_processes_and_hides_passwords(home: Path, start) -> None:
    start([{"name": "a", "code": FOREVER}])
    until(lambda: complete(home))
    told = json.loads(CliRunner().invoke(main, ["status", "--data", str(home), "--json"]).stdout)
    assert told == {
        "database_url": "postgresql://u:secret@127.0.0.1:1/d",
        "redis_url": "redis://:secret@127.0.0.1:2/0",
        "gateway_url": "http://127.0.0.1:3",
        "flower_url": "http://127.0.0.1:4",
        "processes": [{"name": "a", "pid": entry(home, "a")["pid"], "state": "running"}],
    }
    shown = CliRunner().invoke(main, ["status", "--data", str(home)]).stdout
    assert "secret" not in shown
    assert str(entry(home, "a")["pid"]) in shown


def test_status_of_nothing(tmp_path: Path) -> None:
    asked = CliRunner().invoke(main, ["status", "--data", str(tmp_path / "none"), "--json"])
    assert asked.exit_code == 1
    assert asked.stdout == ""
    assert "nothing is running" in asked.stderr


def test_a_large_log_is_put_aside(home: Path) -> None:
    path = home / "log" / "a.log"
    path.write_bytes(b"x" * (homes.LOG_BYTES_MAX + 1))
    os.close(homes.open_log(home, "a"))
    assert path.stat().st_size == 0
    assert path.with_suffix(".log.1").stat().st_size == homes.LOG_BYTES_MAX + 1


POLICIES = st.builds(
    RestartPolicy,
    budget=st.integers(1, 20),
    window_s=st.floats(1, 1e4),
    first_s=st.floats(0.01, 100),
    max_s=st.floats(0.01, 1e3),
)


@given(POLICIES, st.lists(st.floats(0, 2e3), min_size=1, max_size=60))
def test_never_more_starts_in_a_window_than_the_budget(
    policy: RestartPolicy, lives_s: list[float]
) -> None:
    """Whatever a process does, following the policy keeps the budget and the pause's bounds."""
    starts, now = [0.0], 0.0
    for life_s in lives_s:
        now += life_s
        pause_s = next_start(starts, now, policy)
        if pause_s is None:
            assert len([s for s in starts if now - s < policy.window_s]) == policy.budget
            return
        assert 0 <= pause_s <= policy.max_s
        now += pause_s
        starts.append(now)
        assert len([s for s in starts if now - s < policy.window_s]) <= policy.budget


def test_the_default_pauses() -> None:
    policy, starts, pauses = RestartPolicy(), [0.0], []
    while (pause_s := next_start(starts, starts[-1], policy)) is not None:
        pauses.append(pause_s)
        starts.append(starts[-1] + pause_s)
    assert pauses == [0, 10, 20, 40]
    # A window later it is a single crash again.
    assert next_start(starts, starts[-1] + 600, policy) == 0
    wide = RestartPolicy(budget=10)
    assert next_start([0.0] * 9, 1.0, wide) == 300
