"""A replica signs what it has replayed, and convicts a log that lies."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.clearing import Clearing
from ledger.errors import BadInput, ClearlaneError, Conflict
from ledger.proof import entries
from ledger.proof.checkpoint import Checkpoint
from ledger.proof.merkle import leaf_hash, verify_inclusion
from ledger.proof.notes import Note, Signature, Signer
from ledger.proof.receipts import Receipt
from tests.proof.histories import Ledger, everything
from tests.replicas import LOG_SIGNER, NOW_S, SIGNER, Beside, FakeLog
from workers.replica import replica as replicas
from workers.replica import store
from workers.replica.evidence import Evidence
from workers.replica.faults import Refused
from workers.replica.follow import Follower
from workers.replica.memory import Memory
from workers.replica.source import Source
from workers.replica.standing import stands


def long_history(tasks: int) -> Ledger:
    """More leaves than fit one page, or one tile of pages."""
    ledger = Ledger(Clearing(theta_plus_ub=10**9))
    ledger.open_system()
    ledger.open("client:R", 0)
    ledger.open("agent:A", 0)
    ledger.mint("client:R", 10**12)
    for _ in range(tasks):
        ledger.settle("client:R", "agent:A", 1000)
    return ledger


class Scene:
    """A log and a replica."""

    def __init__(self, directory: Path, url: str, log: FakeLog) -> None:
        self.log = log
        self.now_s = NOW_S
        self.replica = Beside(directory, url, lambda: self.now_s)

    def signed(self, old: int, size: int | None = None) -> Note:
        """The checkpoint with the replica's signature, which is verified."""
        line = self.replica.sign(self.log.offer(old, size))
        note = self.log.note(size)
        note = note.signed(Signature.parse(line.removesuffix("\n")))
        assert {found.key for found in note.verified_by([SIGNER.key])} == {SIGNER.key}
        return note

    def refused(self, old: int, size: int | None = None) -> Refused:
        with pytest.raises(Refused) as caught:
            self.replica.sign(self.log.offer(old, size))
        return caught.value


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    log = FakeLog(everything().leaves)
    with log.served() as url:
        yield Scene(tmp_path / "state", url, log)


def test_what_was_replayed_is_signed_with_the_time(scene: Scene) -> None:
    size = len(scene.log.leaves)
    note = scene.signed(0)
    (found,) = note.verified_by([SIGNER.key])
    assert found.time_s == NOW_S
    head = scene.replica.head()
    assert head.signed is not None
    assert (head.size, head.signed.size, head.signed.time_s) == (size, size, NOW_S)
    assert head.signed.root == Checkpoint.parse(note.text).root


def test_state_accounts_and_tasks_are_kept_between_two_runs(scene: Scene) -> None:
    """A replica that forgot a task, a balance or its place in an epoch would refuse the rest."""
    rest = [size for size in range(1, len(scene.log.leaves) + 1) if at_rest(scene.log, size)]
    assert len(rest) > 10
    signed = 0
    for size in rest:
        scene.signed(signed, size)
        signed = size
        head = scene.replica.head()
        assert (head.size, head.signed and head.signed.size) == (size, size)


def at_rest(log: FakeLog, size: int) -> bool:
    """Whether a log would publish so many leaves: no genesis or close is cut."""
    kinds = [json.loads(leaf) for leaf in log.leaves[: size + 1]]
    last, following = kinds[size - 1], kinds[size:]
    if last["type"] in ("clear", "top_up"):
        return False
    return not (following and "balance" in following[0]) and size > 3


def test_many_pages_and_tiles_are_replayed_and_read_once(tmp_path: Path) -> None:
    log = FakeLog(long_history(1500).leaves)
    with log.served() as url:
        scene = Scene(tmp_path / "state", url, log)
        scene.signed(0, 700)
        scene.signed(700, 1024)
        log.asked.clear()
        scene.signed(1024, 1300)
        assert [path for path in log.asked if "entries" in path] == [
            "tile/entries/004",
            "tile/entries/005.p/20",
        ]
        # An earlier size than was replayed: its root is known without the log.
        assert scene.replica.poll() == ""
        assert scene.replica.head().size == len(log.leaves)
        log.asked.clear()
        scene.signed(1300, 1400)
        assert [path for path in log.asked if path.startswith("tile")] == []


