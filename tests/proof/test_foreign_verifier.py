"""What we write, read by others: two verifiers from a registry that share no code with ours.

`metamorphic-log` is written in Rust (trees, notes, checkpoints); `tlog-scales` in Python (tiles,
proofs, notes, cosignatures). Each test is skipped, with the reason, where its verifier is not
installed.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature

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
from ledger.proof.tiles import Bundle, bundle_path, encode_bundle, tile_path, tiles_of
from tests.proof import naive
from tests.proof.naive import LEAVES, span

SIZE = 600
ENTRIES = [b"entry %d" % number for number in range(SIZE)]
SIGNER = Signer(name="log.example/one", kind=LOG, seed=bytes(range(32)))
WITNESS = Signer(name="w1.example", kind=COSIGNER, seed=bytes([1]) * 32)


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
    publish(tmp_path)
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


def publish(root: Path) -> None:
    """The files of a log of ENTRIES, as a web server would serve them."""
    files = {"checkpoint": note_of(SIZE).encode().encode()}
    for tile in tiles_of(SIZE):
        unit, first = 256**tile.level, tile.number * 256
        hashes = [span((first + i) * unit, (first + i + 1) * unit) for i in range(tile.width)]
        files[tile_path(tile)] = b"".join(hashes)
        if tile.level == 0:
            entries = ENTRIES[first : first + tile.width]
            path = bundle_path(Bundle(number=tile.number, width=tile.width))
            files[path] = encode_bundle(entries)
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
