"""What we write, read by others: two verifiers from a registry that share no code with ours.

`metamorphic-log` is written in Rust (trees, notes, checkpoints); `tlog-scales` in Python (tiles,
proofs, notes, cosignatures). Each test is skipped, with the reason, where its verifier is not
installed.
"""

from __future__ import annotations

import random
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from sqlalchemy import Engine

from ledger import checkpoints, leaves
from ledger.proof import receipts
from ledger.proof.checkpoint import Checkpoint
from ledger.proof.errors import ProofRefused
from ledger.proof.merkle import (
    EMPTY_ROOT,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)
from ledger.proof.notes import COSIGNER, LOG, Note, Signer
from ledger.proof.policy import Policy
from ledger.proof.tiles import Bundle, Tile, bundle_path, encode_bundle, tile_path, tiles_of
from ledger.settle import settle
from tests.makers import claim, install, settlement, submit
from tests.proof import naive
from tests.proof.naive import LEAVES, span

SIZE = 600
ENTRIES = [b"entry %d" % number for number in range(SIZE)]
SIGNER = Signer(name="log.example/one", kind=LOG, seed=bytes(range(32)))
WITNESS = Signer(name="w1.example", kind=COSIGNER, seed=bytes([1]) * 32)
POLICY = Policy.parse(f"witness w1 {WITNESS.key.encode()}\nquorum w1\n")


def verifier(name: str, package: str) -> Any:
    return pytest.importorskip(name, reason=f"pip install {package} to compare with it")


def note_of(size: int) -> Note:
    body = Checkpoint(origin=SIGNER.name, size=size, root=span(0, size)).body()
    return Note(text=body, signatures=(SIGNER.sign(body), WITNESS.sign(body, time_s=1_790_000_000)))


def pairs() -> list[tuple[int, int]]:
    """Every pair to 40 and some beyond: 0 < first <= second."""
    chance = random.Random(3)
    small = [(first, second) for second in range(1, 41) for first in range(1, second + 1)]
    large = [(chance.randint(1, size), size) for size in chance.choices(range(41, SIZE), k=200)]
    return small + large


def test_the_rust_verifier_accepts_our_proofs() -> None:
    ml = verifier("metamorphic_log", "metamorphic-log")
    for first, size in pairs():
        index, root = first - 1, span(0, size)
        proof = list(inclusion_proof(index, size, naive.node))
        ml.verify_inclusion(index, size, LEAVES[index], proof, root)
        steps = list(consistency_proof(first, size, naive.node))
        ml.verify_consistency(first, size, steps, span(0, first), root)


def test_the_rust_verifier_refuses_what_we_refuse() -> None:
    """One hash of a proof changed, left out or added; an index beside the right one."""
    ml = verifier("metamorphic_log", "metamorphic-log")
    chance = random.Random(4)
    for first, size in chance.sample(pairs(), 150):
        index, root = first - 1, span(0, size)
        proof = list(inclusion_proof(index, size, naive.node))
        wrong: list[tuple[int, list[bytes]]] = [(index, [*proof, root]), (index + 1, proof)]
        if proof:
            wrong += [(index, proof[:-1]), (index, [*proof[:-1], root])]
        for at, hashes in wrong:
            with pytest.raises(ml.VerifyError):
                ml.verify_inclusion(at, size, LEAVES[index], hashes, root)
            with pytest.raises(ProofRefused):
                verify_inclusion(LEAVES[index], at, size, hashes, root)
        steps = list(consistency_proof(first, size, naive.node))
        for path in [[*steps, root], *([steps[:-1], [*steps[:-1], root]] if steps else [])]:
            with pytest.raises(ml.VerifyError):
                ml.verify_consistency(first, size, path, span(0, first), root)
            with pytest.raises(ProofRefused):
                verify_consistency(first, span(0, first), size, root, path)


def test_the_rust_verifier_accepts_our_checkpoints() -> None:
    ml = verifier("metamorphic_log", "metamorphic-log")
    older, newer = note_of(77), note_of(SIZE)
    vkeys = [SIGNER.key.encode()]
    head = ml.checkpoint_verify(newer.encode(), vkeys)
    assert (head.origin, head.size, head.root) == (SIGNER.name, SIZE, span(0, SIZE))
    assert ml.verify_signed_note(newer.encode(), vkeys) == 1
    steps = list(consistency_proof(77, SIZE, naive.node))
    ml.checkpoint_verify_consistency(older.encode(), newer.encode(), vkeys, steps)
    proof = list(inclusion_proof(500, SIZE, naive.node))
    ml.checkpoint_verify_inclusion(newer.encode(), vkeys, 500, leaf_hash(b"entry 500"), proof)
    with pytest.raises(ml.VerifyError):
        ml.checkpoint_verify(newer.encode().replace("600", "601"), vkeys)


