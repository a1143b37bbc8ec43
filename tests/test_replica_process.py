"""`clearlane replica` as the process that it is: over HTTP, killed, twice, misused."""

from __future__ import annotations

import random
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from errno import ENOSPC
from http.client import HTTPException
from pathlib import Path
from socket import create_connection
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from ledger.errors import BadInput
from ledger.proof.checkpoint import Checkpoint
from ledger.proof.notes import Note, Signature
from tests.replicas import LOG_SIGNER, FakeLog, Process, command
from tests.stack import await_true
from tests.test_replica import falsified, long_history
from workers.replica import keys
from workers.replica.connections import ADDRESS_MAX
from workers.replica.offer import BODY_MAX_BYTES


class Pair(NamedTuple):
    log: FakeLog
    replica: Process


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    log = FakeLog(long_history(700).leaves)
    with log.served() as url:
        yield Pair(log, Process(tmp_path, "replica1", url, LOG_SIGNER.key))


def signed(pair: Pair, text: str, size: int) -> Signature:
    """The signature of an answer, verified."""
    found = Signature.parse(text.removesuffix("\n"))
    note = Note(text=pair.log.note(size).text, signatures=(found,))
    assert len(note.verified_by([pair.replica.vkey])) == 1
    return found


def test_it_speaks_the_witness_protocol(pair: Pair) -> None:
    log, replica = pair
    with replica.running():
        status, kind, text = replica.post(log.body(0, 300))
        assert (status, kind) == (200, "text/plain; charset=utf-8")
        signed(pair, text, 300)
        assert replica.post(log.body(0, 300)) == (409, "text/x.tlog.size", "300\n")
        status, _, text = replica.post(log.body(300))
        assert status == 200
        signed(pair, text, len(log.leaves))
        assert replica.post(b"nonsense")[0] == 400
        assert replica.post(b"\xff")[0] == 400
        assert replica.post(bytes(BODY_MAX_BYTES + 1))[0] == 413
        assert replica.get("/add-checkpoint")[0] == 405
        assert replica.get("/elsewhere")[0] == 404
        assert replica.get("/livez")[0] == replica.get("/readyz")[0] == 200
        size = len(log.leaves)
        log.leaves[size - 1] = falsified(log.leaves[size - 1])
        log.leaves.append(log.leaves[0])
        status, _, text = replica.post(log.body(size))
        assert status == 422
        assert f"leaf {size - 1} was rewritten: it is not the one that was replayed here" in text
        assert replica.get("/livez")[0] == 200
        status, _, text = replica.get("/readyz")
        assert (status, text.startswith(f"leaf {size - 1} was rewritten")) == (503, True)
        assert '"refuses":"leaf' in replica.get("/status")[2]


def test_what_is_not_replayed_in_time_is_to_be_asked_again(pair: Pair, tmp_path: Path) -> None:
    """A log that does not answer in time keeps nobody waiting for ever."""
    log, replica = pair
    held = threading.Event()
    answer = log.answer

    def slow(path: str) -> bytes | None:
        if "entries/001" in path:
            held.wait(60)
        return answer(path)

    log.answer = slow  # type: ignore[method-assign]
    with replica.running():
        status, _, text = replica.post(log.body(0))
        assert status == 503
        assert "leaves are replayed so far" in text
        held.set()

        def later() -> bool:
            return replica.post(log.body(0))[0] == 200

        await_true("it has caught up by itself", later)