def test_time_never_runs_backwards(scene: Scene) -> None:
    scene.signed(0, 20)
    scene.now_s -= 500
    (found,) = scene.signed(20).verified_by([SIGNER.key])
    assert found.time_s == NOW_S
    scene.now_s += 700
    (found,) = scene.signed(len(scene.log.leaves)).verified_by([SIGNER.key])
    assert found.time_s == NOW_S + 200


def test_an_offer_must_start_from_what_was_signed(scene: Scene) -> None:
    scene.signed(0, 20)
    found = scene.refused(0)
    assert (found.status, found.signed_size) == (409, 20)
    found = scene.refused(15, 22)
    assert (found.status, found.signed_size) == (409, 20)
    assert scene.signed(20, 20)  # again, as a client that got no answer asks
    assert scene.replica.evidence.cases() == []


def test_a_proof_that_proves_nothing_is_refused_and_convicts_nobody(scene: Scene) -> None:
    scene.signed(0, 20)
    offer = scene.log.offer(20)
    for proof in (offer.proof[:-1], (*offer.proof, bytes(32)), (bytes(32), *offer.proof[1:])):
        bad = type(offer)(old=20, proof=proof, note=offer.note, checkpoint=offer.checkpoint)
        with pytest.raises(Refused) as caught:
            scene.replica.sign(bad)
        assert caught.value.status == 422
        assert "the proof" in caught.value.reason
    assert scene.replica.evidence.cases() == []
    scene.signed(20)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda text: text.replace("old 0\n", "old 00\n"), 400),
        (lambda text: text.replace("old 0\n", "odd 0\n"), 400),
        (lambda text: text.replace("old 0\n\n", "old 0\n"), 400),
        (lambda text: text.replace("old 0\n", "old 0\n" + 64 * (43 * "A" + "=\n")), 400),
        (lambda text: text.replace("old 0\n", "old 0\nAAA\n"), 400),
        (lambda text: text.replace("old 0\n", "old 99999\n"), 400),
        (lambda text: text[:-1], 400),
        (lambda text: text.rpartition("—")[0], 400),
        (lambda text: text + "é".encode("latin-1").decode("latin-1") + "\n", 400),
    ],
)
def test_what_is_no_request_is_refused(
    scene: Scene, change: Callable[[str], str], status: int
) -> None:
    from workers.replica.offer import Offer

    text = change(scene.log.body(0).decode())
    with pytest.raises(Refused) as caught:
        scene.replica.sign(Offer.parse(text.encode()))
    assert caught.value.status == status


def test_another_log_and_an_unknown_key_are_refused(scene: Scene) -> None:
    scene.log.signer = Signer(name="other.test", kind=LOG_SIGNER.kind, seed=bytes([1] * 32))
    assert scene.refused(0).status == 404
    scene.log.signer = Signer(name=LOG_SIGNER.name, kind=LOG_SIGNER.kind, seed=bytes([9] * 32))
    assert scene.refused(0).status == 403
    assert "no signature of log.test/1" in scene.replica.poll()
    assert scene.log.asked == ["checkpoint"], "what nobody known has signed is not followed"


def test_the_log_may_change_its_key(tmp_path: Path) -> None:
    ledger = long_history(3)
    fresh = Signer(name=LOG_SIGNER.name, kind=LOG_SIGNER.kind, seed=bytes([7] * 32))
    ledger.key(LOG_SIGNER.key.encode(), fresh.key.encode())
    log = FakeLog(ledger.leaves)
    with log.served() as url:
        scene = Scene(tmp_path / "state", url, log)
        scene.signed(0)
        size = len(log.leaves)
        ledger.settle("client:R", "agent:A", 5)
        log.leaves = list(ledger.leaves)
        log.signer = fresh
        scene.signed(size)


