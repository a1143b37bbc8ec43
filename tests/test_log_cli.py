"""`clearlane log` and `clearlane verify`, as people run them."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from sqlalchemy import Engine

from ledger import checkpoints, intake, leaves
from ledger.proof import entries, receipts
from ledger.proof.checkpoint import Checkpoint
from ledger.proof.notes import COSIGNER, LOG, Note, Signer, VerifierKey
from ledger.settle import settle
from tests.makers import claim, install, minted, settlement, submit
from tests.stack import await_true, clearlane, started
from workers.cli import log, main

SIGNER = Signer(name="log.example/1", kind=LOG, seed=bytes([1] * 32))
WITNESS = Signer(name="w.example", kind=COSIGNER, seed=bytes([2] * 32))
POLICY = f"log {SIGNER.key.encode()}\nwitness w {WITNESS.key.encode()}\nquorum w\n"


@dataclass(frozen=True, kw_only=True)
class House:
    """A ledger, and its commands."""

    engine: Engine
    env: dict[str, str]
    tasks: list[str]
    place: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "workers.cli", *arguments],
            env=self.env,
            cwd=self.place,
            capture_output=True,
            check=False,
            timeout=120,
        )

    def said(self, *arguments: str) -> bytes:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *arguments: str, code: int) -> str:
        done = self.run(*arguments)
        assert done.returncode == code, done.stderr
        assert done.stdout == b""
        (line,) = done.stderr.decode().splitlines()
        return line.removeprefix("clearlane: ")


@pytest.fixture
def house(engine: Engine, database_url: str, redis_url: str, tmp_path: Path) -> House:
    now = datetime.now(UTC)
    install(engine, now)
    tasks = submit(engine, now, 3)
    settle(engine, [settlement(key) for key in claim(engine, now)], now=now)
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "CLEARLANE_DATA": str(tmp_path),
    }
    return House(engine=engine, env=env, tasks=tasks, place=tmp_path)


def sign(house: House) -> int:
    size = checkpoints.sign(house.engine, lambda: SIGNER, datetime.now(UTC))
    assert size is not None
    return size


def test_what_is_printed_is_the_formats_and_nothing_else(house: House) -> None:
    size = sign(house)
    note = Note.parse(house.said("log", "checkpoint"))
    assert Checkpoint.parse(note.text).size == size
    text = house.said("log", "receipt", house.tasks[0])
    entry = house.said("log", "entry", house.tasks[0])
    assert entry == leaves.entry(house.engine, leaves.leaf_of(house.engine, house.tasks[0]))
    proven = receipts.verify(text, entry, SIGNER.key, None)
    assert house.said("log", "receipt", str(proven.index)) == text
    assert house.said("log", "entry", str(proven.index)) == entry
    vkey = house.said("log", "key").decode()
    assert vkey == f"{SIGNER.key.encode()}\n"
    assert VerifierKey.parse(vkey[:-1]) == SIGNER.key


def test_an_export_is_every_entry_on_a_line(house: House) -> None:
    size, _ = leaves.size(house.engine)
    lines = house.said("log", "export").splitlines(keepends=True)
    assert lines == [entry + b"\n" for entry in leaves.entries(house.engine, 0, size)]
    assert [entries.decode(line[:-1])["v"] for line in lines] == [1] * size
    assert house.said("log", "export", "--from", "2", "--to", "4") == b"".join(lines[2:4])
    assert house.said("log", "export", "--from", str(size)) == b""
    for wrong in (
        ("--to", str(size + 1)),
        ("--to", "2", "--from", "3"),
        ("--from", str(size + 1)),
        ("--from", str(size + 1), "--to", str(size + 2)),
    ):
        said = house.refused("log", "export", *wrong, code=2)
        assert said.startswith(f"{wrong[0]}: ")
        assert f"is no part of a log of {size} leaves; use 0 to {size}" in said


def test_a_long_export_tells_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tell = log._progress(5_000)
    monkeypatch.setattr(log, "LOOK_S", float("inf"))
    for number in range(1, 5_001):
        tell(number)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(log, "LOOK_S", 0.0)
    for number in range(1, 5_001):
        tell(number)
    said = [f"clearlane: {number} of 5000 entries" for number in range(1_000, 6_000, 1_000)]
    assert capsys.readouterr().err.splitlines() == said


def test_what_is_not_there_is_told_apart(house: House) -> None:
    assert "none was signed yet" in house.refused("log", "checkpoint", code=2)
    assert "the log has none yet" in house.refused("log", "key", code=2)
    said = house.refused("log", "receipt", house.tasks[0], code=1)
    assert "yet; the log signs one every 2 s; ask again" in said
    sign(house)
    size, _ = leaves.size(house.engine)
    (unpaid,) = submit(house.engine, datetime.now(UTC), 1, idempotency_key="new")
    (ended,) = submit(house.engine, datetime.now(UTC), 1, idempotency_key="newer")
    intake.cancel(house.engine, ended, datetime.now(UTC))
    unknown = str(uuid.uuid4())
    for asked, words in {
        str(size): f"index: the log has no leaf {size}; use 0 to {size - 1}",
        "x": "neither the number of a leaf nor the id of a task; leaves are counted from 0",
        "9" * 30: "neither the number",
        unknown: f"task: {unknown} is not known; see `clearlane task list`",
        unpaid: f"task: {unpaid} is INIT, not settled; ask when it is COMMITTED",
        ended: f"task: {ended} is CANCELLED, not settled; it never will be",
    }.items():
        for command in ("entry", "receipt"):
            assert words in house.refused("log", command, asked, code=2), (command, asked)
    assert "CLEARLANE_LOG_POLICY" in house.refused("log", "witnesses", code=2)


def test_a_log_without_leaves_has_none_to_name(
    engine: Engine, database_url: str, redis_url: str
) -> None:
    assert leaves.size(engine)[0] == 0
    program = CliRunner(env={"DATABASE_URL": database_url, "REDIS_URL": redis_url})
    for command in ("entry", "receipt"):
        done = program.invoke(main, ["log", command, "0"])
        assert done.exit_code == 2
        words = "index: the log has no leaf 0; it is empty: `clearlane apply` begins it\n"
        assert done.stderr == f"clearlane: {words}"


def test_whoever_has_the_old_key_learns_of_the_new_one(house: House) -> None:
    """From the log alone, however long ago that was and whoever signs it now."""
    sign(house)
    now = datetime.now(UTC)
    keys = [Signer(name=SIGNER.name, kind=LOG, seed=bytes([n] * 32)) for n in (1, 3, 4)]
    told = []
    for old, new in pairwise(keys):
        told.append(checkpoints.rotate(house.engine, old, new, now))
        minted(house.engine, "client:R", 1, now)
        checkpoints.sign(house.engine, partial(Signer.parse, new.encode()), now)
    known = json.loads(house.said("log", "key", "--all", "--json"))
    assert [(row["key"], row["leaf"]) for row in known] == [
        (keys[2].key.encode(), told[1]), (keys[1].key.encode(), told[0]),
        (keys[0].key.encode(), None),
    ]  # fmt: skip
    trusted = keys[0].key
    for leaf, new in zip(told, keys[1:], strict=True):
        text = house.said("log", "receipt", str(leaf))
        entry = house.said("log", "entry", str(leaf))
        receipts.verify(text, entry, new.key, None)
        receipts.verify(text, entry, trusted, None)
        trusted = VerifierKey.parse(entries.decode(entry)["new"])
        assert trusted == new.key
        after = house.said("log", "receipt", str(leaf + 1))
        receipts.verify(after, house.said("log", "entry", str(leaf + 1)), keys[-1].key, None)


def test_witnesses_are_shown_with_what_went_wrong(house: House) -> None:
    size, now = sign(house), datetime.now(UTC)
    (house.place / "policy").write_text(POLICY)
    house.env["CLEARLANE_LOG_POLICY"] = "policy"
    found = json.loads(house.said("log", "witnesses", "--json"))
    (row,) = found["witnesses"]
    assert (row["name"], row["size"], row["behind"], row["fault"]) == ("w", None, size, "")
    assert (found["final"], found["leaves"]) == (0, size)
    assert found["lacks"] == [{"name": "w", "why": "the policy has no address to ask"}]
    checkpoints.tell_witness(house.engine, WITNESS.key, size, "it answered 422: leaf 3", now)
    said = house.said("log", "witnesses").decode()
    assert (
        f"final: 0 of {size} leaves; the quorum is one witness, lacks w (it answered 422: leaf"
        in said
    )
    del house.env["CLEARLANE_LOG_POLICY"]
    run = {
        "log_policy": str(house.place / "policy"),
        "supervisor": {"pid": os.getpid(), "started": psutil.Process().create_time()},
    }
    (house.place / "run.json").write_text(json.dumps(run))
    assert house.said("log", "witnesses").decode() == said, "that of the stack that runs"
    (house.place / "run.json").unlink()
    assert "where `clearlane up` starts" in house.refused("log", "witnesses", code=2)
    house.env["CLEARLANE_LOG_POLICY"] = "policy"
    (house.place / "policy").write_text("quorum w\n")
    said = house.refused("log", "witnesses", code=2)
    assert "CLEARLANE_LOG_POLICY: policy: policy, line 1: w is not defined above" in said


def test_a_migration_makes_the_key_where_it_is_told(house: House) -> None:
    assert not list(house.place.iterdir())
    house.said("migrate")
    assert not list(house.place.iterdir())
    house.env["CLEARLANE_LOG_KEY_FILE"] = "keys"
    house.said("migrate")
    made = (house.place / "keys").read_text()
    house.said("migrate")
    assert (house.place / "keys").read_text() == made
    assert house.said("log", "key").decode()[:-1] == Signer.parse(made[:-1]).key.encode()
    (house.place / "keys").unlink()
    done = house.run("migrate")
    assert b"is missing; restore it" in done.stderr
    assert not list(house.place.iterdir())


# Verifying ---------------------------------------------------------------------------------------


@pytest.fixture
def files(house: House) -> Path:
    """A receipt that a witness has cosigned, its entry and the policy, and nothing else."""
    size = sign(house)
    stored = checkpoints.at(house.engine, size)
    line = WITNESS.sign(stored.note.text, time_s=1_800_000_000)
    checkpoints.cosign(house.engine, size, WITNESS.key, line, datetime.now(UTC))
    place = house.place / "elsewhere"
    place.mkdir()
    (place / "r").write_bytes(house.said("log", "receipt", house.tasks[1]))
    (place / "e").write_bytes(house.said("log", "entry", house.tasks[1]))
    (place / "p").write_text(POLICY)
    return place


def verify(place: Path, *arguments: str, key: str = "") -> tuple[int, str]:
    """Exit code and what was said; with no settings, no servers and no home."""
    given = ("r", "--entry", "e", "--key", key or SIGNER.key.encode())
    done = subprocess.run(
        [sys.executable, "-m", "workers.cli", "verify", *given, *arguments],
        env={
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PATH": os.environ["PATH"],
            "DATABASE_URL": "not even a URL",
            "CLEARLANE_LOG_ORIGIN": "not valid",
        },
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_receipt_verifies_with_nothing_but_its_files(files: Path) -> None:
    code, said = verify(files)
    assert code == 0, said
    assert "signed by the log alone: no policy was given" in said
    code, said = verify(files, "--policy", "p")
    assert (code, "cosigned: w at 2027-01-15T08:00:00Z" in said) == (0, True), said
    (files / "e").write_bytes((files / "e").read_bytes() + b"\n")  # a line of an export
    assert verify(files)[0] == 0
    assert sorted(os.listdir(files)) == ["e", "p", "r"]


def test_what_was_proven_is_told(files: Path) -> None:
    entry = entries.decode((files / "e").read_bytes())
    code, said = verify(files, "--policy", "p")
    assert code == 0
    assert f"it says: settle of task {entry['task']}, attempt 1, {entry['at']}" in said
    assert "  client:R -10.000000 B\n" in said
    assert "  agent:A 9.900000 B\n" in said
    code, text = verify(files, "--policy", "p", "--json")
    found = json.loads(text)
    note = Checkpoint.parse(receipts.Receipt.parse((files / "r").read_bytes()).note.text)
    assert (code, found) == (
        0,
        {
            "verified": True,
            "index": receipts.Receipt.parse((files / "r").read_bytes()).index,
            "size": note.size,
            "origin": "log.example/1",
            "signers": [
                {"name": "log.example/1", "key": SIGNER.key.encode(), "at": None},
                {"name": "w", "key": WITNESS.key.encode(), "at": "2027-01-15T08:00:00Z"},
            ],
            "quorum": True,
            "type": "settle",
            "at": entry["at"],
            "epoch": 1,
            "task": entry["task"],
            "attempt": 1,
            "postings": [
                {"account": account, "amount_ub": amount} for account, amount in entry["postings"]
            ],
            "new_key": None,
        },
    )
    alone = json.loads(verify(files, "--json")[1])
    assert (alone["quorum"], len(alone["signers"])) == (None, 1)
    (files / "r").write_bytes(flipped((files / "r").read_bytes(), 3, 5))
    code, text = verify(files, "--json")
    found = json.loads(text)
    assert (code, found["verified"], found["part"]) == (1, False, "inclusion proof")
    assert found["reason"].startswith("leaf ")
    assert found["remedy"] == "take the receipt and the entry of the same task, as they came"


def test_a_new_key_is_told(house: House, files: Path) -> None:
    new = Signer(name=SIGNER.name, kind=LOG, seed=bytes([3] * 32))
    leaf = str(checkpoints.rotate(house.engine, SIGNER, new, datetime.now(UTC)))
    (files / "r").write_bytes(house.said("log", "receipt", leaf))
    (files / "e").write_bytes(house.said("log", "entry", leaf))
    for key in (SIGNER.key, new.key):
        code, said = verify(files, key=key.encode())
        assert code == 0, said
        assert f"from here on the log's key is {new.key.encode()}\n" in said
    assert json.loads(verify(files, "--json")[1])["new_key"] == new.key.encode()


def flipped(text: bytes, line: int, place: int) -> bytes:
    """The text with another base64 character in a line, counted from 1; `place` may be below 0."""
    lines = text.split(b"\n")
    changed = bytearray(lines[line - 1])
    changed[place] = ord("A") if changed[place] != ord("A") else ord("B")
    lines[line - 1] = bytes(changed)
    return b"\n".join(lines)


def note_line(text: bytes) -> int:
    return text.split(b"\n").index(b"") + 2


def bump(text: bytes) -> bytes:
    """Another size."""
    lines = text.split(b"\n")
    at = note_line(text)
    lines[at] = str(int(lines[at]) + 1).encode()
    return b"\n".join(lines)


TAMPERED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "header": (lambda t: t.replace(b"@v1", b"@v2"), "receipt, line 1: not the line c2sp.org"),
    "index": (lambda t: t.replace(b"index ", b"index 1", 1), "index 1"),
    "index form": (lambda t: t.replace(b"index ", b"index 0", 1), "receipt, line 2: the index"),
    "hash": (lambda t: flipped(t, 3, 5), "inclusion proof: "),
    "hash form": (lambda t: flipped(t, 3, -1), "receipt, line 3: the hash"),
    "hash left out": (
        lambda t: b"\n".join(t.split(b"\n")[:2] + t.split(b"\n")[3:]),
        "inclusion proof: a proof of leaf",
    ),
    "origin": (
        lambda t: t.replace(b"\nlog.example/1\n", b"\nlog.example/2\n"),
        "the signature of log.example/1",
    ),
    "size": (bump, "the signature of log.example/1"),
    "root": (lambda t: flipped(t, note_line(t) + 2, 3), "the signature of log.example/1"),
    "log signature": (
        lambda t: flipped(t, note_line(t) + 4, -20),
        f"the signature of {SIGNER.key}",
    ),
    "log key id": (lambda t: flipped(t, note_line(t) + 4, 18), f"no signature of {SIGNER.key}"),
    "log name": (
        lambda t: t.replace("— log.example/1".encode(), "— log.example/3".encode()),
        f"no signature of {SIGNER.key}",
    ),
    "cosignature": (
        lambda t: flipped(t, note_line(t) + 5, -20),
        f"the signature of {WITNESS.key}",
    ),
    "cosignature gone": (
        lambda t: b"\n".join(t.split(b"\n")[:-2]) + b"\n",
        "no quorum: witness w has not signed",
    ),
    "cosigner's time": (lambda t: flipped(t, note_line(t) + 5, 30), "w.example"),
    "end": (lambda t: t[:-1], "the last line has no newline"),
    "more": (lambda t: t + b"x", "no newline"),
    "not text": (lambda t: t + b"\xff\n", "not UTF-8"),
    "control": (lambda t: t.replace(b"index ", b"index \t", 1), "line 2"),
    "empty": (lambda _: b"", "receipt, line 1"),
    "long": (lambda t: t + b"x" * 2_000_000, "bytes; at most"),
}  # fmt: skip


def test_whatever_is_changed_is_named(files: Path) -> None:
    good = (files / "r").read_bytes()
    for case, (change, words) in TAMPERED.items():
        (files / "r").write_bytes(change(good))
        code, said = verify(files, "--policy", "p")
        assert (code, words in said) == (1, True), f"{case}: {code} {said}"
        assert len(said.splitlines()) == 1, case
        assert said.split("; ")[-1].startswith(("get the", "take the", "give the", "ask for")), case
    (files / "r").write_bytes(good)
    entry = (files / "e").read_bytes()
    for other in (
        entry.replace(b'"attempt":1', b'"attempt":2'),
        entry + b"\n\n",
        b"",
        b"x" * 70_000,
    ):
        (files / "e").write_bytes(other)
        code, said = verify(files)
        assert (code, "inclusion proof: leaf" in said) == (1, True), said
        assert "the entry, its index or a hash of the proof is not the log's (" in said
        assert "; take the receipt and the entry" in said
        root = Checkpoint.parse(receipts.Receipt.parse(good).note.text).root
        assert f", not {base64.b64encode(root).decode()}: " in said


def test_a_key_or_policy_that_cannot_be_used_is_wrong_usage(files: Path) -> None:
    def refused(code: int, words: str, *arguments: str, key: str = "") -> None:
        found, said = verify(files, *arguments, key=key)
        assert (found, words in said) == (code, True), said
        assert len(said.splitlines()) == 1

    vkey = SIGNER.key.encode()
    refused(2, "--key: not a key", key="x")
    refused(2, "--key: key id", key=vkey.replace("log.", "lag."))
    refused(2, "--key: w.example", key=WITNESS.key.encode())
    other = Signer(name="log.example/1", kind=LOG, seed=bytes(32)).key.encode()
    refused(1, "no signature of log.example/1", key=other)
    (files / "p").write_text("quorum w\n")
    refused(2, "--policy: p: policy, line 1: w is not defined above", "--policy", "p")
    (files / "p").write_text(f"log {other}\nquorum none\n")
    refused(1, "is not one of its logs", "--policy", "p")
    refused(2, "nowhere", "--policy", "nowhere")
    (files / "r").unlink()
    refused(2, "'r'")


def test_verify_is_also_a_command_of_the_log(files: Path, house: House) -> None:
    given = ("elsewhere/r", "--entry", "elsewhere/e", "--key", SIGNER.key.encode())
    assert house.said("log", "verify", *given) == house.said("verify", *given)


# A stack -----------------------------------------------------------------------------------------


def test_a_stack_signs_its_log_and_takes_a_new_key() -> None:
    with started("R", "--fleet", "sample") as stack:
        data = ("--data", str(stack.home))
        key = stack.home / "log.key"
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        old = clearlane("log", "key", *data).stdout
        secret = base64.b64encode(Signer.parse(key.read_text()[:-1]).seed).decode()
        (task,) = stack.submit("outline", 1)
        stack.ended([task])

        def receipt() -> str:
            return clearlane("log", "receipt", task, *data).stdout

        text = await_true("a checkpoint holds the settlement", receipt)
        entry = clearlane("log", "entry", task, *data).stdout
        receipts.verify(text, entry.encode(), VerifierKey.parse(old[:-1]), None)
        done = clearlane("log", "rotate", *data)
        assert done.returncode == 0, done.stderr
        new = done.stdout
        assert clearlane("log", "key", *data).stdout == new != old
        assert clearlane("log", "key", "--all", *data).stdout == new + old
        told = re.search(r"`clearlane log receipt (\d+)` and `log entry (\d+)`", done.stderr)
        assert told is not None, done.stderr
        text, entry = (
            clearlane("log", name, told[1], *data).stdout for name in ("receipt", "entry")
        )
        receipts.verify(text, entry.encode(), VerifierKey.parse(old[:-1]), None)
        assert entries.decode(entry.encode())["new"] == new[:-1]
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        (later,) = stack.submit("outline", 1)
        stack.ended([later])

        def signed() -> bool:
            note = Note.parse(clearlane("log", "checkpoint", *data).stdout)
            size = Checkpoint.parse(note.text).size
            return size > leaves.leaf_of(stack.context.engine, later)

        await_true("the new key signs", signed)
        note = Note.parse(clearlane("log", "checkpoint", *data).stdout)
        note.verified_by([VerifierKey.parse(new[:-1])])
        doctor = {
            row["check"]: row for row in json.loads(clearlane("doctor", *data, "--json").stdout)
        }
        assert doctor["log key"]["level"] == "ok"
        stack.check()
        logs = b"".join(path.read_bytes() for path in (stack.home / "log").iterdir())
        assert secret.encode() not in logs