def test_killed_at_any_instant_it_never_signs_two_roots_for_one_size(pair: Pair) -> None:
    """Kill -9 in a loop, while two logs with the same key ask for signatures in turn."""
    log, replica = pair
    honest = list(log.leaves)
    chance = random.Random(5)
    seen: dict[int, set[bytes]] = {}
    size, rounds = 0, 8
    for step in range(1, rounds + 1):
        with replica.running():
            killer = None
            for turn in range(10_000):
                log.leaves = honest[: min(len(honest), 10 + step * 60 + turn)]
                size = asked_once(pair, size, seen)
                if killer is None and size == len(log.leaves):
                    killer = threading.Timer(chance.uniform(0, 0.1), replica.child.kill)
                    killer.start()
                if replica.child.poll() is not None:
                    break
                if turn % 2:
                    # The same length, another end: a fork if ever both were signed.
                    log.leaves = [*log.leaves[:-1], falsified(log.leaves[-1])]
                    asked_once(pair, size, seen)
                for case in (replica.state / "evidence").glob("0*"):
                    case.rename(replica.state / f"{case.name}-{step}-{turn}")
            assert replica.child.wait() == -signal.SIGKILL
    assert len(seen) >= rounds, "a round signed nothing"
    assert {len(roots) for roots in seen.values()} == {1}


def asked_once(pair: Pair, size: int, seen: dict[int, set[bytes]]) -> int:
    """Ask for a signature; the size to start from next."""
    log, replica = pair
    wanted = len(log.leaves)
    try:
        status, _, text = replica.post(log.body(min(size, wanted), wanted))
    except (OSError, HTTPException):  # nothing or half an answer of a process that is killed
        return size
    if status == 200:
        note = log.note(wanted)
        signed(pair, text, wanted)
        seen.setdefault(wanted, set()).add(Checkpoint.parse(note.text).root)
        return wanted
    return int(text) if status == 409 else size


def test_a_kill_between_the_save_and_the_answer_is_survived(pair: Pair) -> None:
    log, replica = pair
    with replica.running():
        assert replica.post(log.body(0, 300))[0] == 200
    with replica.running():
        status, _, text = replica.post(log.body(0, 310))
        assert (status, text) == (409, "300\n")
        assert replica.post(log.body(300, 310))[0] == 200


def test_two_processes_on_one_state_are_one_too_many(pair: Pair) -> None:
    replica = pair.replica
    with replica.running():
        second = subprocess.run(replica.argv, capture_output=True, text=True, check=False)
        assert second.returncode == 5
        assert "another replica works on" in second.stderr
        assert replica.get("/livez")[0] == 200


def test_it_stops_in_order(pair: Pair) -> None:
    with pair.replica.running():
        assert pair.replica.post(pair.log.body(0))[0] == 200
        pair.replica.child.send_signal(signal.SIGTERM)
        assert pair.replica.child.wait(60) == 0


def test_a_key_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "replica.key"
    nowhere = command("key", "--key", str(file), "--name", "replica1.test")
    assert (nowhere.returncode, "keys is no directory" in nowhere.stderr) == (2, True)
    assert not file.parent.exists()
    file.parent.mkdir()
    made = command("key", "--key", str(file), "--name", "replica1.test")
    assert made.returncode == 0, made.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert made.stdout.startswith("replica1.test+")
    assert command("key", "--key", str(file), "--name", "replica1.test").stdout == made.stdout
    other = command("key", "--key", str(file), "--name", "replica2.test")
    assert (other.returncode, "has the key of replica1.test" in other.stderr) == (5, True)
    file.chmod(0o640)
    lent = command("key", "--key", str(file), "--name", "replica1.test")
    assert lent.returncode == 2
    assert f"--key: others may use {file} (mode 0640); run `chmod 600 {file}`" in lent.stderr
    file.chmod(0o600)
    secret = file.read_text().split("+")[-1].strip()
    file.write_text("PRIVATE+KEY+x+0+" + secret)
    broken = command("key", "--key", str(file), "--name", "x")
    assert broken.returncode == 2
    assert secret not in broken.stderr
    wrong = command("key", "--key", str(tmp_path / "k"), "--name", "a b")
    assert (wrong.returncode, "--name: key name" in wrong.stderr) == (2, True)
    wrong = command("key", "--key", str(tmp_path / "k"), "--name", "a+b")
    assert (wrong.returncode, "--name: 'a+b' has a +" in wrong.stderr) == (2, True)
    assert not (tmp_path / "k").exists()