# What a log may do, and what becomes of it.


def lies() -> list[Any]:
    """One leaf of each type, told wrongly; the tree is that of the lie, and signed."""
    found: dict[str, Any] = {}
    for index, leaf in enumerate(everything().leaves):
        kind = json.loads(leaf)["type"]
        found.setdefault(kind, pytest.param(index, id=kind))
    return list(found.values())


def falsified(leaf: bytes) -> bytes:
    """The same leaf in good form, with something in it that cannot be."""
    entry = json.loads(leaf)
    match entry["type"]:
        case "params":
            entry["params"]["tau_ppm"] = "20000000"
        case "open":
            entry["quota"] = "5"
        case "quota" | "freeze":
            entry["account"] = "client:unknown"
        case "key":
            entry["new"] = entry["old"]
        case "abort":
            entry["agent"] = "agent:unknown"
        case "epoch_close":
            entry["balances_sha256"] = "0" * 64
        case _:
            entry["postings"][0][1] = str(int(entry["postings"][0][1]) + 1)
    return entries.encode(entry)


@pytest.mark.parametrize("index", lies())
def test_a_leaf_that_does_not_follow_is_named_and_convicts_the_log(
    scene: Scene, index: int
) -> None:
    log = scene.log
    signed = max((s for s in range(4, index) if at_rest(log, s)), default=0)
    if signed:
        scene.signed(0, signed)
    log.leaves[index] = falsified(log.leaves[index])
    found = scene.refused(signed)
    assert found.status == 422
    assert found.reason.startswith(f"leaf {index}: ")
    case = scene.replica.case()
    assert case["kind"] == b"0001-broken"
    assert case["reason.txt"].decode().strip() == found.reason
    assert case[f"leaf-{index}.json"] == log.leaves[index]
    assert ("signed.note" in case) == bool(signed)
    # Whoever has the log's key can check that it has signed this very leaf.
    receipt = Receipt.parse(case[f"leaf-{index}.receipt"])
    receipt.note.verified_by([LOG_SIGNER.key])
    checkpoint = Checkpoint.parse(receipt.note.text)
    leaf = leaf_hash(case[f"leaf-{index}.json"])
    verify_inclusion(leaf, receipt.index, checkpoint.size, receipt.proof, checkpoint.root)
    assert scene.replica.head().size == signed, "nothing of it is kept"


@pytest.mark.parametrize("change", [{"type": "loan"}, {"v": 2}])
def test_a_leaf_of_a_later_version_is_not_signed_and_convicts_nobody(
    scene: Scene, change: dict[str, Any]
) -> None:
    scene.signed(0, 20)
    entry = json.loads(scene.log.leaves[20]) | change
    scene.log.leaves[20] = entries.encode(entry)
    found = scene.refused(20)
    assert found.status == 503
    words = f"leaf 20: this version does not know leaves of type '{entry['type']}', v {entry['v']}"
    assert found.reason == f"{words}; upgrade this replica"
    assert words in scene.replica.poll()
    assert scene.replica.evidence.cases() == []
    assert scene.replica.head().size == 20


@pytest.mark.parametrize("index", lies())
def test_an_entry_that_is_not_the_checkpoints_is_named(scene: Scene, index: int) -> None:
    """Nobody has signed it: it is refused as long as it is served, and convicts nobody."""
    scene.log.shown[index] = falsified(scene.log.leaves[index])
    found = scene.refused(0)
    assert found.status == 503
    assert found.reason.startswith(f"leaf {index}: the entry served has hash ")
    assert f"leaf {index}: " in scene.replica.poll()
    assert scene.replica.evidence.cases() == []
    scene.log.shown.clear()
    scene.signed(0)


def test_a_task_that_was_settled_in_another_run_is_found(tmp_path: Path) -> None:
    ledger = long_history(300)
    log = FakeLog(ledger.leaves)
    with log.served() as url:
        scene = Scene(tmp_path / "state", url, log)
        scene.signed(0)
        size = len(log.leaves)
        ledger.tasks = 0
        for _ in range(3):
            ledger.settle("client:R", "agent:A", 1000)
        log.leaves = list(ledger.leaves)
        found = scene.refused(size)
        assert found.reason.startswith(f"leaf {size}: task 00000000-0000-0000-0000-000000000001 ")
        assert scene.replica.case()[f"leaf-{size}.json"] == log.leaves[size]