def test_another_reader_accepts_our_signature_and_cosignature() -> None:
    tlog = verifier("tlog_scales.tlog", "tlog-scales")
    signing = verifier("tlog_scales.signing", "tlog-scales")
    note = note_of(SIZE)
    theirs = tlog.Checkpoint.from_text(note.encode())
    assert theirs.serialize() == note.encode()
    for signer in (SIGNER, WITNESS):
        vkey = signing.Vkey.from_string(signer.key.encode())
        assert vkey.serialize() == signer.key.encode()
        assert vkey.key_id.to_bytes(4, "big") == signer.key.key_id
        theirs.verify(vkey)
    forged = tlog.Checkpoint.from_text(note.encode().replace("600", "601"))
    with pytest.raises(InvalidSignature):
        forged.verify(signing.Vkey.from_string(WITNESS.key.encode()))


def test_we_accept_anothers_signature() -> None:
    tlog = verifier("tlog_scales.tlog", "tlog-scales")
    signing = verifier("tlog_scales.signing", "tlog-scales")
    signer = signing.PlainEd25519Signer(SIGNER.name, SIGNER.seed)
    theirs = tlog.Checkpoint.make_signed(SIGNER.name, 77, span(0, 77), [signer])
    note = Note.parse(theirs.serialize())
    assert [signed.key for signed in note.verified_by([SIGNER.key])] == [SIGNER.key]
    assert Checkpoint.parse(note.text).root == span(0, 77)


def test_another_reader_reads_our_tiles(tmp_path: Path) -> None:
    backend = verifier("tlog_scales.backend", "tlog-scales")
    reading = verifier("tlog_scales.reader", "tlog-scales")
    publish(tmp_path, note_of(SIZE), hashes_of, entries_of)
    reader = reading.TilesReader(backend.LocalBackend(tmp_path))
    assert reader.get_checkpoint().size == SIZE
    assert reader.calculate_root_hash() == span(0, SIZE)
    assert [reader.get_entry(index) for index in range(SIZE)] == ENTRIES
    for first, size in pairs():
        proof = reader.get_inclusion_proof(first - 1, size)
        assert tuple(proof.node_hashes) == inclusion_proof(first - 1, size, naive.node)
        proof.check(LEAVES[first - 1], span(0, size))
        steps = reader.get_consistency_proof(first, size)
        assert tuple(steps.node_hashes) == consistency_proof(first, size, naive.node)
        steps.check(span(0, first), span(0, size))


def test_where_others_decide_as_we_do() -> None:
    """Nothing is consistent with everything, and a tree with itself, by an empty proof."""
    tlog = verifier("tlog_scales.tlog", "tlog-scales")
    for old, new in [(0, 0), (0, 5), (5, 5)]:
        tlog.ConsistencyProof(old, new, []).check(span(0, old), span(0, new))
        verify_consistency(old, span(0, old), new, span(0, new), [])
        with pytest.raises(tlog.ConsistencyProofInvalid):
            tlog.ConsistencyProof(old, new, [LEAVES[0]]).check(span(0, old), span(0, new))
        with pytest.raises(ProofRefused):
            verify_consistency(old, span(0, old), new, span(0, new), [LEAVES[0]])
    assert span(0, 0) == EMPTY_ROOT


# Receipts of a real log ---------------------------------------------------------------------------

Check = Callable[[str, bytes], None]
Refusals = tuple[type[Exception], ...]


def outer(text: str) -> tuple[int, list[bytes], str]:
    """A receipt's index, hashes and note: c2sp.org/tlog-proof, which neither library reads."""
    head, _, note = text.partition("\n\n")
    header, index, *hashes = head.split("\n")
    assert header == "c2sp.org/tlog-proof@v1"
    assert index.startswith("index ")
    return int(index.removeprefix("index ")), [b64decode(line) for line in hashes], note


def in_python() -> tuple[Check, Refusals]:
    tlog = verifier("tlog_scales.tlog", "tlog-scales")
    signing = verifier("tlog_scales.signing", "tlog-scales")
    tiles = verifier("tlog_scales.tiles", "tlog-scales")

    def check(text: str, entry: bytes) -> None:
        index, hashes, note = outer(text)
        head = tlog.Checkpoint.from_text(note)
        for signer in (SIGNER, WITNESS):
            head.verify(signing.Vkey.from_string(signer.key.encode()))
        proof = tlog.InclusionProof(index, head.size, hashes)
        proof.check(tiles.leaf_hash(entry), head.root_hash)

    return check, (tlog.InclusionProofInvalid, InvalidSignature)