def test_a_key_is_in_its_file_as_a_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a key of a crash would have to be removed by hand."""
    file = tmp_path / "replica.key"

    def full(_: int) -> None:
        raise OSError(ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(BadInput, match=r"replica\.key: No space left on device"):
            keys.made(file, "replica1.test")
    assert list(tmp_path.iterdir()) == []
    made = keys.made(file, "replica1.test")
    assert list(tmp_path.iterdir()) == [file]
    assert keys.made(file, "replica1.test") == made


def test_who_opens_many_connections_takes_them_from_himself(pair: Pair) -> None:
    with pair.replica.running(), ExitStack() as held:
        address = urlsplit(pair.replica.url)
        where = (str(address.hostname), int(address.port or 0))
        many = [
            held.enter_context(closing(create_connection(where, source_address=("127.0.0.2", 0))))
            for _ in range(2 * ADDRESS_MAX)
        ]
        assert pair.replica.get("/livez")[0] == 200
        for idle in many[ADDRESS_MAX:]:
            idle.settimeout(60)
            assert idle.recv(1) == b""


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--listen", "7500", "--listen: '7500' is no address"),
        ("--listen", "127.0.0.1:99999", "--listen: '127.0.0.1:99999' is no address"),
        ("--log", "ftp://x", "--log: it is no http or https URL"),
        ("--log-key", "", "--log-key: not a key"),
        ("--key", "/nowhere", "--key: /nowhere does not exist"),
        ("--token-file", "/nowhere", "--token-file: /nowhere cannot be read"),
    ],
)
def test_wrong_options_are_named(pair: Pair, option: str, value: str, words: str) -> None:
    argv = [*pair.replica.argv, option, value]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr


def test_show_says_what_was_signed_what_is_final_and_what_stands(
    pair: Pair, tmp_path: Path
) -> None:
    log, replica = pair
    state = str(replica.state)
    missing = command("show", "--state", str(tmp_path / "none"))
    assert (missing.returncode, "has no state" in missing.stderr) == (2, True)
    size = len(log.leaves)
    policy = tmp_path / "policy"
    policy.write_text(f"witness one {replica.vkey.encode()}\nquorum one\n")
    shown = ["show", "--state", state, "--policy", str(policy)]
    with replica.running():
        status, _, line = replica.post(log.body(0))
        assert status == 200
        await_true(
            "the log's own checkpoint was seen",
            lambda: (
                f"not final  the checkpoint of {size} leaves waits; witness one has not signed"
                in command(*shown).stdout
            ),
        )
        log.signatures = [line]
        await_true("finality was seen", lambda: f"final      {size}" in command(*shown).stdout)
        done = command("show", "--state", state, "--json")
        assert done.returncode == 0
        assert f'"signed": {size}, ' in done.stdout
        log.size = size - 1
        await_true(
            "the loss was seen, and convicts nobody yet",
            lambda: f"leaf {size - 1} is gone" in command("show", "--state", state).stdout,
        )
        log.size = None
        log.leaves[size - 1] = falsified(log.leaves[size - 1])
        await_true(
            "the fork was seen",
            lambda: "evidence/0001-forked" in command("show", "--state", state).stdout,
        )
    done = command("show", "--state", state)
    assert done.returncode == 1
    assert f"leaf {size - 1} is not the one that was replayed here" in done.stdout
    assert "trouble" not in done.stdout, "the same thing once"


def test_show_says_why_it_does_not_follow(pair: Pair) -> None:
    log, replica = pair
    state = str(replica.state)
    log.broken = {"checkpoint"}

    def shown(code: int, words: str) -> bool:
        done = command("show", "--state", state)
        return (done.returncode, words in done.stdout) == (code, True)

    with replica.running():
        await_true("the trouble was seen", lambda: shown(1, "checkpoint is answered with 404"))
        assert (
            f'"replica": "{replica.vkey.encode()}"'
            in command("show", "--state", state, "--json").stdout
        )
    assert shown(1, "checkpoint is answered with 404"), "also when it runs no more"
    log.broken = set()
    with replica.running():
        await_true("it follows again", lambda: shown(0, f"replayed   {len(log.leaves)}"))