@pytest.mark.parametrize("signed", [3, 256, 300, 512, 700])
@pytest.mark.parametrize("rewritten", [0, 2, 255, 256, 299, 699])
@pytest.mark.parametrize("by_poll", [True, False])
def test_a_rewritten_log_is_told_by_its_first_leaf(
    tmp_path: Path, signed: int, rewritten: int, by_poll: bool
) -> None:
    if rewritten >= signed:
        return
    log = FakeLog([f"{n}".encode() for n in range(720)])
    with log.served() as url:
        scene = Scene(tmp_path / "state", url, log)
        plain(scene, signed)
        log.leaves[rewritten] = b"other"
        reason = scene.replica.poll() if by_poll else scene.refused(signed).reason
        assert reason.startswith(f"leaf {rewritten} was rewritten")
        case = scene.replica.case()
        assert case["kind"] == b"0001-rewritten"
        assert case[f"leaf-{rewritten}.json"] == b"other"
        both_are_signed(case)


def plain(scene: Scene, signed: int) -> None:
    """Have it sign leaves that mean nothing: the tree is what is looked at."""

    def apply(memory: Memory, leaf: int, _: bytes) -> None:
        memory.state.size = leaf + 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Memory, "apply", apply)
        scene.signed(0, signed)


def both_are_signed(case: dict[str, bytes]) -> None:
    notes = [Note.parse(case[name]) for name in ("signed.note", "offered.note")]
    for note in notes:
        assert note.verified_by([LOG_SIGNER.key])
    assert notes[0].verified_by([SIGNER.key]), "we have signed the one"
    assert notes[0].text != notes[1].text


@pytest.mark.parametrize("size", [20, 18])
def test_a_fork_is_told_by_its_first_leaf(scene: Scene, size: int) -> None:
    """Another root for as many leaves as were signed, or for fewer."""
    scene.signed(0, 20)
    scene.log.leaves[17] = falsified(scene.log.leaves[16])
    scene.log.size = size
    found = scene.refused(size, size)
    assert found.status == 409
    assert found.reason.startswith("leaf 17 is not the one that was replayed here: two roots for")
    case = scene.replica.case()
    assert case["kind"] == b"0001-forked"
    assert case["leaf-17.json"] == scene.log.leaves[17]
    both_are_signed(case)


def test_a_fork_whose_tiles_nobody_serves_convicts_all_the_same(scene: Scene) -> None:
    scene.signed(0, 20)
    offer = FakeLog([*scene.log.leaves[:19], b"other"]).offer(20, 20)
    with pytest.raises(Refused) as caught:
        scene.replica.sign(offer)
    assert caught.value.status == 409
    both_are_signed(scene.replica.case())


def test_a_shortened_log_is_refused(scene: Scene) -> None:
    """Not for one old checkpoint, which somebody on the way may have kept: when it stays so."""
    scene.signed(0, 22)
    old, new = 20, None
    gone = "leaf 20 is gone: the log has 20 leaves, after it had 22"
    waits = f"{gone}; that convicts it when it stays so for 60 s"
    said = asyncio.run(polled(scene, [(0, old), (59, old), (60, new), (61, old), (120, old)]))
    assert said == [waits, waits, "", waits, waits]
    assert scene.replica.evidence.cases() == []
    scene.log.size = new
    scene.signed(22)
    scene.log.size = old
    size = len(scene.log.leaves)
    (waiting, said_then) = asyncio.run(polled(scene, [(0, old), (60, old)]))
    assert waiting.startswith(f"leaf 20 is gone: the log has 20 leaves, after it had {size};")
    assert said_then == f"leaf 20 is gone: the log has 20 leaves, after it had {size}"
    case = scene.replica.case()
    assert case["kind"] == b"0001-shortened"
    both_are_signed(case)
    assert scene.refused(22).status == 422


