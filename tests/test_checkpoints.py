"""Checkpoints: one for a size, signed by the log's key, kept for good; and what witnesses add."""

from __future__ import annotations

import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from psycopg import errors
from sqlalchemy import Engine

from ledger import checkpoints, epochs, leaves
from ledger.check import violations
from ledger.checkpoints import NotYet
from ledger.errors import BadInput, Conflict, NotFound
from ledger.proof import entries, receipts
from ledger.proof.checkpoint import Checkpoint
from ledger.proof.errors import ProofRefused
from ledger.proof.merkle import EMPTY_ROOT, verify_consistency
from ledger.proof.notes import COSIGNER, LOG, Note, Signature, Signer
from ledger.proof.policy import Policy
from ledger.proof.text import read_base64
from ledger.settle import settle
from scheduler.reservations import Reservations
from tasks import cosign
from tasks.checkpoint import checkpoint
from tasks.context import Context, bind
from tasks.notary import Notary
from tests.makers import as_owner, claim, install, plant, settlement, submit
from tests.stack import await_true
from workers import logkey
from workers.settings import Settings

NAME = "log.example/1"


def signer(number: int = 1, name: str = NAME) -> Signer:
    return Signer(name=name, kind=LOG, seed=bytes([number] * 32))


def sign(engine: Engine, now: datetime, number: int = 1) -> int | None:
    return checkpoints.sign(engine, lambda: signer(number), now)


def settled(engine: Engine, now: datetime, count: int = 1) -> list[int]:
    """The leaves of so many settlements."""
    tasks = submit(engine, now, count)
    settle(engine, [settlement(key) for key in claim(engine, now)], now=now)
    return [leaves.leaf_of(engine, task) for task in tasks]


def never() -> Signer:
    raise AssertionError("nothing was to be signed")


def test_a_checkpoint_says_what_the_log_is(engine: Engine, now: datetime) -> None:
    with pytest.raises(NotFound):
        checkpoints.newest(engine)
    assert sign(engine, now) == 0
    assert Checkpoint.parse(checkpoints.newest(engine).note.text).root == EMPTY_ROOT
    install(engine, now)
    size, root = leaves.size(engine)
    assert sign(engine, now) == size
    found = checkpoints.newest(engine)
    assert Checkpoint.parse(found.note.text) == Checkpoint(origin=NAME, size=size, root=root)
    (signed,) = found.note.verified_by([signer().key])
    assert signed.key == signer().key
    assert violations(engine) == []


def test_a_log_that_has_not_grown_is_not_signed_again(engine: Engine, now: datetime) -> None:
    install(engine, now)
    sign(engine, now)
    before = checkpoints.newest(engine)
    assert checkpoints.sign(engine, never, now) is None
    assert checkpoints.newest(engine) == before


