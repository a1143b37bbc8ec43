"""A replica signs what it has replayed, and convicts a log that lies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.clearing import Clearing
from ledger.errors import Conflict
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
        case "quota":
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workers.replica.memory.Memory.apply", lambda *_: None)
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
    scene.signed(0, 22)
    scene.log.size = 20
    assert scene.replica.poll().startswith(
        "leaf 20 is gone: the log has 20 leaves, after it had 22"
    )
    case = scene.replica.case()
    assert case["kind"] == b"0001-shortened"
    both_are_signed(case)
    assert scene.refused(22).status == 422


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