def in_rust() -> tuple[Check, Refusals]:
    ml = verifier("metamorphic_log", "metamorphic-log")

    def check(text: str, entry: bytes) -> None:
        index, hashes, note = outer(text)
        leaf = sha256(b"\0" + entry).digest()
        ml.checkpoint_verify_inclusion(note, [SIGNER.key.encode()], index, leaf, hashes)

    return check, (ml.VerifyError,)


@pytest.fixture
def settled(engine: Engine, now: datetime) -> list[int]:
    """Leaves of settlements in two tiles of a log that is signed and cosigned."""
    install(engine, now)
    tasks = []
    for _ in range(2):
        tasks += submit(engine, now, 200)
        done = [settlement(key, cost_ub=7) for key in claim(engine, now)]
        settle(engine, done, now=now)
    checkpoints.sign(engine, lambda: SIGNER, now)
    stored = checkpoints.newest(engine)
    line = WITNESS.sign(stored.note.text, time_s=1_790_000_000)
    checkpoints.cosign(engine, stored.size, WITNESS.key, line, now)
    found = sorted(leaves.leaf_of(engine, task) for task in tasks)
    return [found[0], 255, 256, found[-1]]


@pytest.mark.parametrize("reader", [in_python, in_rust])
def test_others_accept_our_receipts_and_nothing_that_was_changed(
    engine: Engine, settled: list[int], reader: Callable[[], tuple[Check, Refusals]]
) -> None:
    check, refusals = reader()
    for index in settled:
        text, entry = checkpoints.receipt(engine, index).encode(), leaves.entry(engine, index)
        assert b'"type":"settle"' in entry
        check(text, entry)
        receipts.verify(text, entry, SIGNER.key, POLICY)
        for what, changed in changes(text, entry):
            assert changed != (text, entry), what
            with pytest.raises(refusals):
                check(*changed)
            with pytest.raises(ProofRefused):
                receipts.verify(*changed, SIGNER.key, POLICY)


def changes(text: str, entry: bytes) -> Iterator[tuple[str, tuple[str, bytes]]]:
    """A receipt and its entry with one thing changed, everything in turn."""
    index, hashes, note = outer(text)
    yield "entry", (text, entry.replace(b"client:R", b"client:S"))
    yield "end of the entry", (text, entry[:-1])
    for other in (index - 1, index + 1):
        yield "index", (text.replace(f"index {index}\n", f"index {other}\n"), entry)
    for known in hashes:
        line = f"{b64encode(known).decode()}\n"
        yield "hash", (text.replace(line, f"{b64encode(flipped(known)).decode()}\n"), entry)
        yield "missing hash", (text.replace(line, ""), entry)
        yield "doubled hash", (text.replace(line, line + line), entry)
    origin, size, root, *_ = note.split("\n")
    for line, other in {
        origin: f"{origin}0",
        size: str(int(size) + 1),
        root: b64encode(flipped(b64decode(root))).decode(),
    }.items():
        yield line, (text.replace(f"\n{line}\n", f"\n{other}\n"), entry)


def flipped(data: bytes) -> bytes:
    """One bit of it."""
    return data[:-1] + bytes([data[-1] ^ 1])


def test_another_writer_makes_the_same_receipts(
    engine: Engine, settled: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From our tiles: to the last byte."""
    cli = verifier("tlog_scales.cli", "tlog-scales")
    note = checkpoints.newest(engine).note
    publish(tmp_path, note, partial(leaves.tile, engine), partial(leaves.bundle, engine))
    for index in settled:
        asked = cli.build_parser().parse_args(["gen-proof", str(tmp_path), str(index)])
        asked.func(asked)
        assert capsys.readouterr().out == checkpoints.receipt(engine, index).encode()


# Tiles -------------------------------------------------------------------------------------------


def hashes_of(tile: Tile) -> bytes:
    """Of the log of ENTRIES."""
    unit, first = 256**tile.level, tile.number * 256
    spans = [span((first + i) * unit, (first + i + 1) * unit) for i in range(tile.width)]
    return b"".join(spans)


def entries_of(bundle: Bundle) -> bytes:
    first = bundle.number * 256
    return encode_bundle(ENTRIES[first : first + bundle.width])


def publish(
    root: Path, note: Note, tile: Callable[[Tile], bytes], bundle: Callable[[Bundle], bytes]
) -> None:
    """The files of a log, as a web server would serve them."""
    files = {"checkpoint": note.encode().encode()}
    for wanted in tiles_of(Checkpoint.parse(note.text).size):
        files[tile_path(wanted)] = tile(wanted)
        if wanted.level == 0:
            part = Bundle(number=wanted.number, width=wanted.width)
            files[bundle_path(part)] = bundle(part)
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