def test_two_who_sign_at_once_make_one_checkpoint(engine: Engine, now: datetime) -> None:
    install(engine, now)
    meeting = threading.Barrier(4)
    made: list[int | None] = []

    def met() -> Signer:
        meeting.wait(60)
        return signer()

    threads = [
        threading.Thread(target=lambda: made.append(checkpoints.sign(engine, met, now)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    size, _ = leaves.size(engine)
    assert sorted(made, key=str) == [size, None, None, None]


def test_another_key_signs_nothing(engine: Engine, now: datetime) -> None:
    install(engine, now)
    sign(engine, now)
    (before,) = checkpoints.keys(engine)
    settled(engine, now)
    with pytest.raises(Conflict, match="is not the log's"):
        sign(engine, now, number=2)
    with pytest.raises(Conflict):
        checkpoints.rotate(engine, signer(2), signer(3), now)
    assert checkpoints.keys(engine) == [before]
    assert sign(engine, now) == leaves.size(engine)[0]


def test_a_rotation_is_announced_in_the_log_and_signed_for_by_both(
    engine: Engine, now: datetime
) -> None:
    install(engine, now)
    sign(engine, now)
    (index,) = settled(engine, now)
    leaf = checkpoints.rotate(engine, signer(1), signer(2), now)
    announced = entries.decode(leaves.entry(engine, leaf))
    assert (announced["type"], announced["old"], announced["new"]) == (
        "key",
        signer(1).key.encode(),
        signer(2).key.encode(),
    )
    both = checkpoints.newest(engine)
    assert both.size == leaf + 1
    assert {s.key for s in both.note.verified_by([signer(1).key, signer(2).key])} == {
        signer(1).key,
        signer(2).key,
    }
    for key in (signer(1).key, signer(2).key):
        text = checkpoints.receipt(engine, index).encode()
        receipts.verify(text, leaves.entry(engine, index), key, None)
    settled(engine, now)
    with pytest.raises(Conflict):
        sign(engine, now, number=1)
    sign(engine, now, number=2)
    with pytest.raises(ProofRefused, match="no signature of"):
        checkpoints.newest(engine).note.verified_by([signer(1).key])
    assert [(k.key, k.leaf) for k in checkpoints.keys(engine)] == [
        (signer(2).key, leaf),
        (signer(1).key, None),
    ]
    assert violations(engine) == []


def test_the_old_key_cannot_sign_what_the_new_one_announced(engine: Engine, now: datetime) -> None:
    """A process that read the old key before a rotation, and signs after it."""
    install(engine, now)
    sign(engine, now)
    settled(engine, now)

    def late() -> Signer:
        checkpoints.rotate(engine, signer(1), signer(2), now)
        return signer(1)

    assert checkpoints.sign(engine, late, now) is None
    assert violations(engine) == []


def test_a_receipt_takes_what_holds_its_leaf(engine: Engine, now: datetime) -> None:
    install(engine, now)
    (first,) = settled(engine, now)
    with pytest.raises(NotYet, match=f"none holds leaf {first} yet"):
        checkpoints.receipt(engine, first)
    one = sign(engine, now)
    (second,) = settled(engine, now)
    two = sign(engine, now)
    assert one is not None
    assert checkpoints.covering(engine, first).size == two
    stored = checkpoints.at(engine, one)
    anybody = Policy.parse("quorum none\n")
    assert checkpoints.settle_quorum(engine, stored, anybody, now)
    assert checkpoints.covering(engine, first).size == one  # the quorum's, though it is older
    assert checkpoints.covering(engine, second).size == two
    with pytest.raises(NotFound, match="no leaf"):
        checkpoints.receipt(engine, leaves.size(engine)[0])
    for index in (first, second):
        text = checkpoints.receipt(engine, index).encode()
        proven = receipts.verify(text, leaves.entry(engine, index), signer().key, None)
        assert proven.index == index


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE log_checkpoint SET note = 'x'",
        "UPDATE log_checkpoint SET size = 0",
        "DELETE FROM log_checkpoint",
        "TRUNCATE log_checkpoint CASCADE",
        "UPDATE log_key SET vkey = 'x'",
        "DELETE FROM log_key",
        "TRUNCATE log_key",
        "UPDATE log_cosignature SET line = 'x'",
        "DELETE FROM log_cosignature",
        "TRUNCATE log_cosignature",
    ],
)
def test_what_was_signed_stays(
    engine: Engine, database_url: str, now: datetime, statement: str
) -> None:
    install(engine, now)
    size = sign(engine, now)
    assert size is not None
    checkpoints.cosign(engine, size, witness().key, cosignature(checkpoints.at(engine, size)), now)
    with pytest.raises(errors.InsufficientPrivilege):
        as_owner(database_url, statement)


def test_the_quorum_is_told_once(engine: Engine, database_url: str, now: datetime) -> None:
    install(engine, now)
    sign(engine, now)
    as_owner(database_url, "UPDATE log_checkpoint SET quorum_at = now()")
    with pytest.raises(errors.InsufficientPrivilege):
        as_owner(database_url, "UPDATE log_checkpoint SET quorum_at = now()")


PLANTED = {
    "a root that is not the log's": (
        "UPDATE log_checkpoint SET note = %(other)s WHERE size = %(size)s",
        "another size or root",
    ),
    "a signature of somebody else": (
        "UPDATE log_checkpoint SET note = %(foreign)s WHERE size = %(size)s",
        "no signature of",
    ),
    "a signature that was changed": (
        "UPDATE log_checkpoint SET note = %(broken)s WHERE size = %(size)s",
        "does not fit",
    ),
    "a cosignature of another text": (
        "UPDATE log_cosignature SET line = %(line)s",
        "cosignature of",
    ),
    "a key that nobody announced": (
        "INSERT INTO log_key (number, vkey, leaf, at) VALUES (2, %(vkey)s, 0, now())",
        "leaf 0 does not announce it",
    ),
}


@pytest.mark.parametrize("case", PLANTED)
def test_the_check_finds_what_was_signed_wrongly(
    engine: Engine, database_url: str, now: datetime, case: str
) -> None:
    install(engine, now)
    size = sign(engine, now)
    assert size is not None
    stored = checkpoints.at(engine, size)
    checkpoints.cosign(engine, size, witness().key, cosignature(stored), now)
    assert violations(engine) == []
    statement, words = PLANTED[case]
    other = Checkpoint(origin=NAME, size=size, root=bytes(32)).body()
    values = {
        "size": str(size),
        "other": Note(text=other, signatures=(signer().sign(other),)).encode(),
        "foreign": replace(stored.note, signatures=(signer(2).sign(stored.note.text),)).encode(),
        "broken": replace(
            stored.note, signatures=(replace(signer().sign(other), name=NAME),)
        ).encode(),
        "line": witness().sign(other, time_s=1).encode(),
        "vkey": signer(9).key.encode(),
    }
    for name, value in values.items():
        quoted = value if name == "size" else "'" + value.replace("'", "''") + "'"
        statement = statement.replace(f"%({name})s", quoted)
    plant(database_url, statement)
    found = violations(engine)
    assert any(item.invariant == "C7" and words in item.violation for item in found), found


# Witnesses ---------------------------------------------------------------------------------------


def witness(number: int = 50) -> Signer:
    return Signer(name=f"w{number}.example", kind=COSIGNER, seed=bytes([number] * 32))


def cosignature(stored: checkpoints.Stored, number: int = 50) -> Signature:
    return witness(number).sign(stored.note.text, time_s=1_800_000_000)


@dataclass(kw_only=True)
class Peer:
    """A witness as another program would be one: c2sp.org/tlog-witness over HTTP.

    `behave` may answer instead of it. With a `gate` each answer waits until it is let through.
    """

    number: int = 50
    size: int = 0
    root: bytes = EMPTY_ROOT
    asked: list[int] = field(default_factory=list)
    behave: Callable[[], tuple[int, bytes]] | None = None
    gate: threading.Semaphore | None = None
    url: str = ""

    def add_checkpoint(self, body: str) -> tuple[int, bytes]:
        head, _, text = body.partition("\n\n")
        old, *lines = head.split("\n")
        self.asked.append(int(old.removeprefix("old ")))
        if self.gate is not None:
            assert self.gate.acquire(timeout=60)
        if self.behave is not None:
            return self.behave()
        if self.asked[-1] != self.size:
            return 409, f"{self.size}\n".encode()
        note = Note.parse(text)
        note.verified_by([signer().key])
        new = Checkpoint.parse(note.text)
        proof = [read_base64(line, "hash", part="proof") for line in lines]
        verify_consistency(self.size, self.root, new.size, new.root, proof)
        self.size, self.root = new.size, new.root
        line = witness(self.number).sign(note.text, time_s=1_800_000_000).encode()
        return 200, f"— somebody.else AAAAAAAA\n{line}".encode()

    @property
    def line(self) -> str:
        return f"witness w{self.number} {witness(self.number).key.encode()} {self.url}\n"


@contextmanager
def peer(number: int = 50) -> Iterator[Peer]:
    found = Peer(number=number)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/add-checkpoint"
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            status, text = found.add_checkpoint(body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield found
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(
    engine: Engine, reservations: Reservations, now: datetime
) -> Iterator[Callable[[str], checkpoints.Stored]]:
    """Carry out the cron job with a policy; the newest checkpoint after all have been asked."""
    install(engine, now)

    def carry_out(policy: str) -> checkpoints.Stored:
        notary = Notary(signer=signer, policy=lambda: Policy.parse(policy))
        bind(Context(engine=engine, reservations=reservations, lease_margin_s=1.0, notary=notary))
        checkpoint()
        cosign.finish()
        return checkpoints.newest(engine)

    yield carry_out
    cosign.finish()


Run = Callable[[str], checkpoints.Stored]


def test_a_witness_follows_the_log(engine: Engine, now: datetime, run: Run) -> None:
    with peer() as one:
        policy = f"{one.line}quorum w50\n"
        first = run(policy)
        assert first.witnesses == (witness().key.encode(),)
        first.note.verified_by([witness().key])
        assert first.quorum_at is not None
        assert run(policy) == first  # it has grown no more: nobody is asked
        settled(engine, now)
        second = run(policy)
        assert second.quorum_at is not None
        assert one.asked == [0, first.size]
    (index, _) = settled(engine, now, 2)
    sign(engine, now)
    assert checkpoints.covering(engine, index - 1).size == second.size
    text = checkpoints.receipt(engine, index - 1).encode()
    entry = leaves.entry(engine, index - 1)
    receipts.verify(text, entry, signer().key, Policy.parse(policy))
    assert violations(engine) == []


def test_a_witness_that_has_seen_more_than_we_know_tells(
    engine: Engine, now: datetime, run: Run
) -> None:
    with peer() as one:
        size = sign(engine, now)
        assert size is not None
        one.size, one.root = leaves.size(engine)
        settled(engine, now)
        assert run(f"{one.line}quorum w50\n").quorum_at is not None
        assert one.asked == [0, size]


def test_an_epoch_is_final_when_the_quorum_has_signed_all_of_it(
    engine: Engine, now: datetime, run: Run
) -> None:
    with peer(50) as one, peer(51) as two, peer(52) as three:
        policy = f"{one.line}{two.line}{three.line}group g 2 w50 w51 w52\nquorum g\n"
        two.behave = three.behave = lambda: (422, b"leaf 3: balance of client:R below its quota\n")
        run(policy)
        closed = epochs.close(engine, 1, now)
        assert closed is not None
        assert run(policy).quorum_at is None
        assert epochs.epoch(engine, 1).final_at is None
        states = checkpoints.witnesses(engine, [witness(n).key for n in (50, 51)])
        assert (states[0].fault, states[0].accuses) == ("", False)
        assert "422: leaf 3: balance of client:R below its quota" in states[1].fault
        assert (states[1].signed, states[1].accuses) == (None, True)
        two.behave = None
        assert run(policy).quorum_at is not None
        assert epochs.epoch(engine, 1).final_at is not None
        three.behave = None  # one more than needed is asked all the same
        assert len(run(policy).witnesses) == 3


ANSWERS: dict[str, tuple[tuple[int, bytes], str]] = {
    "nothing": ((200, b""), "no signature of w50.example"),
    "garbage": ((200, b"\xff\xfe\n"), "not a line"),
    "another's signature": (
        (200, witness(51).sign("x\n", time_s=1).encode().encode()),
        "no signature of w50.example",
    ),
    "of another text": (
        (200, witness().sign("x\n", time_s=1).encode().encode()),
        "does not fit",
    ),
    "too many lines": ((200, b"x\n" * 17), "more than 16 lines"),
    "refusal": ((403, b"unknown key\x1b[31m\n"), "403: unknown key [31m"),
    "redirect": ((307, b""), "307"),
    "conflict without size": ((409, b"x\n"), "without the size"),
    "conflict beyond": ((409, b"999999\n"), "it has seen 999999 leaves"),
    "conflict again": ((409, b"0\n"), "it answered 409: 0"),
    "endless": ((200, b"x" * 1_000_000), "not a line"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_whatever_a_witness_answers_the_log_goes_on(
    engine: Engine, now: datetime, run: Run, case: str
) -> None:
    answer, words = ANSWERS[case]
    with peer(50) as one, peer(51) as two:
        one.behave = lambda: answer
        policy = f"{one.line}{two.line}group g all w50 w51\nquorum g\n"
        found = run(policy)
        assert found.witnesses == (witness(51).key.encode(),)
        assert found.quorum_at is None
        (state,) = checkpoints.witnesses(engine, [witness().key])
        assert words in state.fault
        assert state.accuses is (case == "conflict beyond")
        settled(engine, now)
        assert run(policy).size > found.size


def test_a_witness_that_does_not_answer_holds_up_nobody(
    engine: Engine, reservations: Reservations, now: datetime, run: Run
) -> None:
    released = threading.Event()

    def hang() -> tuple[int, bytes]:
        released.wait(60)
        return 500, b""

    with socket.socket() as closed, peer(50) as slow, peer(51) as good:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        gone = Peer(number=52, url=f"http://127.0.0.1:{closed.getsockname()[1]}")
        slow.behave = hang
        policy = f"{slow.line}{good.line}{gone.line}group g any w50 w51 w52\nquorum g\n"
        first = run("quorum none\n")
        notary = Notary(signer=signer, policy=lambda: Policy.parse(policy))
        bind(Context(engine=engine, reservations=reservations, lease_margin_s=1.0, notary=notary))
        for _ in range(3):
            settled(engine, now)
            checkpoint()  # returns while the slow one hangs
            while witness(51).key.encode() not in checkpoints.newest(engine).witnesses:
                checkpoint()
        assert slow.asked[0] == 0
        assert checkpoints.newest(engine).size > first.size
        released.set()
        cosign.finish()
        gone_state, slow_state = checkpoints.witnesses(engine, [witness(52).key, witness(50).key])
        assert "does not answer" in gone_state.fault
        assert "no answer within" in slow_state.fault or "500" in slow_state.fault


def test_slow_witnesses_sign_the_same_checkpoints(
    engine: Engine, reservations: Reservations, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is asked for what the other was asked for last, not for what is newest by then."""
    monkeypatch.setattr(cosign, "ANSWER_S", 60.0)
    install(engine, now)

    def free(number: int) -> bool:
        return witness(number).key.encode() not in cosign._asked

    with peer(50) as one, peer(51) as two:
        policy = Policy.parse(f"{one.line}{two.line}group g all w50 w51\nquorum g\n")
        context = Context(engine=engine, reservations=reservations, lease_margin_s=1.0)

        def ask() -> checkpoints.Stored:
            settled(engine, now)
            sign(engine, now)
            cosign.ask(context, policy, checkpoints.newest(engine))
            return checkpoints.newest(engine)

        one.gate, two.gate = threading.Semaphore(0), threading.Semaphore(0)
        one.behave = lambda: (500, b"")  # a hiccup: from now on they are out of step
        ask()
        one.gate.release()
        await_true("the first is free", lambda: free(50))
        one.behave = None
        second = ask()  # of the first one alone
        two.gate.release()
        await_true("the second is free", lambda: free(51))
        ask()
        one.gate.release()
        two.gate.release()
        cosign.finish()
        assert (one.size, two.size) == (second.size, second.size)
        assert checkpoints.at(engine, second.size).quorum_at is not None


def test_who_could_not_be_asked_for_want_of_a_thread_is_asked_again(
    engine: Engine, now: datetime, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with peer(50) as one, peer(51) as two:
        policy = f"{one.line}{two.line}group g all w50 w51\nquorum g\n"
        with monkeypatch.context() as short:
            short.setattr(cosign.threading.Thread, "start", no_thread)
            with pytest.raises(RuntimeError, match="no more threads"):
                run(policy)
        assert run(policy).quorum_at is not None


def no_thread(_thread: threading.Thread) -> None:
    raise RuntimeError("no more threads")


@pytest.mark.parametrize("known", [True, False])
def test_another_root_of_the_same_size_is_an_accusation(
    engine: Engine, now: datetime, run: Run, *, known: bool
) -> None:
    """Whether or not we know that it has signed that size."""
    with peer(50) as one:
        policy = f"{one.line}quorum w50\n"
        size = run(policy).size if known else run("quorum none\n").size
        settled(engine, now)
        one.behave = lambda: (409, f"{leaves.size(engine)[0]}\n".encode())
        assert run(policy).size > size
        (state,) = checkpoints.witnesses(engine, [witness().key])
        assert "another root of the same" in state.fault
        assert state.accuses


def test_what_another_of_us_has_shown_a_witness_is_no_accusation(
    engine: Engine, reservations: Reservations, now: datetime, run: Run
) -> None:
    with peer(50) as one:
        policy = f"{one.line}quorum w50\n"
        older = run("quorum none\n")
        settled(engine, now)
        size = run("quorum none\n").size
        one.behave = lambda: (409, f"{size}\n".encode())
        context = Context(engine=engine, reservations=reservations, lease_margin_s=1.0)
        cosign.ask(context, Policy.parse(policy), older)
        cosign.finish()
        (state,) = checkpoints.witnesses(engine, [witness().key])
        assert (state.fault, state.accuses) == (f"it has signed {size} leaves already", False)


# The key file ------------------------------------------------------------------------------------


def keep(database_url: str, place: Path, now: datetime, **settings: object) -> str:
    faults = logkey.keep_key(database_url, Settings.model_validate(settings), place, now)
    return "; ".join(faults)


def test_the_key_is_made_once_for_its_owner_alone(
    engine: Engine, database_url: str, now: datetime, tmp_path: Path
) -> None:
    assert keep(database_url, tmp_path, now) == ""
    path = tmp_path / logkey.FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    made = path.read_bytes()
    (known,) = checkpoints.keys(engine)
    assert known.key.name.startswith("clearlane.local/")
    assert keep(database_url, tmp_path, now) == ""
    assert path.read_bytes() == made
    path.unlink()
    assert "is missing; restore it" in keep(database_url, tmp_path, now)
    assert not path.exists()


def test_a_name_is_chosen_before_the_key_is_made(
    engine: Engine, database_url: str, now: datetime, tmp_path: Path
) -> None:
    keep(database_url, tmp_path, now, log_origin="log.example/7")
    (known,) = checkpoints.keys(engine)
    assert known.key.name == "log.example/7"
    with pytest.raises(BadInput, match="CLEARLANE_LOG_ORIGIN: 'b' is not"):
        keep(database_url, tmp_path, now, log_origin="b")


def test_the_key_of_another_log_is_refused(
    engine: Engine, database_url: str, now: datetime, tmp_path: Path
) -> None:
    sign(engine, now)
    (tmp_path / logkey.FILE).write_text(f"{signer(2).encode()}\n")
    (tmp_path / logkey.FILE).chmod(0o600)
    assert "is not the log's key" in keep(database_url, tmp_path, now)


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (signer().encode(), 0o640, r"others may use .*log.key \(mode 0640\); run `chmod 600"),
        (signer().encode(), 0o604, "others may use"),
        ("", 0o600, "holds no key"),
        (signer().encode()[:-3], 0o600, "holds no key"),
        (witness().encode(), 0o600, "the key of a witness"),
        ("\xff\n", 0o600, "holds no key"),
    ],
)
def test_a_file_that_cannot_be_the_key_is_refused_without_showing_it(
    tmp_path: Path, text: str, mode: int, words: str
) -> None:
    path = tmp_path / "log.key"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(BadInput, match=words) as refused:
        logkey.read(path, None)
    assert text[-20:-4] == "" or text[-20:-4] not in str(refused.value)


@pytest.mark.parametrize("origin", ["a b", "a+b", "", "ü", "x" * 101, "a\n"])
def test_a_name_that_no_note_can_carry_is_refused(
    monkeypatch: pytest.MonkeyPatch, origin: str
) -> None:
    from workers.settings import load_settings

    monkeypatch.setenv("CLEARLANE_LOG_ORIGIN", origin)
    if not origin:
        assert load_settings().log_origin is None
        return
    with pytest.raises(BadInput, match="CLEARLANE_LOG_ORIGIN"):
        load_settings()


def test_a_rotation_that_is_cut_off_ends_with_the_key_that_signs(
    engine: Engine,
    database_url: str,
    now: datetime,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep(database_url, tmp_path, now)
    path = tmp_path / logkey.FILE
    old = logkey.load(engine, path, None)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # before the log has it
        patch.setattr(checkpoints, "rotate", killed)
        with pytest.raises(KeyboardInterrupt):
            logkey.rotate(engine, path, None, now)
    assert logkey.load(engine, path, None) == old
    with monkeypatch.context() as patch:  # and after it
        patch.setattr(logkey, "_put", killed)
        with pytest.raises(KeyboardInterrupt):
            logkey.rotate(engine, path, None, now)
    new = logkey.load(engine, path, None)
    assert new != old
    assert checkpoints.keys(engine)[0].key == new.key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert logkey.rotate(engine, path, None, now).name == old.name