async def polled(scene: Scene, looks: list[tuple[float, int | None]]) -> list[str]:
    """What troubles one run of a replica, at these times, by these sizes that the log shows."""
    now_s, said = [0.0], []
    with scene.replica.opened() as replica:
        async with Source(scene.replica.url, None) as source:
            follower = Follower(replica, source, clock_s=lambda: now_s[0])
            for now_s[0], scene.log.size in looks:
                try:
                    await follower.look()
                    said.append("")
                except ClearlaneError as error:
                    said.append(str(error))
            follower.close()
    return said


def test_offers_do_not_keep_a_replica_from_what_is_published(scene: Scene) -> None:
    """Who offers one history all the time may publish another."""
    sizes = [size for size in range(1, len(scene.log.leaves)) if at_rest(scene.log, size)]

    async def looks() -> list[int]:
        now_s, seen, signed = [0.0], [], 0
        with scene.replica.opened() as replica:
            async with Source(scene.replica.url, None) as source:
                follower = Follower(replica, source, poll_s=2.0, clock_s=lambda: now_s[0])
                for now_s[0], size in zip((0.0, 1.5, 2.5), sizes, strict=False):
                    scene.log.size = size
                    asked = asyncio.create_task(follower.sign(scene.log.offer(signed, size)))
                    await follower._wake.wait()
                    follower._wake.clear()
                    await follower.look()
                    await asked
                    signed = size
                    seen.append(scene.log.asked.count("checkpoint"))
                follower.close()
        return seen

    assert asyncio.run(looks()) == [1, 1, 2]


def test_evidence_stands_until_a_person_takes_it_away(scene: Scene) -> None:
    scene.signed(0, 20)
    scene.log.leaves[17] = falsified(scene.log.leaves[16])
    assert scene.refused(20).status == 422
    before = scene.replica.case()
    honest = everything().leaves
    scene.log.leaves = list(honest)
    found = scene.refused(20)
    assert (found.status, "0001-rewritten" in found.reason) == (422, True)
    assert "nothing is signed: leaf 17" in scene.replica.poll()
    assert scene.replica.case() == before
    (case,) = scene.replica.evidence.cases()
    case.rename(scene.replica.directory / "looked-at")
    scene.signed(20)


def test_evidence_is_never_overwritten(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path)
    first = evidence.keep("forked", "one", {"a": b"1"})
    second = evidence.keep("forked", "two", {"a": b"2"})
    assert [path.name for path in (first, second)] == ["0001-forked", "0002-forked"]
    assert (first / "a").read_bytes() == b"1"
    (tmp_path / "evidence" / ".unfinished-x").mkdir()
    assert len(evidence.cases()) == 2
    evidence.tidy()
    assert str(evidence.standing()).startswith("one (evidence/0001-forked)")


def test_a_second_process_and_another_log_are_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with (
        store.opened(state, "log.test/1"),
        pytest.raises(Conflict, match="another replica works on"),
        store.opened(state, "log.test/1"),
    ):
        pass
    with (
        pytest.raises(Conflict, match=r"a replica of log\.test/1, not of other"),
        store.opened(state, "other"),
    ):
        pass


def test_a_log_that_is_busy_is_waited_for(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.replica.source.BUSY_S", 0.01)
    page = f"tile/entries/000.p/{len(scene.log.leaves)}"
    scene.log.busy.update({page: 3, "checkpoint": 1})
    assert scene.replica.poll() == ""
    assert scene.log.asked.count(page) == 4
    scene.log.busy["checkpoint"] = 10**9
    monkeypatch.setattr("workers.replica.source.FETCH_S", 0.1)
    assert "checkpoint is answered with 429 for 0.1 s" in scene.replica.poll()


def test_what_the_log_does_not_serve_is_asked_for_again(scene: Scene) -> None:
    size = len(scene.log.leaves)
    scene.log.broken = {f"tile/0/000.p/{size}"}
    assert scene.refused(0).status == 503
    scene.log.broken = {"checkpoint"}
    assert "checkpoint is answered with 404" in scene.replica.poll()
    scene.log.broken = set()
    scene.signed(0)


def test_progress_is_saved_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash in a long replay costs what came since, also when an epoch's end was cut."""
    monkeypatch.setattr(replicas, "SAVE_LEAVES", 300)
    monkeypatch.setattr("workers.replica.follow.BATCH_PAGES", 1)
    log = FakeLog(long_history(1300).leaves)
    with log.served() as url:
        scene = Scene(tmp_path / "state", url, log)
        log.shown[1200] = b"x"
        scene.refused(0)
        assert scene.replica.head().size == 1024
        log.shown.clear()
        log.asked.clear()
        scene.signed(0)
        assert "tile/entries/003" not in log.asked


def test_another_key_on_a_state_is_refused(scene: Scene) -> None:
    other = Signer(name="replica2.test", kind=SIGNER.kind, seed=bytes([3] * 32))
    with store.opened(scene.replica.directory, LOG_SIGNER.name) as opened:
        opened.own(SIGNER.key)
        opened.own(SIGNER.key)
        with pytest.raises(
            Conflict, match=r"of the replica replica1\.test.*, not of replica2"
        ) as e:
            opened.own(other.key)
        assert "name a directory of its own" in str(e.value)
    scene.signed(0)
    assert scene.replica.head().vkey == SIGNER.key.encode()


def test_a_damaged_state_is_given_up_and_never_restored(scene: Scene) -> None:
    scene.signed(0)
    file = scene.replica.directory / store.FILE
    for damage in (b"no database" * 1000, file.read_bytes()[:4096] + b"\xff" * 40_000):
        file.write_bytes(damage)
        for look in (lambda: stands(scene.replica.directory, None), scene.replica.poll):
            with pytest.raises(BadInput, match=r"is damaged.*make a new key and an empty"):
                look()


def test_a_state_of_another_form_is_not_taken_for_a_broken_disk(scene: Scene) -> None:
    scene.signed(0)
    with sqlite3.connect(scene.replica.directory / store.FILE) as connection:
        connection.execute("PRAGMA user_version = 0")
        connection.execute("ALTER TABLE head DROP COLUMN vkey")
    for look in (lambda: stands(scene.replica.directory, None), scene.replica.poll):
        with pytest.raises(BadInput, match=r"has form 0, and .* form 1 alone; use the version"):
            look()


def test_a_replica_that_missed_the_change_of_key_says_what_to_do(tmp_path: Path) -> None:
    ledger = long_history(3)
    fresh = Signer(name=LOG_SIGNER.name, kind=LOG_SIGNER.kind, seed=bytes([7] * 32))
    log = FakeLog(ledger.leaves)
    with log.served() as url:
        scene = Scene(tmp_path / "state", url, log)
        scene.signed(0)
        size = len(log.leaves)
        ledger.key(LOG_SIGNER.key.encode(), fresh.key.encode())
        ledger.settle("client:R", "agent:A", 5)
        log.leaves, log.signer = list(ledger.leaves), fresh
        refused = scene.refused(size)
        assert refused.status == 403
        assert "check the new one and restart with it as --log-key" in refused.reason
        assert len(refused.reason) < 290, "the whole of it is answered"
        with store.opened(tmp_path / "state", LOG_SIGNER.name) as opened:
            replica = replicas.Replica(
                opened, Evidence(tmp_path / "state"), log_key=fresh.key, signer=SIGNER,
                clock_s=lambda: NOW_S,
            )  # fmt: skip
            assert replica.keys() == [fresh.key]
            asyncio.run(advanced(replica, url, log.note()))
            assert replica.size == len(log.leaves)


async def advanced(replica: replicas.Replica, url: str, note: Note) -> None:
    async with Source(url, None) as source:
        follower = Follower(replica, source)
        await follower.look()
        follower.close()


def test_what_cannot_be_reached_is_told_in_words(tmp_path: Path) -> None:
    said = Beside(tmp_path, "http://127.0.0.1:1/log", lambda: NOW_S).poll()
    assert "checkpoint: cannot connect to 127.0.0.1:1: Connection refused" in said
    assert "ssl" not in said
    said = Beside(tmp_path, "http://no.invalid/log", lambda: NOW_S).poll()
    assert "cannot connect to no.invalid:80: " in said


def test_a_checkpoint_within_an_epochs_close_convicts_by_its_last_leaf(tmp_path: Path) -> None:
    """Also where that leaf is the last of a page, and the log answers for a page beyond it."""
    ledger = long_history(247)
    ledger.mint("client:R", 2 * 10**12)
    ledger.close([])
    index = next(n for n, leaf in enumerate(ledger.leaves) if b'"clear"' in leaf)
    assert (index + 1) % 256 == 0
    log = FakeLog(ledger.leaves[: index + 1])
    answer = log.answer
    log.answer = lambda path: b"" if ".p/0" in path else answer(path)  # type: ignore[method-assign]
    with log.served() as url:
        scene = Scene(tmp_path / "state", url, log)
        said = scene.replica.poll()
        assert said == f"leaf {index}: it is the last, and epoch 1 is half closed"
        case = scene.replica.case()
        assert case[f"leaf-{index}.json"] == log.leaves[index]
        assert f"leaf-{index}.receipt" in case
        assert not any(".p/0" in path for path in log.asked)


def sql(*statements: str) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        with sqlite3.connect(file) as connection:
            for statement in statements:
                connection.execute(statement)

    return damage


def rewritten(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Something else in the state that is kept as JSON."""

    def damage(file: Path) -> None:
        with sqlite3.connect(file) as connection:
            kept = json.loads(connection.execute("SELECT state FROM head").fetchone()[0])
            change(kept)
            connection.execute("UPDATE head SET state = ?", (json.dumps(kept).encode(),))

    return damage


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda file: file.write_bytes(b""), "the file is empty"),
        (sql("UPDATE head SET state = x'00ff'"), "cannot be read"),
        (sql("UPDATE head SET state = CAST('{}' AS blob)"), "cannot be read: KeyError"),
        (sql("DELETE FROM head"), "it has no head"),
        (sql("UPDATE head SET size = size + 1"), "leaves were replayed"),
        (sql("UPDATE head SET size = -5"), "leaves were replayed"),
        (sql("DELETE FROM tile"), "cannot be read"),
        (sql("UPDATE tile SET hashes = zeroblob(length(hashes))"), "the tree has another root"),
        (sql("UPDATE account SET balance = 'x' WHERE name = 'agent:A'"), "cannot be read"),
        (sql("UPDATE account SET balance = '1' WHERE name = 'agent:A'"), "the balances sum to"),
        (sql("DELETE FROM account WHERE balance = '0'"), "accounts"),
        (sql("UPDATE head SET signed_note = 'x'"), "cannot be read"),
        (sql("UPDATE head SET signed_root = x'00'"), "is of another tree"),
        (sql("UPDATE head SET signed_size = signed_size - 1"), "is of another tree"),
        (rewritten(lambda kept: kept["replay"].pop("totals")), "cannot be read: KeyError"),
    ],
)
def test_a_damaged_state_ends_the_replica_and_convicts_nobody(
    scene: Scene, damage: Callable[[Path], None], why: str
) -> None:
    scene.signed(0, 22)
    damage(scene.replica.directory / store.FILE)
    with pytest.raises(BadInput, match=f"is damaged: .*{why}.*make a new key and an empty"):
        scene.replica.poll()
    if "empty" in why:
        with pytest.raises(BadInput, match="is damaged: the file is empty"):
            stands(scene.replica.directory, None)
    assert scene.replica.evidence.cases() == []


@pytest.mark.parametrize(
    ("damage", "size", "why"),
    [
        (
            "UPDATE tile SET hashes = zeroblob(length(hashes)) WHERE level = 0 AND number = 0",
            100,
            "the tiles do not add up",
        ),
        (f"INSERT INTO task VALUES (x'{701:032x}')", None, "not 700 settled tasks"),
    ],
)
def test_what_contradicts_a_damaged_state_convicts_nobody(
    tmp_path: Path, damage: str, size: int | None, why: str
) -> None:
    """Within it, where no start looks: found by an earlier checkpoint, or by the next task."""
    ledger = long_history(700)
    log = FakeLog(ledger.leaves)
    with log.served() as url:
        scene = Scene(tmp_path / "state", url, log)
        before = len(log.leaves)
        scene.signed(0, before)
        sql(damage)(scene.replica.directory / store.FILE)
        ledger.settle("client:R", "agent:A", 1000)
        log.leaves, log.size = list(ledger.leaves), size
        with pytest.raises(BadInput, match=f"is damaged: {why}"):
            scene.replica.poll()
        refused = scene.refused(0 if size else before, size)
        assert (refused.status, why in refused.reason) == (503, True)
        assert scene.replica.evidence.cases() == []


def test_once_the_log_has_changed_its_key_the_old_one_convicts_nobody(tmp_path: Path) -> None:
    """Whoever has stolen it: neither of the log nor of its next key."""
    ledger = long_history(3)
    fresh = Signer(name=LOG_SIGNER.name, kind=LOG_SIGNER.kind, seed=bytes([7] * 32))
    log = FakeLog(ledger.leaves)
    with log.served() as url:
        scene = Scene(tmp_path / "state", url, log)
        before = len(log.leaves)
        ledger.key(LOG_SIGNER.key.encode(), fresh.key.encode())
        ledger.settle("client:R", "agent:A", 5)
        log.leaves = list(ledger.leaves)
        size = len(log.leaves)
        assert scene.replica.poll() == "", "replayed, and not signed yet"
        scene.signed(0, before)
        scene.signed(before, before + 1)  # the old key's last
        forged = FakeLog([*log.leaves[:-1], b"other"])
        with pytest.raises(Refused) as caught:
            scene.replica.sign(forged.offer(before + 1, size))
        assert caught.value.status == 403
        log.leaves = list(forged.leaves)
        assert "no signature of log.test/1" in scene.replica.poll()
        assert scene.replica.evidence.cases() == []
        log.leaves, log.signer = list(ledger.leaves), fresh
        scene.signed(before + 1, size)


def test_a_key_leaf_of_another_log_is_refused(tmp_path: Path) -> None:
    ledger = long_history(3)
    keys = [
        Signer(name="other.test", kind=LOG_SIGNER.kind, seed=bytes([n] * 32)).key.encode()
        for n in (7, 8)
    ]
    ledger.key(*keys)
    log = FakeLog(ledger.leaves)
    with log.served() as url:
        scene = Scene(tmp_path / "state", url, log)
        assert "it has a key of 'other.test'; the log is 'log.test/1'" in scene.replica.poll()
        assert scene.replica.case()["kind"] == b"0001-broken"


def test_where_evidence_cannot_be_read_nothing_is_signed(scene: Scene) -> None:
    scene.signed(0, 22)
    place = scene.replica.directory / "evidence"
    place.write_text("no directory")
    found = scene.refused(22)
    assert found.status == 503
    assert "evidence: Not a directory" in found.reason
    assert "Not a directory" in str(scene.replica.evidence.standing())
    place.unlink()
    scene.signed(22)


def test_the_files_are_for_their_owner(scene: Scene) -> None:
    with scene.replica.opened() as replica:
        replica.troubled("x")
        files = list(scene.replica.directory.iterdir())
        assert {file.suffix for file in files} >= {"", ".sqlite", ".sqlite-wal", ".sqlite-shm"}
        assert {file.stat().st_mode & 0o077 for file in files} == {0}


@pytest.mark.parametrize("url", ["http://u:secret@", "http://u:secret@h:x/log", "http://[secret/"])
def test_a_url_that_is_none_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(BadInput, match="names no host or port") as caught:
        Source(url, None)
    assert "secret" not in str(caught.value)
